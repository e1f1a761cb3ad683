"""Loss, gradients and AdamW steps of the three stages on recorded draws."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from onetoall_jax import flow, trees
from onetoall_jax.conversion import apply
from onetoall_jax.models import onetoall
from onetoall_jax.models.denoiser import CONTEXT_FRAMES
from onetoall_jax.training import example, optimizer, stages, step
from tools.parity import dit
from tools.parity import optimizer as recorded_optimizer
from tools.parity.case import Case

_DELTA = {"rel_l2": 0.03, "max_abs": 7.0}
CEILING = {
    "loss*": {"rel_l2": 1e-4, "max_abs": 2e-3},
    "grad_norm": {"rel_l2": 1e-4, "max_abs": 5e-3},
    "grad.*": {"rel_l2": 1e-3, "max_abs": 1e-3},
    "delta*": _DELTA,
}
# Gradients pass the pose path, which the release rounds more often than we can follow.
BF16_FACTOR = {"*": 1.5, "grad.*": 2.0}
LARGE, ROWS = 4096, 8  # of larger tensors the first rows are recorded
UPDATES = 3


def run(case: Case, dtype: jnp.dtype) -> Iterator[tuple[str, np.ndarray]]:
    """Loss before each of three updates, gradients and norm of the first, changes."""
    config = case.config
    model = config["model"]
    denoiser = onetoall.functions(dit.model_config(model), dtype=dtype)
    given = example_of(case)
    params = dit.model_params(case, model)
    patterns = stages.patterns(f"stage{config['stage']}")
    first, frozen = trees.split(params, patterns)
    text = jnp.asarray(case.inputs["text"])
    frames = CONTEXT_FRAMES

    @jax.jit
    def gradient(trainable: Any) -> tuple[jax.Array, Any]:
        def mean_loss(trainable: Any) -> jax.Array:
            whole = trees.join(trainable, frozen)
            weight = config["face_weight"]
            return jnp.mean(
                step.clip_losses(denoiser, whole, text, given, weight, frames)
            )

        return jax.value_and_grad(mean_loss)(trainable)

    settings = recorded_optimizer.config_of(config["optimizer"])
    tx = optimizer.transform(settings)

    @jax.jit
    def update(grads: Any, memory: Any, trainable: Any) -> tuple[Any, Any, Any]:
        direction, memory = tx.update(grads, memory, trainable)
        trainable = optimizer.apply(trainable, direction, settings.learning_rate)
        moved = jax.tree.map(lambda a, b: (a - b) / unit, trainable, first)
        return trainable, memory, moved

    trainable, memory = first, tx.init(first)
    kind, unit = dit.KINDS[model["stage"]], config["delta_unit"]
    for k in range(UPDATES):
        value, grads = gradient(trainable)
        yield f"loss{k}", np.asarray(value, np.float32)[None]
        if k == 0:
            yield from _official("grad.", kind, trees.join(grads, frozen), case)
            yield "grad_norm", np.asarray(jax.jit(optax.tree.norm)(grads))[None]
        trainable, memory, moved = update(grads, memory, trainable)
        moved = trees.join(moved, frozen)  # the table counts layers on a whole tree
        yield from _official(f"delta{k + 1}.", kind, moved, case)


def bf16_diff(case: Case, name: str) -> dict[str, float] | None:
    """Recorded deviation to judge an output by.

    The norm's own may be small by luck: one number's errors can cancel. It is judged by
    the worst recorded gradient.
    """
    recorded = case.info["bf16_diff"]
    if name != "grad_norm":
        return recorded.get(name)
    worst = max(d["rel_l2"] for n, d in recorded.items() if n.startswith("grad."))
    return {"rel_l2": worst}


def example_of(case: Case) -> example.Example:
    """The case's inputs and recorded draws as an example."""
    inputs, config = case.inputs, case.config
    latents, noise = (jnp.asarray(dit.last(inputs[n])) for n in ("latents", "noise"))
    timestep = flow.training_timestep(jnp.asarray(inputs["u"]))
    noisy, target = example.path(latents, noise, timestep, rounded=False)
    clips, context = len(latents), None
    if config["token_replace"]:
        context = jnp.ones(clips, bool)
        frames = CONTEXT_FRAMES
        noisy = example.with_context(noisy, latents, context, frames)
    pose = reference_pose = jnp.zeros((clips, 1, 16, 16, 3))
    if "pose_video_u8" in inputs:
        pose = jnp.asarray(dit.pixels(inputs["pose_video_u8"]))
        reference_pose = jnp.asarray(dit.pixels(inputs["ref_pose_u8"]))
    return example.Example(
        noisy=noisy,
        target=target,
        timestep=timestep,
        reference=jnp.asarray(dit.last(inputs["image_latents"])),
        pose=pose,
        reference_pose=reference_pose,
        pose_scale=jnp.full(clips, config["conditioning_scale"], jnp.float32),
        context=context,
        region=_to_latents(inputs["face_mask_u8"], latents.shape[2]),
        keep=_to_latents(inputs["keep_mask_u8"], latents.shape[2]),
    )


def _to_latents(mask: np.ndarray, height: int) -> jax.Array:
    """[B,1,f,H,W] in pixels -> [B,f,h,w] by nearest: every 8th row and column."""
    stride = mask.shape[-2] // height
    return jnp.asarray(mask[:, 0, :, ::stride, ::stride])


def _official(
    prefix: str, kind: str, tree: Any, case: Case
) -> Iterator[tuple[str, np.ndarray]]:
    """Recorded tensors of a tree, under official names and in official layout."""
    for name, value in apply.export(kind, tree):
        if prefix + name in case.outputs:
            large = value.size > LARGE
            yield prefix + name, value[:ROWS] if large else value
