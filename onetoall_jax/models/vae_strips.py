"""Work on large pictures strip by strip, each with as much beside it as it reads."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from onetoall_jax import axes

# Copies of a chunk of frames, as wide as the first level, that decoding holds at once;
# counted by the compiler for the released VAE.
_COPIES = 53
UNKNOWN = 1 << 20  # pixels taken whole where the memory is not known


def most_pixels(size: int, free_bytes: float | None) -> int:
    """Pixels of a frame that half of the free memory has room for.

    Args:
      size: bytes of one pixel as wide as the first level.
    """
    return int(free_bytes / 2 / (_COPIES * size)) if free_bytes else UNKNOWN


class Strips(NamedTuple):
    """Equal strips across one axis of a picture, in latent rows (or columns).

    Attributes:
      axis: of [B,F,H,W,C] that is cut.
      own: rows that a strip is responsible for.
      window: rows that it works on: its own and what they depend on.
      starts: first own row of each strip; the last may repeat rows of the one before.
      windows: first row of each window; none reaches out of the picture, so that where
        a window ends inside, only rows that are dropped see its end.
    """

    axis: int
    own: int
    window: int
    starts: np.ndarray
    windows: np.ndarray


def cut(axis: int, rows: int, count: int, halo: int) -> Strips:
    """`count` strips of an axis of `rows`; own rows depend on `halo` rows each way."""
    own = -(-rows // count)
    starts = np.minimum(own * np.arange(-(-rows // own)), rows - own)
    window = min(rows, own + 2 * halo)
    return Strips(axis, own, window, starts, np.clip(starts - halo, 0, rows - window))


def plan(
    height: int, width: int, halo: int, most: int | None, devices: int
) -> Strips | None:
    """Strips for a picture of so many latent rows and columns; None takes it whole.

    Args:
      most: latent pixels that may be worked on at once. No strip has fewer rows of its
        own than of its surroundings, however little that leaves.
      devices: that are to take one strip each.
    """
    axis, rows, others = (2, height, width) if height >= width else (3, width, height)
    fewest = max(1, rows // max(1, halo))
    count = min(devices, fewest)
    if most is not None and height * width > most:
        own = max(halo, most // others - 2 * halo)
        count = max(count, math.ceil(rows / own))
    count = min(count, fewest)
    return cut(axis, rows, count, halo) if count > 1 else None


def decoder_halo(res_blocks: int, levels: int) -> int:
    """Latent rows on which a decoded row depends beyond its own, attention apart.

    Counted from the pixels back: each 3x3 convolution reads one row more, each doubling
    halves what is read.
    """
    need = 1  # conv_out
    for level in reversed(range(levels)):
        need += 2 * (res_blocks + 1)
        if level:
            need = math.ceil((need + 1) / 2)
    return need


def encoder_halo(res_blocks: int, levels: int) -> int:
    """The same for a row of the encoder's last level; halving reads one row more."""
    need = 2 * res_blocks
    for _ in range(levels - 1):
        need = 2 * need + 1 + 2 * res_blocks
    return math.ceil((need + 1) / 2 ** (levels - 1))  # conv_in


def run(
    fn: Callable[[jax.Array], jax.Array],
    x: jax.Array,
    strips: Strips,
    scale_in: int,
    scale_out: int,
) -> jax.Array:
    """fn(x) made of fn of strips: one after another, or one for each idle device.

    Args:
      x: [B,F,H,W,C], `scale_in` of its rows are a latent row; of fn's, `scale_out`.
    """
    axis = strips.axis

    def own(made: jax.Array, start: jax.Array, window: jax.Array) -> jax.Array:
        begin = (start - window) * scale_out
        size = strips.own * scale_out
        return jax.lax.dynamic_slice_in_dim(made, begin, size, axis)

    def part(window: jax.Array) -> jax.Array:
        size = strips.window * scale_in
        return jax.lax.dynamic_slice_in_dim(x, window * scale_in, size, axis)

    places = list(zip(strips.starts, strips.windows, strict=True))
    clips, count = len(x), len(places)
    if 1 < clips * count <= axes.shards(axes.STRIPS):
        # Clip by clip, so that the strips of a clip stay near the device that has it.
        every = jnp.stack([part(window) for _, window in places], axis=1)
        names = (axes.STRIPS, *[None] * (x.ndim - 1))
        flat = every.reshape(clips * count, *every.shape[2:])
        made = fn(axes.constrain(flat, *names))
        made = made.reshape(clips, count, *made.shape[1:])
        split = axes.BATCH if clips % axes.shards(axes.BATCH) == 0 else None
        made = axes.constrain(made, split, *[None] * (made.ndim - 1))
        rows = [own(made[:, i], *place) for i, place in enumerate(places)]
        return _joined(rows, strips, scale_out)

    def step(whole: jax.Array, place: tuple) -> tuple[jax.Array, None]:
        start, window = place
        rows = own(fn(part(window)), start, window)
        begin = start * scale_out
        return jax.lax.dynamic_update_slice_in_dim(whole, rows, begin, axis), None

    sample = jax.eval_shape(fn, part(0))  # type: ignore[arg-type]
    shape = list(sample.shape)
    shape[axis] = x.shape[axis] // scale_in * scale_out
    empty = jnp.zeros(shape, sample.dtype)
    return jax.lax.scan(step, empty, (strips.starts, strips.windows))[0]


def _joined(rows: list[jax.Array], strips: Strips, scale: int) -> jax.Array:
    ends = [*strips.starts[1:], strips.starts[-1] + strips.own]
    kept = [
        jax.lax.slice_in_dim(r, 0, int(end - start) * scale, axis=strips.axis)
        for r, start, end in zip(rows, strips.starts, ends, strict=True)
    ]
    return jnp.concatenate(kept, axis=strips.axis)
