"""Guided Euler steps of one segment, and a long clip from pixels to pixels."""

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from onetoall_jax import flow
from onetoall_jax.models import onetoall
from onetoall_jax.sampling import guidance
from onetoall_jax.sampling.euler import Context, Denoiser, Inputs
from onetoall_jax.sampling.segments import CONTEXT_LATENTS
from onetoall_jax.sampling.settings import SamplingConfig
from tools.parity.case import Case
from tools.parity.dit import first, last, model_config, model_params

CEILING = {
    "*": {"rel_l2": 2e-4, "max_abs": 2e-3},
    "latents_seg*": {"rel_l2": 3e-4, "max_abs": 1e-2},
    "frames_u8": {"max_abs": 3, "mean_abs": 0.05},
}


def sampling_config(config: Mapping[str, Any], **more: Any) -> SamplingConfig:
    """Our settings from the arguments of the released pipeline."""
    return SamplingConfig(
        steps=config["num_inference_steps"],
        shift=config["shift"],
        image_guidance=config["image_guidance_scale"],
        pose_guidance=config["pose_guidance_scale"],
        case1=config["case1"],
        black_pose=config.get("black_pose_cfg", True),
        pose_scale=config["controlnet_conditioning_scale"],
        **more,
    )


def bytes_last(x_u8: np.ndarray) -> jax.Array:
    """Official uint8 [B,3,F,H,W] -> [B,F,H,W,3]."""
    return jnp.asarray(last(x_u8))


def run(case: Case, dtype: jnp.dtype) -> Iterator[tuple[str, np.ndarray]]:
    """The first guided velocity, then the latents after every step."""
    inputs, config = case.inputs, case.config
    cfg = model_config(config["model"])
    settings = sampling_config(config)
    denoiser = Denoiser(
        onetoall.functions(cfg, dtype=dtype),
        guidance.table(settings),
        flow.sampling_sigmas(settings.steps, settings.shift),
    )
    given, pose = _inputs(inputs)
    noise = jnp.asarray(last(inputs["noise"]))
    context = None
    if config["token_replace"]:
        clean = jnp.asarray(last(inputs["prev_latents"]))
        context = Context(clean, jnp.ones(len(clean), bool))
    skip = CONTEXT_LATENTS if context else 0

    @jax.jit
    def forward(params: Any) -> tuple[jax.Array, jax.Array]:
        flags = context.given if context else None
        conditions = denoiser.conditions(params, given, pose)
        start = noise
        if context:
            start = start.at[:, :CONTEXT_LATENTS].set(context.latents)
        time = denoiser.sigmas[0] * flow.TIMESTEPS
        v = denoiser.velocity(params, given, conditions, start, time, flags)
        _, kept = denoiser.draw(params, given, pose, noise, context, keep=True)
        assert kept is not None
        return v, kept

    v, kept = forward(model_params(case, config["model"]))
    yield "v_step0", first(v[:, skip:])
    for i, latents in enumerate(kept[:-1]):
        yield f"latents_after_{i}", first(latents[:, skip:])
    yield "latents", first(kept[-1])


def _inputs(arrays: Mapping[str, np.ndarray]) -> tuple[Inputs, jax.Array | None]:
    def pair(*names: str) -> jax.Array:
        return jnp.concatenate([jnp.asarray(last(arrays[n])) for n in names], axis=-1)

    has_pose = "pose_video_u8" in arrays
    inputs = Inputs(
        prompt=jnp.asarray(arrays["prompt_embeds"]),
        negative=jnp.asarray(arrays["negative_prompt_embeds"]),
        reference=pair("ref_latent", "mask_latent"),
        black=pair("black_latent", "black_latent"),
        reference_pose_u8=bytes_last(arrays["ref_pose_u8"]) if has_pose else None,
    )
    return inputs, bytes_last(arrays["pose_video_u8"]) if has_pose else None
