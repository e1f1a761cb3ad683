"""The one attention entry; picks the fastest exact form for the device."""

import math

import jax
import jax.numpy as jnp
from einops import rearrange

from onetoall_jax import axes

# Scores (B * N * T * S) up to which the plain form is fastest on a CPU and small
# enough to hold; above it queries go in chunks of this many scores per head.
_PLAIN_SCORES = 1 << 21
_CHUNK_SCORES = 1 << 20

KERNELS = ("auto", "plain", "chunked", "cudnn", "splash")


def attend(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    bias: jax.Array | None = None,
    kernel: str = "auto",
) -> jax.Array:
    """softmax(q k^T / sqrt(K) + bias) v.

    Args:
      q: [B,T,N,K].
      k, v: [B,S,N,K].
      bias: broadcasts to [B,N,T,S]; plain form only.
      kernel: one of KERNELS; "auto" chooses by device, type and size.
    Returns:
      [B,T,N,K] in the type of q; scores and softmax are float32.
    """
    if kernel == "auto":
        kernel = _choose(q, k, bias)
    if kernel == "plain":
        return _plain(q, k, v, bias)
    if bias is not None:
        raise ValueError(f"kernel {kernel!r} takes no bias")
    return _FORMS[kernel](q, k, v)


def _choose(q: jax.Array, k: jax.Array, bias: jax.Array | None) -> str:
    b, t, n, head_dim = q.shape
    if bias is not None:
        return "plain"
    platform = axes.platform()
    if platform == "gpu" and q.dtype != jnp.float32 and head_dim in (32, 64, 128):
        return "cudnn"
    if platform == "tpu" and head_dim % 128 == 0 and t >= 1024:
        return "splash"
    return "plain" if b * n * t * k.shape[1] <= _PLAIN_SCORES else "chunked"


def _plain(
    q: jax.Array, k: jax.Array, v: jax.Array, bias: jax.Array | None = None
) -> jax.Array:
    scores_BNTS = jnp.einsum(
        "BTNK,BSNK->BNTS", q, k, preferred_element_type=jnp.float32
    ) / math.sqrt(q.shape[-1])
    if bias is not None:
        scores_BNTS = scores_BNTS + bias
    weights_BNTS = jax.nn.softmax(scores_BNTS, axis=-1).astype(q.dtype)
    return jnp.einsum("BNTS,BSNK->BTNK", weights_BNTS, v)


def _chunked(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """One head and one chunk of queries at a time; scores never exceed one chunk."""
    b, t, n, _ = q.shape
    chunk = min(t, max(1, _CHUNK_SCORES // k.shape[1]))
    num = -(-t // chunk)
    padded = jnp.pad(q, ((0, 0), (0, num * chunk - t), (0, 0), (0, 0)))
    q_heads = rearrange(padded, "b (i t) n k -> (b n) i t k", i=num)
    k_heads, v_heads = (rearrange(x, "b s n k -> (b n) s k") for x in (k, v))

    @jax.checkpoint
    def one_chunk(q_TK: jax.Array, k_SK: jax.Array, v_SK: jax.Array) -> jax.Array:
        scores = jnp.einsum(
            "TK,SK->TS", q_TK, k_SK, preferred_element_type=jnp.float32
        ) / math.sqrt(q.shape[-1])
        top = jnp.max(scores, axis=-1, keepdims=True)
        weights = jnp.exp(scores - top)
        # Dividing after the product touches T*K numbers, not T*S.
        total = jnp.sum(weights, axis=-1, keepdims=True)
        mixed = jnp.einsum(
            "TS,SK->TK",
            weights.astype(q.dtype),
            v_SK,
            preferred_element_type=jnp.float32,
        )
        return (mixed / total).astype(q.dtype)

    def one_head(qkv: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        q_ITK, k_SK, v_SK = qkv
        return jax.lax.map(lambda q_TK: one_chunk(q_TK, k_SK, v_SK), q_ITK)

    out = jax.lax.map(one_head, (q_heads, k_heads, v_heads))
    return rearrange(out, "(b n) i t k -> b (i t) n k", b=b, n=n)[:, :t]


def _cudnn(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    return jax.nn.dot_product_attention(q, k, v, implementation="cudnn")


def _splash(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    block: int = 512,
    interpret: bool = False,
) -> jax.Array:
    """The Pallas kernel for TPU; both lengths padded to its blocks and masked."""
    from jax.experimental.pallas.ops.tpu import splash_attention as splash

    _, t, n, head_dim = q.shape
    s = k.shape[1]
    pad_t, pad_s = -t % block, -s % block
    q_BNTK, k_BNSK, v_BNSK = (
        rearrange(jnp.pad(x, ((0, 0), (0, pad), (0, 0), (0, 0))), "b t n k -> b n t k")
        for x, pad in ((q / math.sqrt(head_dim), pad_t), (k, pad_s), (v, pad_s))
    )
    ids = splash.SegmentIds(
        q=(jnp.arange(t + pad_t) >= t).astype(jnp.int32),
        kv=(jnp.arange(s + pad_s) >= s).astype(jnp.int32),
    )
    mask = splash.MultiHeadMask([splash.FullMask((t + pad_t, s + pad_s))] * n)
    sizes = splash.BlockSizes(
        block_q=block,
        block_kv=block,
        block_kv_compute=block,
        block_q_dkv=block,
        block_kv_dkv=block,
        block_kv_dkv_compute=block,
        use_fused_bwd_kernel=True,
    )
    kernel = splash.make_splash_mha_single_device(
        mask, block_sizes=sizes, interpret=interpret
    )
    out = jax.vmap(kernel, in_axes=(0, 0, 0, None))(q_BNTK, k_BNSK, v_BNSK, ids)
    return rearrange(out, "b n t k -> b t n k")[:, :t].astype(q.dtype)


_FORMS = {"chunked": _chunked, "cudnn": _cudnn, "splash": _splash}
