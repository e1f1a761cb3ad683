"""PoseResNet: drawn poses in pixels to tokens on the latent patch grid."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange

from onetoall_jax import axes
from onetoall_jax.models.convolution import conv3d, kernel_of_columns
from onetoall_jax.models.layers import GroupNorm, named, silu, uniform_fan_in
from onetoall_jax.models.settings import ModelConfig

_LANES = 128  # a TPU stores and multiplies channels by so many


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
    def __call__(self, x: jax.Array) -> jax.Array:
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
        padded = jnp.pad(x, ((0, 0), (2, 0), (1, 1), (0, 0), (0, 0)), mode="edge")
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
        def first(level: "Level", y: jax.Array) -> jax.Array:
            return level.conv1(silu(level.norm1(y)))

        def second(level: "Level", y: jax.Array) -> jax.Array:
            return level.conv2(silu(level.norm2(y)))

        if self.remat:
            first, second = nn.remat(first), nn.remat(second)
        return self.down(x + second(self, first(self, x)))


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
        cfg, dtype = self.cfg, self.dtype
        columns = self._columns(pose.shape[3])
        x = rearrange(pose, "b f h (w k) c -> b f h w (k c)", k=columns[0])
        x = CausalConv(cfg.pose_channels, (1, 1, 1), dtype, False, columns[0],
                       name="conv_in")(x)  # fmt: skip
        for i, strides in enumerate(cfg.pose_strides):
            level = Level(
                cfg, strides, dtype, columns[i], self.remat, name=f"level_{i}"
            )
            x = level(x)
            # Kept for inspection; costs nothing unless asked for.
            wide = rearrange(x, "b f h w (k c) -> b f h (w k) c", k=columns[i + 1])
            self.sow("intermediates", f"after_level_{i}", wide)
        out = CausalConv(cfg.dim, dtype=dtype, zero_init=True, name="conv_out")
        return out(x)

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


def to_tokens(grid: jax.Array) -> jax.Array:
    """[B,f,h,w,D] -> [B,T,D], frame slowest."""
    return rearrange(grid, "b f h w d -> b (f h w) d")
