"""PoseResNet: drawn poses in pixels to tokens on the latent patch grid."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from onetoall_jax import axes, pixels
from onetoall_jax.models.convolution import conv3d, kernel_of_columns
from onetoall_jax.models.layers import GroupNorm, Moments, named, silu, uniform_fan_in
from onetoall_jax.models.settings import ModelConfig

Params = Any

_CHUNK = 4  # frames of a sweep at a time; temporal strides divide it
# Pixels of all frames up to which a clip is taken whole: sweeps compute twice as much,
# and training keeps what they would drop.
WHOLE = 1 << 25
_LANES = 128  # a TPU stores and multiplies channels by so many


class Past:
    """Frames before a chunk of a clip, for every convolution in the order they run.

    Before the first chunk there are none: there the first frame repeats.

    Args:
      kept: what the chunk before left, or None if nothing was before.
      is_first: scalar bool, where `kept` means nothing.
    """

    def __init__(
        self, kept: Sequence[jax.Array] | None, is_first: jax.Array | bool = True
    ):
        self._kept, self._is_first = None if kept is None else iter(kept), is_first
        self.left: list[jax.Array] = []

    def with_past(self, x: jax.Array, count: int) -> jax.Array:
        """x with `count` frames in front; leaves its last ones to the next chunk."""
        past = jnp.repeat(x[:, :1], count, axis=1)
        if self._kept is not None:
            past = jnp.where(self._is_first, past, next(self._kept))
        whole = jnp.concatenate([past, x], axis=1)
        self.left.append(whole[:, -count:])
        return whole


class CausalConv(nn.Module):
    """3x3x3 convolution whose past and borders repeat the edge.

    Two copies of the first frame go in front, one pixel on each spatial side.

    Attributes:
      columns: neighbours in a row whose channels lie side by side in the last axis; a
        stride over columns leaves as many fewer.
    """

    features: int
    strides: tuple[int, int, int] = (1, 1, 1)
    dtype: jnp.dtype = jnp.float32
    zero_init: bool = False
    columns: int = 1

    @nn.compact
    def __call__(self, x: jax.Array, past: Past | None = None) -> jax.Array:
        """x [B,F,..] is a clip, or with `past` a chunk whose last frame is a result."""
        columns, strides = self.columns, self.strides
        channels = x.shape[-1] // columns
        shape = (3, 3, 3, channels, self.features)
        init = uniform_fan_in(27 * channels)
        if self.zero_init:
            init = nn.initializers.zeros
        names = (None, None, None, axes.CONV_IN, axes.CONV_OUT)
        kernel = self.param("kernel", named(init, *names), shape)
        bias = self.param("bias", named(init, axes.NORM), (self.features,))
        if columns > 1:
            kernel = kernel_of_columns(kernel, columns, strides[2])
            bias = jnp.tile(bias, columns // strides[2])
            strides = (*strides[:2], 1)
        before = 2
        if past is not None:
            x, before = past.with_past(x, 3 - strides[0]), 0
        padded = jnp.pad(x, ((0, 0), (before, 0), (1, 1), (0, 0), (0, 0)), mode="edge")
        first, last = padded[..., :1, :channels], padded[..., -1:, -channels:]
        sides = [jnp.tile(edge, columns) for edge in (first, last)]
        return conv3d(
            jnp.concatenate([sides[0], padded, sides[1]], axis=-2).astype(self.dtype),
            kernel.astype(self.dtype),
            bias.astype(self.dtype),
            strides=strides,
        )


class Level(nn.Module):
    """Residual block, then a strided convolution.

    Attributes:
      columns: as in `CausalConv`.
      remat: keep the inputs of convolutions' norms for the backward pass, not the
        float32 values on the way from there.
    """

    cfg: ModelConfig
    strides: tuple[int, int, int]
    dtype: jnp.dtype = jnp.float32
    columns: int = 1
    remat: bool = False

    def setup(self) -> None:
        cfg = self.cfg
        groups, width = cfg.pose_norm_groups, cfg.pose_channels
        one, columns = (1, 1, 1), self.columns
        self.norm1 = GroupNorm(groups, cfg.eps, self.dtype, columns)
        self.conv1 = CausalConv(width, one, self.dtype, False, columns)
        self.norm2 = GroupNorm(groups, cfg.eps, self.dtype, columns)
        self.conv2 = CausalConv(width, one, self.dtype, False, columns)
        self.down = CausalConv(width, self.strides, self.dtype, False, columns)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Of a whole clip."""

        def first(level: "Level", y: jax.Array) -> jax.Array:
            return level.conv1(silu(level.norm1(y)))

        def second(level: "Level", y: jax.Array) -> jax.Array:
            return level.conv2(silu(level.norm2(y)))

        if self.remat:
            first, second = nn.remat(first), nn.remat(second)
        return self.down(x + second(self, first(self, x)))

    def moments(
        self, x: jax.Array, past: Past, counts: jax.Array, known: Sequence[Moments]
    ) -> Moments:
        """Of what the next norm reads, for a chunk of a clip.

        Args:
          counts: [F], 0 for frames that are no part of the clip.
          known: of the norms before it, over the whole clip.
        """
        if not known:
            return self.norm1.moments(x, counts)
        y = self.conv1(silu(self.norm1(x, known[0])), past)
        return self.norm2.moments(y, counts)

    def chunk(
        self, x: jax.Array, past: Past, counts: jax.Array, known: Sequence[Moments]
    ) -> jax.Array:
        """The level's result for a chunk of a clip, all moments known."""
        y = self.conv1(silu(self.norm1(x, known[0])), past)
        y = self.conv2(silu(self.norm2(y, known[1])), past)
        return self.down(x + y, past)


