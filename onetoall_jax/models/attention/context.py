"""Attention of devices that share the tokens of a clip: Ulysses and ring.

Both run inside `shard_map`, on each device's own tokens, and are exact.
"""

import functools
import math

import jax
import jax.numpy as jnp
from einops import rearrange
from jax.ad_checkpoint import checkpoint_name

from onetoall_jax.models.attention import kernels
from onetoall_jax.models.attention.settings import AttentionConfig

# Scores of a block that are held at a time, over all its clips and heads.
_BLOCK_SCORES = 1 << 27
_NOTHING = -1e30  # a score that no softmax sees; infinite would make 0 * inf


def ulysses(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    axis: str,
    num_keys: int,
    config: AttentionConfig,
) -> jax.Array:
    """Trades tokens for heads, attends to all tokens, trades back.

    Args:
      q, k, v: [B,t,N,K], t of the tokens, N a multiple of the devices of `axis`.
      num_keys: tokens of the clip; those behind them are padding.
    Source: Jacobs et al. 2023, DeepSpeed Ulysses.
    """
    exchange = functools.partial(jax.lax.all_to_all, axis_name=axis, tiled=True)
    # One exchange instead of three.
    q, k, v = exchange(jnp.stack([q, k, v]), split_axis=3, concat_axis=2)
    out = kernels.local(q, k[:, :num_keys], v[:, :num_keys], config)
    return exchange(out, split_axis=1, concat_axis=2)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def ring(
    q: jax.Array, k: jax.Array, v: jax.Array, axis: str, devices: int, num_keys: int
) -> jax.Array:
    """Keys and values go round; every device sums their parts of its own softmax.

    Args:
      q, k, v: [B,t,N,K], t of the tokens.
      devices: of `axis`.
      num_keys: tokens of the clip; those behind them are padding.
    Source: Liu et al. 2023, ring attention; its sum: Milakov and Gimelshein 2018.
    """
    return _ring_forward(q, k, v, axis, devices, num_keys)[0]


def _ring_forward(q, k, v, axis, devices, num_keys):
    here = jax.lax.axis_index(axis)
    # Mixed values, highest score and sum of weights so far, of every query.
    row = q.shape[:-1]
    total = (
        jnp.zeros(q.shape, jnp.float32),
        jnp.full(row, _NOTHING, jnp.float32),
        jnp.zeros(row, jnp.float32),
    )

    def add(total, kv, i):
        hidden = _hidden(here, i, devices, k.shape[1], num_keys)

        def chunk(_, rows):
            q, total = rows
            return _, _online(q, total, kv, hidden)

        return _by_chunks(chunk, (), (q, total), kv)[1]

    def body(carry, i):
        total, kv = carry
        # Started before the sum that it does not depend on, to travel meanwhile.
        following = _pass_on(kv, axis, devices)
        return (add(total, kv, i), following), None

    (total, kv), _ = jax.lax.scan(body, (total, (k, v)), jnp.arange(devices - 1))
    mixed, top, weight = add(total, kv, devices - 1)
    out = (mixed / weight[..., None]).astype(q.dtype)
    # Both, as the output alone would save a backward pass nothing.
    out = checkpoint_name(out, kernels.OUTPUT)
    log_sum = checkpoint_name(top + jnp.log(weight), kernels.OUTPUT)
    return out, (q, k, v, out, log_sum)


