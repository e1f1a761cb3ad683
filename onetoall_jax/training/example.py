"""From a batch of pixels to what the network sees and what it should answer."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp

from onetoall_jax import flow, pixels
from onetoall_jax.training import reference_noise
from onetoall_jax.training.draws import Draws
from onetoall_jax.training.settings import TrainingConfig

Batch = Mapping[str, jax.Array]


class Encoders(NamedTuple):
    """What a step must know of latents.

    Attributes:
      clip: (params, frames [B,F,H,W,3] in -1..1) -> latents [B,f,h,w,C].
      reference: (params, picture [B,H,W,3] in -1..1, mask [B,H,W], 1 = to be generated)
        -> [B,1,h,w,2C].
      context_frames: latent frames that the network takes clean in token replace.
    """

    clip: Callable[..., jax.Array]
    reference: Callable[..., jax.Array]
    context_frames: int


@flax.struct.dataclass
class Example:
    """What the network sees and what it should answer, for a batch.

    Attributes:
      noisy, target: [B,f,h,w,C].
      timestep: [B] in 0..1000.
      reference: [B,1,h,w,2C].
      pose: [B,F,H,W,3], reference_pose: [B,1,H,W,3], both in -1..1.
      pose_scale: [B], 0 where the whole pose clip is black.
      context: [B] bool, or None where the program takes no clean context.
      region, keep: [B,f,h,w].
    """

    noisy: jax.Array
    target: jax.Array
    timestep: jax.Array
    reference: jax.Array
    pose: jax.Array
    reference_pose: jax.Array
    pose_scale: jax.Array
    context: jax.Array | None
    region: jax.Array
    keep: jax.Array


def prepare(
    encoders: Encoders, codec: Any, batch: Batch, draws: Draws, config: TrainingConfig
) -> Example:
    """Example of a batch (`onetoall_jax.batch`) and its draws.

    Stored latents are taken as they are; the reference is always encoded.

    Args:
      codec: parameters of the codec.
    """
    latents = batch.get("latents")
    if latents is None:
        latents = encoders.clip(codec, pixels.scaled(batch["frames_u8"]))
    reference = noisy_reference(batch, draws, config)
    mask = batch["reference_mask_u8"].astype(jnp.float32)
    pose = pixels.scaled(batch["pose_u8"])
    timestep = flow.training_timestep(draws.time)
    noisy, target = path(latents, draws.noise, timestep, rounded=config.round_sigma)
    context = None
    if config.token_replace:
        context = draws.context & (latents.shape[1] > encoders.context_frames)
        noisy = with_context(noisy, latents, context, encoders.context_frames)
    return Example(
        noisy=noisy,
        target=target,
        timestep=timestep,
        reference=encoders.reference(codec, reference, mask),
        pose=pose,
        reference_pose=pixels.scaled(batch["reference_pose_u8"])[:, None],
        pose_scale=1.0 - reference_noise.is_black(pose).astype(jnp.float32),
        context=context,
        region=batch["region_u8"],
        keep=batch["keep_u8"],
    )


def path(
    latents: jax.Array, noise: jax.Array, timestep: jax.Array, *, rounded: bool
) -> tuple[jax.Array, jax.Array]:
    """(noisy latents, velocity target) at the timesteps [B].

    Args:
      rounded: the released code's way: level, latents and noise in bfloat16 while the
        network is told the exact timestep.
    """
    dtype = jnp.bfloat16 if rounded else jnp.float32
    x, noise = latents.astype(dtype), noise.astype(dtype)
    sigma = flow.sigma_of(timestep).astype(dtype)
    return flow.noised(x, noise, sigma), flow.velocity_target(x, noise)


def with_context(
    noisy: jax.Array, latents: jax.Array, context: jax.Array, frames: int
) -> jax.Array:
    """Noisy latents whose first `frames` frames are clean where `context` [B] says."""
    given = jnp.arange(noisy.shape[1]) < frames
    clean = (context[:, None] & given)[..., None, None, None]
    return jnp.where(clean, latents.astype(noisy.dtype), noisy)


def noisy_reference(batch: Batch, draws: Draws, config: TrainingConfig) -> jax.Array:
    """Reference [B,H,W,3] with the noise that was drawn for it."""
    twice = config.reference_noise.double_exponential
    return reference_noise.add(
        pixels.scaled(batch["reference_u8"]),
        batch["reference_mask_u8"],
        draws.reference_noise,
        reference_noise.size(draws.reference_log_size, double_exponential=twice),
        draws.reference_chosen,
    )
