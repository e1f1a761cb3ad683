"""The training loss: squared velocity error, regions weighted, parts left out."""

import jax
import jax.numpy as jnp


def weights(
    region: jax.Array,
    keep: jax.Array,
    region_weight: jax.typing.ArrayLike,
    context: jax.Array | None = None,
    context_frames: int = 0,
) -> jax.Array:
    """Weight of every latent pixel, [B,f,h,w].

    Args:
      region: [B,f,h,w], 1 = face or hand.
      keep: [B,f,h,w], 0 = left out of the loss (on-screen text).
      region_weight: weight of a region.
      context: [B] bool; there the first `context_frames` frames are given, not learned.
    """
    region, keep = region.astype(jnp.float32), keep.astype(jnp.float32)
    weight = keep * ((region_weight - 1.0) * region + 1.0)
    if context is not None:
        given = jnp.arange(weight.shape[1]) < context_frames
        weight = jnp.where((context[:, None] & given)[..., None, None], 0.0, weight)
    return weight


def per_clip(predicted: jax.Array, target: jax.Array, weight: jax.Array) -> jax.Array:
    """[B] weighted squared error, in float32, over all elements [B,f,h,w,C].

    The mean counts the elements that are left out, so weights are not renormalised.
    """
    error = jnp.square(predicted.astype(jnp.float32) - target.astype(jnp.float32))
    return jnp.mean(error * weight[..., None], axis=(1, 2, 3, 4))
