"""Work on large pictures strip by strip, each with as much beside it as it reads."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from onetoall_jax import axes

# Copies of a frame, as wide as the first level, that decoding holds at once; counted by
# the compiler for the released VAE. A TPU pads their 96 channels to 128.
_COPIES, _COPIES_TPU = 36, 72
UNKNOWN = 1 << 20  # pixels taken whole where the memory is not known


def most_pixels(size: int, free_bytes: float | None, platform: str) -> int:
    """Pixels of a frame that half of the free memory has room for.

    Args:
      size: bytes of one pixel as wide as the first level.
      platform: of the device, as `axes.platform` has it.
    """
    copies = _COPIES_TPU if platform == "tpu" else _COPIES
    return int(free_bytes / 2 / (copies * size)) if free_bytes else UNKNOWN


class Strips(NamedTuple):
    """Equal strips across one axis of a picture, in latent rows (or columns).

    Attributes:
      axis: of [B,F,H,W,C] that is cut.
      own: rows that a strip is responsible for.
      window: rows that it works on: its own and what they depend on.
      starts: first own row of each strip; the last may repeat rows of the one before.
      windows: first row of each window; none reaches out of the picture, so that where
        a window ends inside, only rows that are dropped see its end.
      narrow: rows that the last levels work on, where a row depends on fewer others.
      insides: first of these rows.
    """

    axis: int
    own: int
    window: int
    starts: np.ndarray
    windows: np.ndarray
    narrow: int
    insides: np.ndarray


def cut(axis: int, rows: int, count: int, halo: int, last_halo: int) -> Strips:
    """`count` strips of an axis of `rows`; own rows depend on `halo` rows each way.

    Args:
      last_halo: rows on which they depend in the last levels.
    """
    own = -(-rows // count)
    starts = np.minimum(own * np.arange(-(-rows // own)), rows - own)

    def around(halo: int) -> tuple[int, np.ndarray]:
        size = min(rows, own + 2 * halo)
        return size, np.clip(starts - halo, 0, rows - size)

    window, windows = around(halo)
    narrow, insides = around(last_halo)
    return Strips(axis, own, window, starts, windows, narrow, insides)


def plan(
    height: int,
    width: int,
    halo: int,
    last_halo: int,
    most: int | None,
    devices: int,
) -> Strips | None:
    """Strips for a picture of so many latent rows and columns; None takes it whole.

    Args:
      halo, last_halo: as in `cut`.
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
    return cut(axis, rows, count, halo, last_halo) if count > 1 else None


def decoder_halo(res_blocks: int, levels: int, first: int = 0) -> int:
    """Latent rows on which a decoded row depends beyond its own, attention apart.

    Counted from the pixels back: each 3x3 convolution reads one row more, each doubling
    halves what is read.

    Args:
      first: level before which the rows are counted.
    """
    need = 1  # conv_out
    for level in reversed(range(first, levels)):
        need += 2 * (res_blocks + 1)
        if level > first:
            need = math.ceil((need + 1) / 2)
    return math.ceil(need / 2**first)


def encoder_halo(res_blocks: int, levels: int) -> int:
    """The same for a row of the encoder's last level; halving reads one row more."""
    need = 2 * res_blocks
    for _ in range(levels - 1):
        need = 2 * need + 1 + 2 * res_blocks
    return math.ceil((need + 1) / 2 ** (levels - 1))  # conv_in


def run(
    fn: Callable[[jax.Array, jax.Array], jax.Array],
    x: jax.Array,
    strips: Strips,
    scale_in: int,
    scale_out: int,
) -> jax.Array:
    """fn(x) made of fn of strips: one after another, or one for each idle device.

    Args:
      fn: (windows [B,...], first row of the narrow part of each, counted from the
        window's own first [B]) -> what the narrow parts become.
      x: [B,F,H,W,C], `scale_in` of its rows are a latent row; of fn's, `scale_out`.
    """
    axis = strips.axis

    def own(made: jax.Array, start: jax.Array, inside: jax.Array) -> jax.Array:
        begin = (start - inside) * scale_out
        size = strips.own * scale_out
        return jax.lax.dynamic_slice_in_dim(made, begin, size, axis)

    def part(window: jax.Array) -> jax.Array:
        size = strips.window * scale_in
        return jax.lax.dynamic_slice_in_dim(x, window * scale_in, size, axis)

    columns = (strips.starts, strips.windows, strips.insides)
    places = list(zip(*columns, strict=True))
    clips, count = len(x), len(places)
    if 1 < clips * count <= axes.shards(axes.STRIPS):
        # Clip by clip, so that the strips of a clip stay near the device that has it.
        every = jnp.stack([part(window) for _, window, _ in places], axis=1)
        names = (axes.STRIPS, *[None] * (x.ndim - 1))
        flat = every.reshape(clips * count, *every.shape[2:])
        begin = jnp.tile(strips.insides - strips.windows, clips)
        made = fn(axes.constrain(flat, *names), begin)
        made = made.reshape(clips, count, *made.shape[1:])
        split = axes.BATCH if clips % axes.shards(axes.BATCH) == 0 else None
        made = axes.constrain(made, split, *[None] * (made.ndim - 1))
        rows = [own(made[:, i], s, n) for i, (s, _, n) in enumerate(places)]
        return _joined(rows, strips, scale_out)

    def step(whole: jax.Array, place: tuple) -> tuple[jax.Array, None]:
        start, window, inside = place
        made = fn(part(window), jnp.broadcast_to(inside - window, (clips,)))
        begin = start * scale_out
        rows = own(made, start, inside)
        return jax.lax.dynamic_update_slice_in_dim(whole, rows, begin, axis), None

    sample = jax.eval_shape(fn, part(0), jnp.zeros(clips, int))  # type: ignore[arg-type]
    shape = list(sample.shape)
    shape[axis] = x.shape[axis] // scale_in * scale_out
    empty = jnp.zeros(shape, sample.dtype)
    return jax.lax.scan(step, empty, columns)[0]


def narrowed(x: jax.Array, begin: jax.Array, strips: Strips, scale: int) -> jax.Array:
    """The narrow parts of windows [B,F,H,W,C], `scale` of whose rows are a latent row.

    Args:
      begin: [B], first latent row of each.
    """

    def one(x: jax.Array, begin: jax.Array) -> jax.Array:
        size = strips.narrow * scale
        return jax.lax.dynamic_slice_in_dim(x, begin * scale, size, strips.axis - 1)

    return jax.vmap(one)(x, begin)


def _joined(rows: list[jax.Array], strips: Strips, scale: int) -> jax.Array:
    ends = [*strips.starts[1:], strips.starts[-1] + strips.own]
    kept = [
        jax.lax.slice_in_dim(r, 0, int(end - start) * scale, axis=strips.axis)
        for r, start, end in zip(rows, strips.starts, ends, strict=True)
    ]
    return jnp.concatenate(kept, axis=strips.axis)
