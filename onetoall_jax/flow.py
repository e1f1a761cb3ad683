"""The straight path from data to noise: levels, noisy latents, velocity.

`sigma` is the share of noise in [0, 1]; `timestep` = 1000 * sigma is what the model
reads.
"""

from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np

TIMESTEPS = 1000
Numbers = TypeVar("Numbers", float, np.ndarray, jax.Array)


def shift_sigma(sigma: Numbers, shift: float) -> Numbers:
    """Moves noise levels towards 1 for large latents: shift s / (1 + (shift - 1) s).

    Args:
      sigma: any shape, in [0, 1].
      shift: positive; 1 changes nothing.
    Raises:
      ValueError: shift is not positive.
    Source: Esser et al. 2024, resolution-dependent shifting.
    """
    if shift <= 0:
        raise ValueError(f"shift must be positive, not {shift}")
    return shift * sigma / (1 + (shift - 1) * sigma)


def sampling_sigmas(steps: int, shift: float) -> np.ndarray:
    """Noise levels of `steps` Euler steps, [steps + 1] float32, from 1 down to 0.

    As released, the end of the even grid is the shifted 1/1000, and the whole grid is
    then shifted (again, for its end). Worked out in float64, rounded once.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, not {steps}")
    smallest = shift_sigma(np.array([1 / TIMESTEPS], np.float32), shift).item()
    even = np.linspace(TIMESTEPS, TIMESTEPS * smallest, steps) / TIMESTEPS
    return np.append(shift_sigma(even, shift), 0.0).astype(np.float32)


def timesteps_of(sigmas: np.ndarray) -> np.ndarray:
    """What the model reads at these levels, float32; not rounded to whole numbers."""
    return sigmas.astype(np.float32) * np.float32(TIMESTEPS)


def training_timestep(u: jax.Array) -> jax.Array:
    """Time on the training grid 1000, 999 .. 1 (no shift), float32, shaped as u.

    Args:
      u: in [0, 1); 0 is pure noise. The product 1000 u is rounded to float32 before it
        is cut to a whole number, as released (0.71 -> 710, not 709).
    """
    index = jnp.floor(jnp.asarray(u, jnp.float32) * jnp.float32(TIMESTEPS))
    # A u that rounds to 1 in float32 stays on the grid.
    return TIMESTEPS - jnp.minimum(index, TIMESTEPS - 1)


def sigma_of(timestep: jax.Array) -> jax.Array:
    """Noise level of a training timestep: timestep / 1000."""
    return timestep / TIMESTEPS


def noised(latents: jax.Array, noise: jax.Array, sigma: jax.Array) -> jax.Array:
    """(1 - sigma) latents + sigma noise.

    Args:
      latents, noise: [B,...] of one shape.
      sigma: [B].
    """
    level = jnp.expand_dims(sigma, tuple(range(1, latents.ndim)))
    return (1 - level) * latents + level * noise


def velocity_target(latents: jax.Array, noise: jax.Array) -> jax.Array:
    """What the model learns to say at every level: noise - latents."""
    return noise - latents
