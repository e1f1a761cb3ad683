"""Blocks, embeddings and head of the Wan diffusion transformer."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from onetoall_jax import axes
from onetoall_jax.models.hrfa import Attention, TextAttention
from onetoall_jax.models.layers import MLP, Dense, LayerNorm, gelu, layer_norm, named
from onetoall_jax.models.layers import sinusoid as time_sinusoid
from onetoall_jax.models.rope import Rope
from onetoall_jax.models.settings import ModelConfig

Params = Any


@flax.struct.dataclass
class Modulation:
    """What the noise time says to every token.

    Attributes:
      noisy: [B,J,D], from the clip's timestep.
      clean: [B,J,D], from timestep 0, or None.
      is_clean: [B,T] bool, tokens that take `clean` (token replace), or None.
    """

    noisy: jax.Array
    clean: jax.Array | None = None
    is_clean: jax.Array | None = None

    def plus(self, table: jax.Array) -> "Modulation":
        """Adds a [J,D] table of the block, in float32."""

        def add(m: jax.Array) -> jax.Array:
            return m.astype(jnp.float32) + table.astype(jnp.float32)

        clean = None if self.clean is None else add(self.clean)
        return self.replace(noisy=add(self.noisy), clean=clean)  # type: ignore[attr-defined]

    def part(self, j: int) -> jax.Array:
        """Row j for each token: [B,T,D], or [B,1,D] where all tokens agree."""
        noisy = self.noisy[:, None, j]
        if self.clean is None or self.is_clean is None:
            return noisy
        return jnp.where(self.is_clean[..., None], self.clean[:, None, j], noisy)


def table_init(dim: int) -> Callable[..., jax.Array]:
    """Normal(0, 1) / sqrt(D), the release's start of modulation tables."""
    return nn.initializers.normal(1.0 / math.sqrt(dim))


class Block(nn.Module):
    """One transformer block: attention, text attention, feed-forward, all modulated.

    The same class is the main block (text and reference), the extractor's and the
    pose-control block (neither).

    Source: section 6 of the released model.
    """

    cfg: ModelConfig
    text: bool
    reference: bool
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        modulation: Modulation,
        rope: Rope,
        text: jax.Array | None = None,
        feature: jax.Array | None = None,
    ) -> jax.Array:
        """x [B,T,D], text [B,L,D], feature [B,R,D] -> [B,T,D]."""
        cfg, dtype = self.cfg, self.dtype
        table = self.param(
            "modulation",
            named(table_init(cfg.dim), axes.MODULATION, axes.NORM),
            (6, cfg.dim),
        )
        mod = modulation.plus(table)

        def modulated(shift: int) -> jax.Array:
            y = layer_norm(x, cfg.eps) * (1 + mod.part(shift + 1)) + mod.part(shift)
            return y.astype(dtype)

        def gated(y: jax.Array, gate: int) -> jax.Array:
            wide = x.astype(jnp.float32) + mod.part(gate) * y.astype(jnp.float32)
            return axes.constrain(wide.astype(dtype), *_TOKENS)

        attention = Attention(cfg, self.reference, dtype, name="attention")
        x = gated(attention(modulated(0), rope, feature), 2)
        if self.text:
            h = LayerNorm(cfg.eps, dtype, name="text_norm")(x)
            attend_text: Any = TextAttention(cfg, dtype, name="text_attention")
            x = x + attend_text(h, text)
        mlp = MLP(cfg.mlp_dim, cfg.dim, gelu, dtype=dtype, name="mlp")
        return gated(mlp(modulated(3)), 5)


_TOKENS = (axes.BATCH, axes.TOKENS, axes.EMBED)


class TimeEmbedding(nn.Module):
    """Timesteps [B] -> embedding [B,D]."""

    cfg: ModelConfig
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, timestep: jax.Array) -> jax.Array:
        wave = time_sinusoid(timestep, self.cfg.time_dim).astype(self.dtype)
        names = (axes.CONV_IN, axes.PARAM_EMBED)
        h = Dense(self.cfg.dim, names, self.dtype, name="in")(wave)
        names = (axes.PARAM_EMBED, axes.PARAM_HEADS)
        return Dense(self.cfg.dim, names, self.dtype, name="out")(nn.silu(h))


class Head(nn.Module):
    """Last norm, modulation and projection to patches: [B,T,D] -> [B,T,u*p*q*C]."""

    cfg: ModelConfig
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, time: Modulation) -> jax.Array:
        """`time` holds the bare time embeddings as [B,1,D]."""
        cfg, dtype = self.cfg, self.dtype
        table = self.param(
            "modulation",
            named(table_init(cfg.dim), axes.MODULATION, axes.NORM),
            (2, cfg.dim),
        )
        # Only here does the release round shift and 1 + scale to the compute type.
        shift, scale = (
            time.plus(table[j : j + 1]).part(0).astype(dtype) for j in (0, 1)
        )
        y = layer_norm(x, cfg.eps) * (1 + scale) + shift
        u, p, q = cfg.patch
        names = (axes.PARAM_EMBED, axes.CONV_OUT)
        projection = Dense(
            u * p * q * cfg.out_channels, names, dtype, name="projection"
        )
        return projection(y.astype(dtype))


@dataclasses.dataclass(frozen=True)
class Stack:
    """Equal blocks whose parameters are stacked on a leading axis of layers."""

    block: Block
    remat: str = "none"

    def init(self, key: jax.Array, length: int, *args: Any) -> Params:
        """Parameters of `length` blocks, boxed, with the axis of layers named."""
        keys = jax.random.split(key, length)
        stacked = jax.vmap(lambda k: self.block.init(k, *args)["params"])(keys)
        return nn.meta.add_axis(stacked, 0, {nn.PARTITION_NAME: axes.LAYERS})

    def one(self, params: Params, i: int, x: jax.Array, *args: Any) -> jax.Array:
        """Block i alone."""
        return self._call(scanned=False)(jax.tree.map(lambda p: p[i], params), x, *args)

    def scan(
        self,
        params: Params,
        x: jax.Array,
        modulation: Modulation,
        rope: Rope,
        text: jax.Array | None = None,
        features: jax.Array | None = None,
        feature_index: jax.Array | None = None,
        keep: bool = False,
    ) -> tuple[jax.Array, Any]:
        """All blocks in order.

        Args:
          features: [M+1,B,R,D]; block i reads features[feature_index[i]].
          keep: also return every block's output.
        Returns:
          (x [B,T,D], outputs [I,B,T,D] or None).
        """

        call = self._call(scanned=True)

        def body(x: jax.Array, layer: tuple) -> tuple[jax.Array, jax.Array | None]:
            p, index = layer
            feature = None if features is None else features[index]
            y = call(p, x, modulation, rope, text, feature)
            return y, (y if keep else None)

        return jax.lax.scan(body, x, (params, feature_index))

    def _call(self, *, scanned: bool) -> Callable[..., jax.Array]:
        def call(params: Params, x: jax.Array, modulation, rope, *rest) -> jax.Array:
            def apply(params, x, modulation, *rest):
                return self.block.apply({"params": params}, x, modulation, rope, *rest)

            return self._remat(apply, scanned)(params, x, modulation, *rest)

        return call

    def _remat(self, fn: Callable[..., Any], scanned: bool) -> Callable[..., Any]:
        if self.remat == "none":
            return fn
        if self.remat == "block":
            # Inside a scan nothing can be shared with the forward pass anyway.
            return jax.checkpoint(fn, prevent_cse=not scanned)
        raise ValueError(f"remat {self.remat!r}: known are 'none' and 'block'")
