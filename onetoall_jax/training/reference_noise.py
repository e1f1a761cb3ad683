"""Noise on the visible part of the reference, so that the model repairs, not copies."""

import jax
import jax.numpy as jnp


def is_black(pictures: jax.Array) -> jax.Array:
    """[B] bool: nothing is shown in [B,...] pixels of -1..1 (or all are zero)."""
    axes = tuple(range(1, pictures.ndim))
    top = jnp.max(pictures, axis=axes)
    return (top <= -0.99) | jnp.all(pictures == 0, axis=axes)


def size(log_size: jax.Array, *, double_exponential: bool) -> jax.Array:
    """Standard deviation of the noise from its normally drawn logarithm.

    The released code exponentiates twice, by an oversight: about 1.05 for the intended
    0.05, which leaves little of the picture.
    """
    once = jnp.maximum(jnp.exp(log_size), 1e-6)
    return jnp.exp(once) if double_exponential else once


def add(
    reference: jax.Array,
    mask: jax.Array,
    noise: jax.Array,
    sigma: jax.Array,
    chosen: jax.Array,
) -> jax.Array:
    """Reference plus noise where it is visible; not clamped.

    Args:
      reference: [B,H,W,3] in -1..1; a black one stays as it is.
      mask: [B,H,W], 1 = to be generated, 0 = visible.
      noise: standard normal, shaped as `reference`.
      sigma: [B] size of the noise.
      chosen: [B] bool, references that get it.
    """
    on = chosen & ~is_black(reference)
    visible = (mask < 0.5) & on[:, None, None]
    scaled = sigma[:, None, None, None] * noise
    return reference + jnp.where(visible[..., None], scaled, 0.0)