def _ring_backward(axis, devices, num_keys, kept, d_out):
    q, k, v, out, log_sum = kept
    here = jax.lax.axis_index(axis)
    delta = jnp.sum(d_out.astype(jnp.float32) * out.astype(jnp.float32), axis=-1)

    def add(d_q, kv, d_kv, i):
        hidden = _hidden(here, i, devices, k.shape[1], num_keys)

        def chunk(d_kv, rows):
            *given, d_q = rows
            more_q, more_kv = _gradients(given, kv, hidden)
            return jax.tree.map(jnp.add, d_kv, more_kv), d_q + more_q

        return _by_chunks(chunk, d_kv, (q, d_out, log_sum, delta, d_q), kv)

    def body(carry, i):
        d_q, kv, d_kv = carry
        following = _pass_on(kv, axis, devices)
        d_kv, d_q = add(d_q, kv, d_kv, i)
        return (d_q, following, _pass_on(d_kv, axis, devices)), None

    d_q, d_k, d_v = (jnp.zeros(x.shape, jnp.float32) for x in (q, k, v))
    first = (d_q, (k, v), (d_k, d_v))
    (d_q, kv, d_kv), _ = jax.lax.scan(body, first, jnp.arange(devices - 1))
    d_kv, d_q = add(d_q, kv, d_kv, devices - 1)
    d_k, d_v = _pass_on(d_kv, axis, devices)  # home
    return d_q.astype(q.dtype), d_k.astype(k.dtype), d_v.astype(v.dtype)


ring.defvjp(_ring_forward, _ring_backward)


def _pass_on(tree, axis, devices):
    """Every device's arrays to the next one."""
    following = [(i, (i + 1) % devices) for i in range(devices)]
    return jax.lax.ppermute(tree, axis, following)


def _hidden(here, i, devices, length, num_keys):
    """[S] bool: keys that are padding, of the block that came from i devices back."""
    first = (here - i) % devices * length
    return first + jnp.arange(length) >= num_keys


def _by_chunks(fn, carry, rows, kv):
    """Scans `fn(carry, rows) -> (carry, rows)` over queries, some at a time.

    Args:
      rows: arrays [B,t,N,...].
      kv: whose scores against a chunk of queries must fit the bound.
    """
    b, t, n = jax.tree.leaves(rows)[0].shape[:3]
    chunk = max(1, min(t, _BLOCK_SCORES // (b * n * kv[0].shape[1])))
    if chunk == t:
        return fn(carry, rows)
    num = -(-t // chunk)

    def split(x):
        width = [(0, 0), (0, num * chunk - t)] + [(0, 0)] * (x.ndim - 2)
        return rearrange(jnp.pad(x, width), "b (i t) ... -> i b t ...", i=num)

    carry, made = jax.lax.scan(fn, carry, jax.tree.map(split, rows))
    return carry, jax.tree.map(
        lambda x: rearrange(x, "i b t ... -> b (i t) ...")[:, :t], made
    )


def _scores(q, k, hidden):
    """[B,T,N,S] float32."""
    scores = jnp.einsum("BTNK,BSNK->BTNS", q, k, preferred_element_type=jnp.float32)
    return jnp.where(hidden, _NOTHING, scores / math.sqrt(q.shape[-1]))


def _online(q, total, kv, hidden):
    """Adds a block of keys to the running softmax of some queries.

    A block of padding alone, met first, counts with weight 1 until a real score comes:
    then it shrinks to nothing.
    """
    (k, v), (mixed, top, weight) = kv, total
    scores = _scores(q, k, hidden)
    higher = jnp.maximum(top, jnp.max(scores, axis=-1))
    shrink = jnp.exp(top - higher)
    weights = jnp.exp(scores - higher[..., None])
    part = _einsum("BTNS,BSNK->BTNK", weights.astype(v.dtype), v)
    mixed = mixed * shrink[..., None] + part
    return mixed, higher, weight * shrink + jnp.sum(weights, axis=-1)


def _gradients(rows, kv, hidden):
    """What a block of keys adds to the gradients: (of q, (of k, of v)), float32."""
    (q, d_out, log_sum, delta), (k, v) = rows, kv
    weights = jnp.exp(_scores(q, k, hidden) - log_sum[..., None])
    d_weights = _einsum("BTNK,BSNK->BTNS", d_out, v)
    scale = 1 / math.sqrt(q.shape[-1])
    d_scores = (weights * (d_weights - delta[..., None]) * scale).astype(q.dtype)
    d_k = _einsum("BTNS,BTNK->BSNK", d_scores, q)
    d_v = _einsum("BTNS,BTNK->BSNK", weights.astype(d_out.dtype), d_out)
    return _einsum("BTNS,BSNK->BTNK", d_scores, k), (d_k, d_v)


_einsum = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
