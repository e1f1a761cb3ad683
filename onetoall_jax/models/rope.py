"""Rotary position embedding over frames, rows and columns."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from onetoall_jax import axes


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Rope:
    """Rotation of a token grid.

    Attributes:
      grid: frames, rows, columns of the tokens (the prefix is frame 0).
      head_dim: even; split in three, rows and columns 2 * (head_dim // 6) each.
      theta: base of the frequencies.
      copies: times that the grid's tokens follow each other.
      padding: tokens behind them all that stay as they are.
    """

    grid: tuple[int, int, int]
    head_dim: int
    theta: float
    copies: int = 1
    padding: int = 0

    @property
    def num_tokens(self) -> int:
        """Tokens of the grid."""
        return math.prod(self.grid)

    def rotate(
        self, x: jax.Array, start: jax.Array | int = 0, *, time: bool = True
    ) -> jax.Array:
        """Turns neighbouring channel pairs of x [B,T,N,K] by their token's angles.

        Args:
          x: queries or keys of the grid's tokens, copies and padding included, or of
            some that follow each other.
          start: index of the first of them.
          time: False leaves the time channels as they are, as if every token stood in
            frame 0: the form that reference attention uses.
        Source: section 5 of the model: tables in float64, rotation here in float32.
        """
        cos, sin = self._tables(time)
        if x.shape[1] < len(cos):
            part = functools.partial(jax.lax.dynamic_slice_in_dim, axis=0)
            cos, sin = (part(t, start, x.shape[1]) for t in (cos, sin))
        return (x * cos + _swapped(x) * sin).astype(x.dtype)

    def _tables(self, time: bool) -> tuple[jax.Array, jax.Array]:
        """Factors [T,1,K] of each channel and of its neighbour in the pair.

        Small tables per axis, broadcast when traced.
        """
        f, h, w = self.grid
        side = 2 * (self.head_dim // 6)
        widths = (self.head_dim - 2 * side, side, side)
        angles = [
            np.arange(n)[:, None]
            * np.power(self.theta, -np.arange(0, a, 2, dtype=np.float64) / a)
            for n, a in zip(self.grid, widths, strict=True)
        ]
        if not time:
            angles[0] = np.zeros_like(angles[0])

        def spread(first: np.ufunc, second: np.ufunc, sign: int) -> jax.Array:
            t, y, x = (
                jnp.asarray(
                    np.stack([sign * first(a), second(a)], axis=-1)
                    .reshape(len(a), -1)
                    .astype(np.float32)
                )
                for a in angles
            )
            table = jnp.concatenate(
                [
                    jnp.broadcast_to(t[:, None, None], (f, h, w, t.shape[-1])),
                    jnp.broadcast_to(y[None, :, None], (f, h, w, y.shape[-1])),
                    jnp.broadcast_to(x[None, None, :], (f, h, w, x.shape[-1])),
                ],
                axis=-1,
            )
            return rearrange(table, "f h w k -> (f h w) 1 k")

        cos, sin = (
            jnp.tile(table, (self.copies, 1, 1))
            for table in (spread(np.cos, np.cos, 1), spread(np.sin, np.sin, -1))
        )
        if self.padding:
            width = ((0, self.padding), (0, 0), (0, 0))
            cos, sin = jnp.pad(cos, width, constant_values=1.0), jnp.pad(sin, width)
        return cos, sin


def _swapped(x: jax.Array) -> jax.Array:
    """x [...,K] with the neighbours of every pair exchanged."""
    if axes.platform() != "tpu":
        pairs = rearrange(x, "... (k two) -> ... k two", two=2)
        return rearrange(pairs[..., ::-1], "... k two -> ... (k two)")
    # Lanes move fastest through the matrix unit, and nothing is kept in float32;
    # one factor of a sum is 1 and all others are 0, so that it is exact.
    channels = np.arange(x.shape[-1])
    permutation = jnp.asarray(channels[:, None] == channels ^ 1, x.dtype)
    return jnp.matmul(x, permutation, precision=jax.lax.Precision.HIGHEST)
