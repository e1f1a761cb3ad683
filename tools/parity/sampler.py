"""Guided Euler steps of one segment, and a long clip from pixels to pixels."""

from collections.abc import Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from onetoall_jax import flow, pixels
from onetoall_jax.conversion import apply
from onetoall_jax.models import codec, onetoall
from onetoall_jax.models.codec import CodecConfig
from onetoall_jax.sampling import clip, guidance
from onetoall_jax.sampling.euler import Context, Denoiser, Inputs, Trace
from onetoall_jax.sampling.sampler import Sampler
from onetoall_jax.sampling.segments import CONTEXT_LATENTS
from onetoall_jax.sampling.settings import SamplingConfig
from tools.parity.case import Case
from tools.parity.dit import first, last, model_config, model_params
from tools.parity.vae import vae_config

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
    """Of one segment or, where the case has a plan, of a whole clip."""
    parts = _run_clip if "plan" in case.config else _run_segment
    yield from parts(case, dtype)


def _run_segment(case: Case, dtype: jnp.dtype) -> Iterator[tuple[str, np.ndarray]]:
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
    def forward(params: Any) -> Trace | None:
        return denoiser.draw(params, given, pose, noise, context, keep=True)[1]

    made = forward(model_params(case, config["model"]))
    assert made is not None
    yield "v_step0", first(made.velocity[0, :, skip:])
    for i, latents in enumerate(made.latents[:-1]):
        yield f"latents_after_{i}", first(latents[:, skip:])
    yield "latents", first(made.latents[-1])


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


def _run_clip(case: Case, dtype: jnp.dtype) -> Iterator[tuple[str, np.ndarray]]:
    """Latents of every segment, the first one decoded, and the frames of the clip."""
    config, arrays = case.config, case.inputs
    cfg = model_config(config["model"])
    made = codec.build(
        CodecConfig(dtype=dtype.name, vae=vae_config(config["vae"])), cfg.patch
    )
    expected = nn.meta.unbox(jax.eval_shape(made.init, jax.random.key(0)))
    codec_params = apply.convert("vae", case.weights("vae"), expected)
    settings = sampling_config(
        config,
        segment_frames=config["main_chunk"],
        overlap=config["overlap_frames"],
        plan="release",
        final_lengths=tuple(config["final_chunk_candidates"]),
    )
    sampler = Sampler(onetoall.functions(cfg, dtype=dtype), made, settings)
    noise = last(arrays[f"noise_{settings.segment_frames}"])
    drawn = clip.draw_segments(
        sampler,
        model_params(case, config["model"], "transformer"),
        codec_params,
        _pixel_inputs(arrays, made, codec_params),
        last(arrays["pose_video_u8"]),
        noise=noise,
    )
    frames = np.zeros(case.outputs["frames_u8"].shape, np.uint8)
    for i, (segment, latents, frames_u8, _) in enumerate(drawn):
        yield f"latents_seg{i}", first(latents[:, CONTEXT_LATENTS if i else 0 :])
        if i == 0:
            yield "decoded_seg0", first(jax.jit(made.decode)(codec_params, latents))
        frames[segment.start : segment.end] = frames_u8[0]
    yield "frames_u8", frames


def _pixel_inputs(
    arrays: Mapping[str, np.ndarray], made: codec.Codec, codec_params: Any
) -> Inputs:
    height, width, _ = arrays["image_u8"].shape
    picture = pixels.scaled(jnp.asarray(arrays["image_u8"])[None])
    mask = jnp.asarray(arrays["mask_u8"], jnp.float32)[None] / 255

    @jax.jit
    def latents(params: Any) -> tuple[jax.Array, jax.Array]:
        return (
            codec.reference_latents(made, params, picture, mask),
            codec.black_latents(made, params, height, width),
        )

    reference, black = latents(codec_params)
    return Inputs(
        prompt=jnp.asarray(arrays["prompt_embeds"]),
        negative=jnp.asarray(arrays["negative_prompt_embeds"]),
        reference=reference,
        black=black,
        reference_pose_u8=bytes_last(arrays["ref_pose_u8"]),
    )
