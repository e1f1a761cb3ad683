"""Named random streams: one key in, one key for each purpose out."""

import zlib

import jax


def stream(key: jax.Array, name: str) -> jax.Array:
    """Key of the purpose `name`; independent of the order in which streams are made."""
    return jax.random.fold_in(key, zlib.crc32(name.encode()) & 0x7FFFFFFF)


def at_step(key: jax.Array, step: jax.Array | int) -> jax.Array:
    """Key of one training step, a pure function of the run's key and the step."""
    return jax.random.fold_in(key, step)
