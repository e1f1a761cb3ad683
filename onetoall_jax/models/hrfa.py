"""Hybrid reference fusion attention: self-attention plus a branch to the reference."""

import dataclasses
from typing import Any, NamedTuple

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


class Keys(NamedTuple):
    """What queries look at: keys and values [B,T,N,K].

    Attributes:
      reference: the same [B,R,N,K] of the reference, if any.
    """

    key: jax.Array
    value: jax.Array
    reference: tuple[jax.Array, jax.Array] | None = None


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

    def setup(self) -> None:
        cfg, dtype = self.cfg, self.dtype
        self.query = Dense(cfg.dim, _IN, dtype)
        self.query_norm = RMSNorm(cfg.eps, dtype)
        self.key = Dense(cfg.dim, _IN, dtype)
        self.key_norm = RMSNorm(cfg.eps, dtype)
        self.value = Dense(cfg.dim, _IN, dtype)
        if self.reference:
            self.reference_key = Dense(cfg.dim, _IN, dtype)
            self.reference_key_norm = RMSNorm(cfg.eps, dtype)
            self.reference_value = Dense(cfg.dim, _IN, dtype)
        self.out = Dense(cfg.dim, _OUT, dtype)

    def keys(self, x: jax.Array, rope: Rope, feature: jax.Array | None = None) -> Keys:
        """Of all tokens x [B,T,D] and of the reference's features [B,R,D], if any.

        Where devices share the tokens, R is one copy of the reference for each: the
        keys and values of a device's own copy cost no exchange with the others.
        """
        k = heads(self.key_norm(self.key(x)), self.cfg)
        own = rope.rotate(k), self._values(self.value(x))
        if not self.reference or feature is None:
            return Keys(*own)
        still = dataclasses.replace(
            rope, grid=(1, *rope.grid[1:]), copies=axes.shards(self.tokens), padding=0
        )
        rk = heads(self.reference_key_norm(self.reference_key(feature)), self.cfg)
        reference = still.rotate(rk), self._values(self.reference_value(feature))
        return Keys(*own, reference)

    def __call__(
        self, x: jax.Array, keys: Keys, rope: Rope, start: jax.Array | int = 0
    ) -> jax.Array:
        """Tokens x [B,t,D], all of them or some from `start` on -> [B,t,D]."""
        q = heads(self.query_norm(self.query(x)), self.cfg)
        same: Any = dict(tokens=self.tokens, config=self.form)
        out = attend(
            rope.rotate(q, start),
            keys.key,
            keys.value,
            keys=self.tokens,
            num_keys=rope.num_tokens,
            **same,
        )
        if keys.reference is not None:
            out = out + attend(
                rope.rotate(q, start, time=False),
                *keys.reference,
                keys=axes.REFERENCE_COPIES,
                **same,
            )
        return self.out(rearrange(out, "b t n k -> b t (n k)"))

    def _values(self, projected: jax.Array) -> jax.Array:
        # Else a TPU turns the weights, and holds whole stacks of them twice.
        return heads(jax.lax.optimization_barrier(projected), self.cfg)
