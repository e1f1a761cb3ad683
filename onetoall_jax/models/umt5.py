"""The umT5 text encoder."""

import dataclasses
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from onetoall_jax import axes
from onetoall_jax.models.layers import RMSNorm, gelu, named

Params = Any


@dataclasses.dataclass(frozen=True)
class UMT5Config:
    """Sizes of the encoder; the defaults are umT5-XXL's.

    Attributes:
      num_buckets, max_distance: of the relative positions.
    """

    vocab_size: int = 256384
    dim: int = 4096
    num_layers: int = 24
    num_heads: int = 64
    head_dim: int = 64
    mlp_dim: int = 10240
    num_buckets: int = 32
    max_distance: int = 128
    eps: float = 1e-6


def position_bucket(length: int, num_buckets: int, max_distance: int) -> np.ndarray:
    """Bucket of key - query for every pair, [L,L]: half for each sign, then by size.

    Up to a quarter of the buckets distances count singly, then logarithmically.
    """
    distance = np.arange(length)[None, :] - np.arange(length)[:, None]
    half = num_buckets // 2
    exact = half // 2
    size = np.abs(distance)
    with np.errstate(divide="ignore"):
        ratio = np.log(np.maximum(size, 1).astype(np.float32) / exact)
    scale = np.float32(math.log(max_distance / exact))
    far = exact + (ratio / scale * (half - exact)).astype(np.int64)
    bucket = np.where(size < exact, size, np.minimum(far, half - 1))
    return bucket + half * (distance > 0)


def _kernel(module: nn.Module, name: str, shape: tuple, *names: str) -> jax.Array:
    init = nn.initializers.normal(shape[0] ** -0.5)
    kernel = module.param(name, named(init, *names), shape)
    return kernel.astype(module.dtype)  # type: ignore[attr-defined]


class _Linear(nn.Module):
    features: int
    names: tuple[str, str]
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return x @ _kernel(self, "kernel", (x.shape[-1], self.features), *self.names)


class _Attention(nn.Module):
    cfg: UMT5Config
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, bias: jax.Array) -> jax.Array:
        """No 1/sqrt scaling; bias [B,N,L,L] in float32."""
        cfg = self.cfg
        inner = cfg.num_heads * cfg.head_dim
        wide = (axes.PARAM_EMBED, axes.PARAM_HEADS)

        def heads(name: str) -> jax.Array:
            y = _Linear(inner, wide, self.dtype, name=name)(x)
            return rearrange(y, "b l (n k) -> b l n k", n=cfg.num_heads)

        q, k, v = heads("query"), heads("key"), heads("value")
        scores = jnp.einsum("BTNK,BSNK->BNTS", q, k, preferred_element_type=jnp.float32)
        weights = jax.nn.softmax(scores + bias, axis=-1).astype(self.dtype)
        out = rearrange(
            jnp.einsum("BNTS,BSNK->BTNK", weights, v), "b l n k -> b l (n k)"
        )
        return _Linear(cfg.dim, wide[::-1], self.dtype, name="out")(out)


class _GatedMLP(nn.Module):
    cfg: UMT5Config
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        names = (axes.PARAM_EMBED, axes.PARAM_MLP)
        gate = _Linear(self.cfg.mlp_dim, names, self.dtype, name="gate")(x)
        y = _Linear(self.cfg.mlp_dim, names, self.dtype, name="in")(x)
        out = _Linear(self.cfg.dim, names[::-1], self.dtype, name="out")
        return out(gelu(gate) * y)


class Block(nn.Module):
    """Attention with this layer's own position bias, then the gated feed-forward."""

    cfg: UMT5Config
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: jax.Array, buckets: jax.Array, masked: jax.Array
    ) -> jax.Array:
        """x [B,L,D], buckets [L,L] int, masked [B,1,1,L] float32 -> [B,L,D]."""
        cfg, dtype = self.cfg, self.dtype
        table = self.param(
            "position_bias",
            named(nn.initializers.normal(1.0), None, axes.PARAM_HEADS),
            (cfg.num_buckets, cfg.num_heads),
        )
        bias = rearrange(
            table.astype(dtype).astype(jnp.float32)[buckets], "t s n -> 1 n t s"
        )
        h = RMSNorm(cfg.eps, dtype, name="attention_norm")(x)
        x = x + _Attention(cfg, dtype, name="attention")(h, bias + masked)
        h = RMSNorm(cfg.eps, dtype, name="mlp_norm")(x)
        return x + _GatedMLP(cfg, dtype, name="mlp")(h)


def init(cfg: UMT5Config, key: jax.Array) -> Params:
    """Fresh parameters, boxed with logical axis names."""
    keys = jax.random.split(key, cfg.num_layers + 1)
    args = (jnp.zeros((1, 2, cfg.dim)), jnp.zeros((2, 2), int), jnp.zeros((1, 1, 1, 2)))
    stacked = jax.vmap(lambda k: Block(cfg).init(k, *args)["params"])(keys[1:])
    embed = named(nn.initializers.normal(1.0), axes.VOCAB, axes.PARAM_EMBED)
    norm = RMSNorm(cfg.eps).init(keys[0], args[0])["params"]
    return {
        "embedding": embed(keys[0], (cfg.vocab_size, cfg.dim)),
        "blocks": nn.meta.add_axis(stacked, 0, {nn.PARTITION_NAME: axes.LAYERS}),
        "final_norm": norm,
    }


def abstract(cfg: UMT5Config) -> Params:
    """Shapes and types of `init`, unboxed."""
    return nn.meta.unbox(jax.eval_shape(lambda key: init(cfg, key), jax.random.key(0)))


def encode(
    cfg: UMT5Config,
    params: Params,
    ids: jax.Array,
    mask: jax.Array,
    *,
    dtype: jnp.dtype = jnp.float32,
) -> jax.Array:
    """Prompt embeddings, rows of padding set to zero.

    Args:
      ids: [B,L] int token numbers.
      mask: [B,L], 1 for a token, 0 for padding.
    Returns:
      [B,L,dim] in `dtype`.
    Source: section 5 of the released VAE and text encoder page; every layer has its own
    position bias, unlike T5.
    """
    length = ids.shape[1]
    buckets = jnp.asarray(position_bucket(length, cfg.num_buckets, cfg.max_distance))
    masked = jnp.where(mask[:, None, None, :] > 0, 0.0, jnp.finfo(jnp.float32).min)
    x = params["embedding"].astype(dtype)[ids]

    def layer(x: jax.Array, p: Params) -> tuple[jax.Array, None]:
        block: Any = Block(cfg, dtype)
        return block.apply({"params": p}, x, buckets, masked), None

    x, _ = jax.lax.scan(layer, x, params["blocks"])
    norm: Any = RMSNorm(cfg.eps, dtype)
    rows = norm.apply({"params": params["final_norm"]}, x)
    return rows * mask[..., None].astype(dtype)
