"""Exact attention on one device, one form for each kind of device and size."""

import math

import jax
import jax.numpy as jnp
from einops import rearrange
from jax.ad_checkpoint import checkpoint_name

from onetoall_jax import axes
from onetoall_jax.models.attention.settings import AttentionConfig, Blocks

# Outputs carry this name, for the rematerialisation policies that keep them.
OUTPUT = "attention_output"
# Scores (B * N * T * S) up to which the plain form is fastest on a CPU and small
# enough to hold; above it queries go in chunks of this many scores per head.
_PLAIN_SCORES = 1 << 21
_CHUNK_SCORES = 1 << 20
_SPLASH_BLOCK = 512
_WHOLE = Blocks()
_SPLASH_LANES = 128  # block sizes are multiples of the vector unit's width


def local(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    config: AttentionConfig,
    bias: jax.Array | None = None,
) -> jax.Array:
    """softmax(q k^T / sqrt(K) + bias) v of arrays that one device holds.

    Args:
      q: [B,T,N,K].
      k, v: [B,S,N,K].
      bias: broadcasts to [B,N,T,S]; plain form only.
    """
    kernel = config.kernel
    if kernel == "auto":
        plainly = bias is not None
        kernel = "plain" if plainly else choose(q.shape, k.shape[1], q.dtype)
    if bias is not None and kernel != "plain":
        raise ValueError(f"kernel {kernel!r} takes no bias")
    blocks = config.blocks_for(kernel, q.shape[1], k.shape[1], q.shape[-1])
    if kernel == "chunked":
        out = chunked(q, k, v, blocks)
    elif kernel == "cudnn":
        out = jax.nn.dot_product_attention(q, k, v, implementation="cudnn")
    elif kernel == "splash":
        out = splash(q, k, v, blocks)
    else:
        out = plain(q, k, v, bias)
    return checkpoint_name(out, OUTPUT)


def choose(query: tuple[int, ...], keys: int, dtype: jnp.dtype) -> str:
    """The fastest kernel for queries of a shape [B,T,N,K] on the device in use."""
    b, t, n, head_dim = query
    platform = axes.platform()
    if platform == "gpu" and dtype != jnp.float32 and head_dim in (32, 64, 128):
        return "cudnn"
    if platform == "tpu" and head_dim % 128 == 0 and t >= 1024:
        return "splash"
    return "plain" if b * n * t * keys <= _PLAIN_SCORES else "chunked"


def plain(
    q: jax.Array, k: jax.Array, v: jax.Array, bias: jax.Array | None = None
) -> jax.Array:
    """All scores at once."""
    scores_BNTS = jnp.einsum(
        "BTNK,BSNK->BNTS", q, k, preferred_element_type=jnp.float32
    ) / math.sqrt(q.shape[-1])
    if bias is not None:
        scores_BNTS = scores_BNTS + bias
    weights_BNTS = jax.nn.softmax(scores_BNTS, axis=-1).astype(q.dtype)
    return jnp.einsum("BNTS,BSNK->BTNK", weights_BNTS, v)


def chunked(
    q: jax.Array, k: jax.Array, v: jax.Array, blocks: Blocks = _WHOLE
) -> jax.Array:
    """One head and one chunk of queries at a time; scores never exceed one chunk."""
    b, t, n, _ = q.shape
    chunk = min(t, blocks.query or max(1, _CHUNK_SCORES // k.shape[1]))
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


def splash(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    blocks: Blocks = _WHOLE,
    *,
    interpret: bool = False,
) -> jax.Array:
    """The Pallas kernel for TPU; both lengths padded to its blocks and masked.

    Raises:
      ValueError: blocks that are no multiples of 128, or of which one does not divide
        the next.
    """
    from jax.experimental.pallas.ops.tpu import splash_attention as tpu

    _, t, n, head_dim = q.shape
    s = k.shape[1]
    sizes = _splash_sizes(blocks, t, s)
    pad_t = -t % math.lcm(sizes["block_q"], sizes["block_q_dkv"])
    pad_s = -s % math.lcm(sizes["block_kv"], sizes["block_kv_dkv"])
    q_BNTK, k_BNSK, v_BNSK = (
        rearrange(jnp.pad(x, ((0, 0), (0, pad), (0, 0), (0, 0))), "b t n k -> b n t k")
        for x, pad in ((q / math.sqrt(head_dim), pad_t), (k, pad_s), (v, pad_s))
    )
    ids = None
    if pad_t or pad_s:
        ids = tpu.SegmentIds(
            q=(jnp.arange(t + pad_t) >= t).astype(jnp.int32),
            kv=(jnp.arange(s + pad_s) >= s).astype(jnp.int32),
        )
    mask = tpu.MultiHeadMask([tpu.FullMask((t + pad_t, s + pad_s))] * n)
    kernel = tpu.make_splash_mha_single_device(
        mask,
        block_sizes=tpu.BlockSizes(use_fused_bwd_kernel=True, **sizes),  # type: ignore[arg-type]
        # With the output goes the log-sum that its backward pass needs.
        residual_checkpoint_name=OUTPUT,
        interpret=interpret,
    )
    out = jax.vmap(kernel, in_axes=(0, 0, 0, None))(q_BNTK, k_BNSK, v_BNSK, ids)
    return rearrange(out, "b n t k -> b t n k")[:, :t].astype(q.dtype)


def _splash_sizes(blocks: Blocks, tokens: int, keys: int) -> dict[str, int]:
    def fitted(size: int, length: int) -> int:
        # A block longer than the (short) sequence would only pad it.
        return min(size or _SPLASH_BLOCK, -(-length // _SPLASH_LANES) * _SPLASH_LANES)

    block_kv = fitted(blocks.keys, keys)
    backward = fitted(blocks.keys_backward, keys)
    sizes = {
        "block_q": fitted(blocks.query, tokens),
        "block_kv": block_kv,
        "block_kv_compute": min(blocks.keys_compute or block_kv, block_kv),
        "block_q_dkv": fitted(blocks.query_backward, tokens),
        "block_kv_dkv": backward,
        "block_kv_dkv_compute": min(blocks.keys_backward_compute or backward, backward),
    }
    for name, size in sizes.items():
        if size % _SPLASH_LANES:
            raise ValueError(f"{name} is {size}: make it a multiple of {_SPLASH_LANES}")
    for whole in ("block_kv", "block_kv_dkv"):
        if sizes[whole] % sizes[f"{whole}_compute"]:
            raise ValueError(f"{whole}_compute does not divide {whole}: {sizes}")
    return sizes
