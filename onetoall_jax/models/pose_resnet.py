"""PoseResNet: drawn poses in pixels to tokens on the latent patch grid."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange

from onetoall_jax import axes
from onetoall_jax.models.convolution import conv3d
from onetoall_jax.models.layers import GroupNorm, named, uniform_fan_in
from onetoall_jax.models.settings import ModelConfig


class CausalConv(nn.Module):
    """3x3x3 convolution whose past and borders repeat the edge.

    Two copies of the first frame go in front, one pixel on each spatial side.
    """

    features: int
    strides: tuple[int, int, int] = (1, 1, 1)
    dtype: jnp.dtype = jnp.float32
    zero_init: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (3, 3, 3, x.shape[-1], self.features)
        init = uniform_fan_in(27 * x.shape[-1])
        if self.zero_init:
            init = nn.initializers.zeros
        names = (None, None, None, axes.CONV_IN, axes.CONV_OUT)
        kernel = self.param("kernel", named(init, *names), shape)
        bias = self.param("bias", named(init, axes.NORM), (self.features,))
        padded = jnp.pad(x, ((0, 0), (2, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
        return conv3d(
            padded.astype(self.dtype),
            kernel.astype(self.dtype),
            bias.astype(self.dtype),
            strides=self.strides,
        )


class Level(nn.Module):
    """Residual block, then a strided convolution."""

    cfg: ModelConfig
    strides: tuple[int, int, int]
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        cfg, dtype, width = self.cfg, self.dtype, self.cfg.pose_channels

        def act(name: str, y: jax.Array) -> jax.Array:
            norm = GroupNorm(cfg.pose_norm_groups, cfg.eps, dtype, name=name)
            return nn.silu(norm(y))

        h = CausalConv(width, dtype=dtype, name="conv1")(act("norm1", x))
        h = CausalConv(width, dtype=dtype, name="conv2")(act("norm2", h))
        return CausalConv(width, self.strides, dtype, name="down")(x + h)


class PoseResNet(nn.Module):
    """Pose frames [B,F,H,W,3] in -1..1 -> [B,f,h,w,D] on the patch grid.

    1 + 4n frames become 1 + n. The norms pool over time, so a later frame does change
    an earlier token. `conv_out` starts at zero.

    Source: section 9 of the released model (`input_hint_block`).
    """

    cfg: ModelConfig
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, pose: jax.Array) -> jax.Array:
        cfg, dtype = self.cfg, self.dtype
        x = CausalConv(cfg.pose_channels, dtype=dtype, name="conv_in")(pose)
        for i, strides in enumerate(cfg.pose_strides):
            x = Level(cfg, strides, dtype, name=f"level_{i}")(x)
            # Kept for inspection; costs nothing unless asked for.
            self.sow("intermediates", f"after_level_{i}", x)
        out = CausalConv(cfg.dim, dtype=dtype, zero_init=True, name="conv_out")
        return out(x)


def to_tokens(grid: jax.Array) -> jax.Array:
    """[B,f,h,w,D] -> [B,T,D], frame slowest."""
    return rearrange(grid, "b f h w d -> b (f h w) d")
