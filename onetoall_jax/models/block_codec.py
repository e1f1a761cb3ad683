"""A latent codec with nothing to learn: one orthonormal transform of small blocks."""

import dataclasses
import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

# Expected standard deviation of a coefficient falls with its frequencies; the numbers
# were fitted once to moving pictures. Index 0 is brightness, then red-green and
# yellow-blue.
_COLOUR = (1.0, 0.85, 0.85)
_SPATIAL_FALL = 1.8
_TEMPORAL_FALL = 2.5
_MEAN_STD = 0.21  # of a block's mean, for pixels in -1..1


@dataclasses.dataclass(frozen=True)
class BlockCodecConfig:
    """Block sizes and how many coefficients are kept.

    Attributes:
      temporal: frames in a block after the first frame.
      spatial: side of a block in pixels.
      channels: coefficients kept, those of largest expected variance; at most
        3 * temporal * spatial^2, which is lossless.
    """

    temporal: int = 4
    spatial: int = 8
    channels: int = 48


def _dct(n: int) -> np.ndarray:
    """Orthonormal DCT-II, rows are basis functions."""
    k, x = np.arange(n)[:, None], np.arange(n)[None, :]
    basis = np.sqrt(2 / n) * np.cos(np.pi * k * (2 * x + 1) / (2 * n))
    basis[0] /= math.sqrt(2)
    return basis


def _expected_std(index: tuple[int, ...], spatial: int) -> float:
    t, y, x, c = index
    # Frequencies in cycles over 8 pixels, so that block sizes share one law.
    frequency = math.hypot(y, x) * 8 / spatial
    return _COLOUR[c] / ((1 + frequency) ** _SPATIAL_FALL * (1 + t) ** _TEMPORAL_FALL)


@functools.lru_cache
def basis(cfg: BlockCodecConfig) -> tuple[np.ndarray, np.ndarray]:
    """(functions [temporal, spatial, spatial, 3, C] orthonormal, divisors [C])."""
    colour = np.array([[1, 1, 1], [1, -1, 0], [1, 1, -2]], float)
    colour /= np.linalg.norm(colour, axis=1, keepdims=True)
    time, space = _dct(cfg.temporal), _dct(cfg.spatial)
    sizes = (cfg.temporal, cfg.spatial, cfg.spatial, 3)
    index = list(itertools.product(*map(range, sizes)))
    stds = np.array([_expected_std(i, cfg.spatial) for i in index])
    kept = np.argsort(-stds, kind="stable")[: cfg.channels]
    t, y, x, c = np.array(index)[kept].T
    functions = np.einsum(
        "jt,jy,jx,jc->tyxcj", time[t], space[y], space[x], colour[c], optimize=True
    )
    volume = cfg.temporal * cfg.spatial**2 * 3
    stds = _MEAN_STD * math.sqrt(volume) * stds[kept]
    # Half-way between equal variances (noise in weak coefficients gets loud) and the
    # pictures' own (weak coefficients are never learned).
    return functions, np.sqrt(stds * stds[0])


def encode(cfg: BlockCodecConfig, frames: jax.Array) -> jax.Array:
    """Frames [B,1+temporal*n,H,W,3] in -1..1 -> latents [B,1+n,h,w,C], linear.

    The first frame stands for a block of equal frames, as in the VAE.
    """
    functions, divisors = basis(cfg)
    analysis = (functions / divisors).astype(np.float32)
    first = jnp.repeat(frames[:, :1], cfg.temporal, axis=1)
    blocks = rearrange(
        jnp.concatenate([first, frames[:, 1:]], axis=1).astype(jnp.float32),
        "b (f t) (h y) (w x) c -> b f h w (t y x c)",
        t=cfg.temporal,
        y=cfg.spatial,
        x=cfg.spatial,
    )
    return blocks @ rearrange(analysis, "t y x c j -> (t y x c) j")


def decode(cfg: BlockCodecConfig, latents: jax.Array) -> jax.Array:
    """Latents [B,f,h,w,C] -> frames [B,1+temporal*(f-1),H,W,3], clamped to -1..1.

    The first block's frames are averaged to the one frame it stands for.
    """
    functions, divisors = basis(cfg)
    synthesis = (functions * divisors).astype(np.float32)
    blocks = latents.astype(jnp.float32) @ rearrange(
        synthesis, "t y x c j -> j (t y x c)"
    )
    frames = rearrange(
        blocks,
        "b f h w (t y x c) -> b (f t) (h y) (w x) c",
        t=cfg.temporal,
        y=cfg.spatial,
        x=cfg.spatial,
    )
    first = jnp.mean(frames[:, : cfg.temporal], axis=1, keepdims=True)
    whole = jnp.concatenate([first, frames[:, cfg.temporal :]], axis=1)
    return jnp.clip(whole, -1, 1)