class PoseResNet(nn.Module):
    """Pose frames [B,F,H,W,3] in -1..1 -> [B,f,h,w,D] on the patch grid.

    1 + 4n frames become 1 + n. The norms pool over time, so a later frame does change
    an earlier token. `conv_out` starts at zero.

    On a TPU, whose arrays pad the last axis to 128, neighbouring columns lie side by
    side in the channels until the strides have used them up: an eighth of the memory
    and of the products at full resolution.

    Source: section 9 of the released model (`input_hint_block`).

    Attributes:
      remat: as in `Level`.
      lanes: channels to fill; None is the device's own way.
    """

    cfg: ModelConfig
    dtype: jnp.dtype = jnp.float32
    remat: bool = False
    lanes: int | None = None

    @nn.compact
    def __call__(self, pose: jax.Array) -> jax.Array:
        columns = self._columns(pose.shape[3])
        x = self._first(columns, name="conv_in")(side_by_side(pose, columns[0]))
        for i in range(len(self.cfg.pose_strides)):
            x = self._level(i, columns, name=f"level_{i}")(x)
            # Kept for inspection; costs nothing unless asked for.
            wide = rearrange(x, "b f h w (k c) -> b f h (w k) c", k=columns[i + 1])
            self.sow("intermediates", f"after_level_{i}", wide)
        return self._last(name="conv_out")(x)

    @nn.nowrap
    def in_sweeps(self, params: Params, pose: jax.Array) -> jax.Array:
        """The same of a clip too large to hold at full resolution.

        A level goes over its clip three times, a few frames at a time: twice for what
        its norms must know of the whole clip, then for its result.

        Args:
          params: plain.
        """
        columns = self._columns(pose.shape[3])
        x = side_by_side(pose, columns[0])
        for i in range(len(self.cfg.pose_strides)):
            x = self._swept(i, columns, params, x)
        last = self._last(parent=None)
        return last.apply({"params": params["conv_out"]}, x)  # type: ignore[return-value]

    def _swept(
        self, i: int, columns: list[int], params: Params, x: jax.Array
    ) -> jax.Array:
        """Level i, the first one from the pose itself on."""
        first = self._first(columns, parent=None)
        level = self._level(i, columns, parent=None)

        def run(x: jax.Array, past: Past, counts: jax.Array, **kwargs: Any) -> Any:
            if i == 0:
                # Bytes until here: floats of all pixels would take as much as a level.
                x = pixels.scaled(x)
                x = first.apply({"params": params["conv_in"]}, x, past)  # type: ignore[assignment]
            own = {"params": params[f"level_{i}"]}
            return level.apply(own, x, past, counts, **kwargs)

        known: tuple[Moments, ...] = ()
        for _ in range(2):
            look = functools.partial(run, known=known, method="moments")
            known = (*known, _sweep(look, x).joined())
        made = _sweep(functools.partial(run, known=known, method="chunk"), x)
        made = rearrange(made, "i b f ... -> b (i f) ...")
        stride = self.cfg.pose_strides[i][0]
        return made[:, _missing(x) // stride :]

    def _first(self, columns: list[int], **place: Any) -> CausalConv:
        width = self.cfg.pose_channels
        return CausalConv(width, (1, 1, 1), self.dtype, False, columns[0], **place)

    def _level(self, i: int, columns: list[int], **place: Any) -> Level:
        cfg = self.cfg
        strides = cfg.pose_strides[i]
        return Level(cfg, strides, self.dtype, columns[i], self.remat, **place)

    def _last(self, **place: Any) -> CausalConv:
        return CausalConv(self.cfg.dim, dtype=self.dtype, zero_init=True, **place)

    def _columns(self, width: int) -> list[int]:
        """Columns side by side before each level and after the last one."""
        strides = [s[2] for s in self.cfg.pose_strides]
        lanes = self.lanes
        if lanes is None:
            lanes = _LANES if axes.platform() == "tpu" else 1
        count = max(
            n
            for n in range(len(strides) + 1)
            if n == 0
            or math.prod(strides[:n]) * self.cfg.pose_channels <= lanes
            and width % math.prod(strides[:n]) == 0
        )
        return [math.prod(strides[i:count]) for i in range(len(strides) + 1)]


def grid(net: PoseResNet, params: Params, pose: jax.Array) -> jax.Array:
    """The net's result, in sweeps where clips are large and no backward pass is due.

    A net with `remat` is one that is trained. Without it sweeps are right, too, but
    keep as much for a backward pass as they save.

    Args:
      pose: [B,F,H,W,3], bytes or in -1..1.
    """
    if pose[..., 0].size > WHOLE and not net.remat:
        return net.in_sweeps(params, pose)
    return net.apply({"params": params}, pixels.scaled(pose))  # type: ignore[return-value]


def to_tokens(grid: jax.Array) -> jax.Array:
    """[B,f,h,w,D] -> [B,T,D], frame slowest."""
    return rearrange(grid, "b f h w d -> b (f h w) d")


def side_by_side(x: jax.Array, columns: int) -> jax.Array:
    """Neighbours in a row put side by side in the channels."""
    return rearrange(x, "b f h (w k) c -> b f h w (k c)", k=columns)


def _missing(x: jax.Array) -> int:
    """Copies of the first frame that make chunks of a clip's frames.

    Any number of them in front changes nothing but the moments: every convolution
    repeats the first frame anyway. Strides meet the same frames as in the clip, which
    has one more frame than they divide.
    """
    return -x.shape[1] % _CHUNK


def _sweep(fn: Callable[[jax.Array, Past, jax.Array], Any], x: jax.Array) -> Any:
    """fn(chunk, past, counts) of every chunk of x [B,F,..], stacked."""
    missing = _missing(x)
    width = ((0, 0), (missing, 0), *[(0, 0)] * (x.ndim - 2))
    whole = jnp.pad(x, width, mode="edge")
    chunks = rearrange(whole, "b (i f) ... -> i b f ...", f=_CHUNK)
    index = np.arange(whole.shape[1]).reshape(-1, _CHUNK)
    counts = (index >= missing).astype(np.float32)

    def step(kept: Sequence[jax.Array], at: tuple) -> tuple[list[jax.Array], Any]:
        chunk, counts, is_first = at
        past = Past(kept, is_first)
        made = fn(chunk, past, counts)
        return past.left, made

    def left(chunk: jax.Array) -> list[jax.Array]:
        past = Past(None)
        fn(chunk, past, counts[0])
        return past.left

    shapes = jax.eval_shape(left, chunks[0])
    nothing = [jnp.zeros(s.shape, s.dtype) for s in shapes]
    return jax.lax.scan(step, nothing, (chunks, counts, index[:, 0] == 0))[1]
