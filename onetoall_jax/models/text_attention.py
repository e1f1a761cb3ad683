"""Attention to a prompt: its rows, what the blocks keep of them, the layer."""

import math
from typing import Any, NamedTuple

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from onetoall_jax import axes
from onetoall_jax.models.attention import attend
from onetoall_jax.models.layers import Dense, RMSNorm, dense, dense_weights
from onetoall_jax.models.settings import ModelConfig

_IN = (axes.PARAM_EMBED, axes.PARAM_HEADS)
_OUT = (axes.PARAM_HEADS, axes.PARAM_EMBED)
_ROUND = 4  # row counts are multiples of this, so that few prompts need a new program
MOST = 128  # rows up to which merging pays: see `_folds`, at a head width of 128


@flax.struct.dataclass
class Text:
    """Rows of prompts that stand for many equal ones.

    Attributes:
      rows: [B,n,text_dim].
      copies: [B,n], how often a row stands in the prompt; 0 where it fills up.
    """

    rows: jax.Array
    copies: jax.Array

    def __len__(self) -> int:
        return len(self.rows)


def merged(rows: np.ndarray, most: int = MOST) -> "Text | np.ndarray":
    """Prompts with equal rows merged; exact, for attention to them has no positions.

    A prompt's zero padding becomes one row that counts as often as it stood there.

    Args:
      rows: [B,L,text_dim], on the host.
      most: with more distinct rows, or as many as there were, the prompts come back
        as they are.
    """
    kinds = []
    for prompt in rows:
        _, first, copies = np.unique(
            prompt, axis=0, return_index=True, return_counts=True
        )
        order = np.argsort(first)
        kinds.append((prompt[first[order]], copies[order]))
    length = -(-max(len(found) for found, _ in kinds) // _ROUND) * _ROUND
    if length > most or length >= rows.shape[1]:
        return rows
    out = np.zeros((len(rows), length, rows.shape[2]), rows.dtype)
    count = np.zeros(out.shape[:2], np.float32)
    for i, (found, copies) in enumerate(kinds):
        out[i, : len(found)] = found
        count[i, : len(found)] = copies
    return Text(out, count)  # type: ignore[arg-type]


class TextMemory(NamedTuple):
    """What blocks keep of a prompt; several blocks in front as a leading axis.

    Attributes:
      key, value: [B,n,N,K].
      bias: [B,n] added to the scores, the logarithm of a row's copies; None is zero.
        All blocks share it.
    """

    key: jax.Array
    value: jax.Array
    bias: jax.Array | None = None

    def block(self, i: int) -> "TextMemory":
        """Memory of block i alone."""
        return TextMemory(self.key[i], self.value[i], self.bias)


class TextAttention(nn.Module):
    """Attention from video tokens to text rows; no positions, no mask."""

    cfg: ModelConfig
    dtype: jnp.dtype = jnp.float32

    def setup(self) -> None:
        cfg, dtype = self.cfg, self.dtype
        self.query = Dense(cfg.dim, _IN, dtype)
        self.key = Dense(cfg.dim, _IN, dtype)
        self.value = Dense(cfg.dim, _IN, dtype)
        self.query_norm = RMSNorm(cfg.eps, dtype)
        self.key_norm = RMSNorm(cfg.eps, dtype)
        self.out = _Mixed(cfg.dim, dtype)

    def remember(self, text: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Embedded rows [B,n,D] -> keys and values [B,n,N,K]."""
        key = self.key_norm(self.key(text))
        # Else a TPU turns the weights of all blocks, and holds them twice.
        value = jax.lax.optimization_barrier(self.value(text))
        return _heads(key, self.cfg), _heads(value, self.cfg)

    def __call__(self, x: jax.Array, text: Any) -> jax.Array:
        """x [B,T,D] -> [B,T,D]."""
        if self.is_initializing():
            # Here the text is rows; the layer itself only ever sees what was kept.
            text = TextMemory(*self.remember(text))
        query = _heads(self.query_norm(self.query(x)), self.cfg)
        return self.out(query, text)


class _Mixed(nn.Module):
    """Values mixed by attention, and the projection out of all heads."""

    features: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, query: jax.Array, text: TextMemory) -> jax.Array:
        _, tokens, heads, width = query.shape
        weights = dense_weights(self, heads * width, self.features, _OUT)
        key, value, bias = text
        folds = _folds(tokens, key.shape[1], heads, self.features)
        if bias is None and not folds:
            mixed = attend(query, key, value, keys=axes.TEXT_TOKENS)
            return dense(rearrange(mixed, "b t n k -> b t (n k)"), weights)
        share_BNTS = _shares(query, key, bias)
        if not folds:
            mixed = jnp.einsum("BNTS,BSNK->BTNK", share_BNTS, value)
            return dense(rearrange(mixed, "b t n k -> b t (n k)"), weights)
        kernel = rearrange(weights.merged, "(n k) d -> n k d", n=heads)
        folded_BSND = jnp.einsum("BSNK,NKD->BSND", value, kernel)
        out = jnp.einsum("BNTS,BSND->BTD", share_BNTS, folded_BSND)
        return out + weights.bias


def _shares(query: jax.Array, key: jax.Array, bias: jax.Array | None) -> jax.Array:
    """softmax(q k^T / sqrt(K) + bias) [B,N,T,n]; few rows, so it may be held whole."""
    scores = jnp.einsum(
        "BTNK,BSNK->BNTS", query, key, preferred_element_type=jnp.float32
    ) / math.sqrt(query.shape[-1])
    if bias is not None:
        scores = scores + bias[:, None, None]
    return jax.nn.softmax(scores, axis=-1).astype(query.dtype)


def _folds(tokens: int, rows: int, heads: int, features: int) -> bool:
    """Is it less work to project few values than many mixtures of them?

    sum_n P_n V_n W_n = sum_n P_n (V_n W_n): the right side costs
    tokens * rows * heads * features, the left tokens * (rows + features) * features.
    """
    folded = tokens * rows * heads + rows * features
    return folded < tokens * (rows + features)


def _heads(x: jax.Array, cfg: ModelConfig) -> jax.Array:
    return rearrange(x, "b t (n k) -> b t n k", n=cfg.num_heads)
