"""Between bytes and the numbers that networks read."""

import jax
import jax.numpy as jnp


def scaled(frames: jax.Array) -> jax.Array:
    """Bytes 0..255 -> float32 in -1..1; floats are in this range already."""
    if frames.dtype != jnp.uint8:
        return frames
    return frames.astype(jnp.float32) / 255 * 2 - 1
