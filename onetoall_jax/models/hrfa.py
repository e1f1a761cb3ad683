"""Hybrid reference fusion attention: self-attention plus a branch to the reference."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange

from onetoall_jax import axes
from onetoall_jax.models.attention import AttentionConfig, attend
from onetoall_jax.models.layers import Dense, RMSNorm
from onetoall_jax.models.rope import Rope
from onetoall_jax.models.settings import ModelConfig

_IN = (axes.PARAM_EMBED, axes.PARAM_HEADS)
_OUT = (axes.PARAM_HEADS, axes.PARAM_EMBED)


def heads(x: jax.Array, cfg: ModelConfig) -> jax.Array:
    """[B,T,N*K] -> [B,T,N,K]."""
    return rearrange(x, "b t (n k) -> b t n k", n=cfg.num_heads)


class Attention(nn.Module):
    """Self-attention with rotary positions, optionally fused with a reference.

    Two softmaxes share one query; their results are summed before the one output
    projection. The reference branch turns queries and keys as if all tokens stood in
    frame 0, so only rows and columns relate a pixel to the reference.

    Source: section 6 of the released model; paper, hybrid reference fusion attention.
    """

    cfg: ModelConfig
    reference: bool
    dtype: jnp.dtype = jnp.float32
    tokens: str = axes.TOKENS
    form: AttentionConfig = AttentionConfig()

    @nn.compact
    def __call__(
        self, x: jax.Array, rope: Rope, feature: jax.Array | None = None
    ) -> jax.Array:
        """x [B,T,D], feature [B,R,D] or None -> [B,T,D].

        Where devices share the tokens, R is one copy of the reference for each: the
        keys and values of a device's own copy cost no exchange with the others.
        """
        cfg, dtype = self.cfg, self.dtype

        def dense(name: str, y: Any) -> jax.Array:
            return Dense(cfg.dim, _IN, dtype, name=name)(y)

        def norm(name: str, y: jax.Array) -> jax.Array:
            return RMSNorm(cfg.eps, dtype, name=name)(y)

        def values(name: str, y: Any) -> jax.Array:
            # Else a TPU turns the weights, and holds whole stacks of them twice.
            return heads(jax.lax.optimization_barrier(dense(name, y)), cfg)

        q = heads(norm("query_norm", dense("query", x)), cfg)
        k = heads(norm("key_norm", dense("key", x)), cfg)
        v = values("value", x)
        same: Any = dict(tokens=self.tokens, config=self.form)
        count = rope.num_tokens
        out = attend(
            rope.rotate(q), rope.rotate(k), v, keys=self.tokens, num_keys=count, **same
        )
        if self.reference:
            rk = heads(norm("reference_key_norm", dense("reference_key", feature)), cfg)
            rv = values("reference_value", feature)
            still = dataclasses.replace(
                rope,
                grid=(1, *rope.grid[1:]),
                copies=axes.shards(self.tokens),
                padding=0,
            )
            out = out + attend(
                rope.rotate(q, time=False),
                still.rotate(rk),
                rv,
                keys=axes.REFERENCE_COPIES,
                **same,
            )
        merged = rearrange(out, "b t n k -> b t (n k)")
        return Dense(cfg.dim, _OUT, dtype, name="out")(merged)
