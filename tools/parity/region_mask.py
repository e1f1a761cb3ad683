"""Regions of a clip on the latent grid, and the loss that weighs them."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from data_pipeline import masks
from onetoall_jax import flow
from onetoall_jax.alignment import fit
from onetoall_jax.geometry import Geometry
from onetoall_jax.training import example, loss
from tools.parity.case import Case
from tools.parity.dit import first, last

CEILING = {"*": {"max_abs": 1e-3, "max_rel": 1e-5}}
Outputs = Iterator[tuple[str, np.ndarray]]


def run(case: Case, dtype: Any) -> Outputs:
    """Masks from key points, or the loss from masks."""
    return _masks(case) if "kp133" in case.inputs else _loss(case)


def _masks(case: Case) -> Outputs:
    keypoints, config = case.inputs["kp133"], case.config
    geometry = Geometry()
    size = config["height"], config["width"], geometry.temporal
    head, hand = masks.heads(keypoints, *size), masks.hands(keypoints, *size)
    region = np.maximum(head, hand)
    text = masks.keep(config["ocr_boxes"], len(keypoints), *size)
    made = {"face": head, "hand": hand, "text": text, "region": region}
    for name, mask in made.items():
        yield name, mask[..., None]
    latent = {}
    for name in ("region", "text"):
        resized = fit.train_fit(made[name][..., None], *config["out_hw"])
        yield f"{name}_resized", resized
        latent[name] = masks.to_latent(resized[..., 0], geometry)
        yield f"{name}_latent", latent[name][..., None]
    heavy, kept = (jnp.asarray(latent[name])[None] for name in ("region", "text"))
    weight = loss.weights(heavy, kept, config["face_weight"])
    yield "weight_latent", np.asarray(weight)[0, ..., None]


def _loss(case: Case) -> Outputs:
    inputs, config = case.inputs, case.config
    latents, noise, predicted = (
        jnp.asarray(last(inputs[n])) for n in ("latents", "noise", "prediction")
    )
    timestep = flow.training_timestep(jax.nn.sigmoid(jnp.asarray(inputs["u_normal"])))
    noisy, target = example.path(latents, noise, timestep, rounded=False)
    context, frames = None, config["frames_replaced"]
    if config["token_replace"]:
        context = jnp.ones(len(latents), bool)
        noisy = example.with_context(noisy, latents, context, frames)
    yield "noisy", first(noisy)
    yield "timestep", np.asarray(timestep)
    region, keep = (
        jnp.asarray(inputs[n][:, 0, :, ::8, ::8]) for n in ("region_mask", "text_mask")
    )
    weight = loss.weights(region, keep, config["face_weight"], context, frames)
    yield "loss", np.asarray(loss.per_clip(predicted, target, weight))
