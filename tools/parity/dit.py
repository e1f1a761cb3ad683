"""The denoiser: full model, stage 1 and plain Wan, with its intermediate outputs."""

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from onetoall_jax.conversion import apply
from onetoall_jax.models import onetoall
from onetoall_jax.models.denoiser import Model
from onetoall_jax.models.modules import modules
from onetoall_jax.models.settings import ModelConfig
from tools.parity.case import Case

CEILING = {"*": {"rel_l2": 2e-4, "max_abs": 2e-3}}
# The release rounds the pose path more often than we can follow.
BF16_FACTOR = {"*": 1.5, "pose_tokens": 2.0, "pose_residual_0": 2.0}
KINDS = {0: "wan", 1: "stage1", 2: "onetoall", 3: "onetoall"}


def model_config(config: Mapping[str, Any]) -> ModelConfig:
    """Our sizes from the constructor arguments of the released classes."""
    t = config["transformer"]
    stage = config["stage"]
    return ModelConfig(
        num_layers=t["num_layers"],
        num_heads=t["num_attention_heads"],
        head_dim=t["attention_head_dim"],
        mlp_dim=t["ffn_dim"],
        in_channels=t["in_channels"],
        out_channels=t["out_channels"],
        text_dim=t["text_dim"],
        time_dim=t["freq_dim"],
        patch=tuple(t["patch_size"]),
        eps=t["eps"],
        reference_layers=config["refextractor"]["num_layers"] if stage else 0,
        pose_layers=config["controlnet"]["num_layers"] if stage > 1 else 0,
    )


def model_params(case: Case, config: Mapping[str, Any], part: str | None = None) -> Any:
    """The case's weights through the converter, float32."""
    expected = onetoall.abstract(model_config(config))
    tensors = case.weights(part)
    return apply.convert(KINDS[config["stage"]], tensors, expected)


def last(x: np.ndarray) -> np.ndarray:
    """Channels from axis 1 to the end."""
    return np.moveaxis(x, 1, -1)


def first(x: Any) -> np.ndarray:
    """Channels from the end to axis 1."""
    return np.moveaxis(np.asarray(x, np.float32), -1, 1)


def pixels(x_u8: np.ndarray) -> np.ndarray:
    """Official uint8 [B,3,F,H,W] -> [B,F,H,W,3] in -1..1."""
    return last(x_u8).astype(np.float32) / 255 * 2 - 1


def run(case: Case, dtype: jnp.dtype) -> Iterator[tuple[str, np.ndarray]]:
    """Prefix, pose tokens, features, first block, pose residual, velocity."""
    cfg = model_config(case.config)
    params = model_params(case, case.config)
    inputs: Any = case.inputs
    call = case.config["call"]
    model = Model(cfg, dtype, modules(cfg, dtype))

    def forward(params: Any) -> dict[str, Any]:
        reference: Any = None
        pose: Any = None
        reference_pose: Any = None
        features = None
        if cfg.reference_layers:
            reference = jnp.asarray(last(inputs["image_latents"]))
            features = model.reference_features(params, reference, inputs["timestep"])
        if cfg.pose_layers:
            pose = pixels(inputs["pose_video_u8"])
            reference_pose = pixels(inputs["ref_pose_u8"])
        given = model.conditions(
            params,
            jnp.asarray(inputs["text"]),
            reference,
            pose,
            reference_pose,
            call.get("conditioning_scale", 1.0),
        )
        context = None
        if call.get("token_replace"):
            context = jnp.ones(len(inputs["timestep"]), bool)
        latents, t = jnp.asarray(last(inputs["latents"])), inputs["timestep"]
        stream = model.embed(params, latents, t, given, context)
        return {
            "given": given,
            "features": features,
            **_inside(model, params, stream, given, features),
            "out": model.velocity(params, latents, t, given, features, context),
        }

    made = jax.jit(forward)(params)
    if cfg.pose_layers:
        yield "prefix_latent", first(made["given"].prefix)
        yield "pose_tokens", np.asarray(made["given"].pose_tokens, np.float32)
    for i in range(cfg.reference_layers + 1 if cfg.reference_layers else 0):
        yield f"ref_feature_{i}", np.asarray(made["features"][i], np.float32)
    yield "block0", np.asarray(made["block0"], np.float32)
    if cfg.pose_layers:
        yield "pose_residual_0", np.asarray(made["pose_residual_0"], np.float32)
    yield "out", first(made["out"])


def _inside(
    model: Model, params: Any, stream: Any, given: Any, features: Any
) -> dict[str, Any]:
    """Output of block 0 and, with pose, the first residual."""
    if not model.cfg.lead_layers:
        shared = (stream.modulation, stream.rope, given.text["blocks"].block(0))
        blocks = params["dit"]["blocks"]
        return {"block0": model.modules.blocks.one(blocks, 0, stream.x, *shared)}
    block0 = model.lead_block(params, 0, stream.x, stream, given, features)
    if not model.cfg.pose_layers:
        return {"block0": block0}
    _, residual = model.pose_block(params, 0, block0 + given.pose_tokens, stream)
    return {"block0": block0, "pose_residual_0": residual}
