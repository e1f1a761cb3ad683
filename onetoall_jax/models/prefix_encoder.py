"""Prefix encoder: reference latents to the extra latent frame before the video."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from onetoall_jax.models.layers import Conv2D, GroupNorm, silu
from onetoall_jax.models.settings import ModelConfig


class _Residual(nn.Module):
    features: int
    groups: int
    eps: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        h = silu(GroupNorm(self.groups, self.eps, self.dtype, name="norm1")(x))
        h = Conv2D(self.features, dtype=self.dtype, name="conv1")(h)
        h = silu(GroupNorm(self.groups, self.eps, self.dtype, name="norm2")(h))
        return x + Conv2D(self.features, dtype=self.dtype, name="conv2")(h)


class PrefixEncoder(nn.Module):
    """Reference latents [B,1,h,w,2C] -> prefix latent [B,1,h,w,C].

    Its last convolution starts at zero, so a new stage 2 begins with an empty prefix.

    Source: section 8 of the released model (`image_to_cond`).
    """

    cfg: ModelConfig
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, reference: jax.Array) -> jax.Array:
        cfg, dtype = self.cfg, self.dtype
        width = cfg.prefix_channels
        x = Conv2D(width, dtype=dtype, name="conv_in")(reference[:, 0])
        for i in range(3):
            residual = _Residual(
                width, cfg.pose_norm_groups, cfg.eps, dtype, name=f"res_{i}"
            )
            x = residual(x)
        out = Conv2D(cfg.in_channels, dtype=dtype, zero_init=True, name="conv_out")
        return out(x)[:, None]
