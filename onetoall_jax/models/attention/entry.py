"""The one attention entry: on one device, or over a mesh by `shard_map`."""

import math

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from onetoall_jax import axes
from onetoall_jax.models.attention import context, kernels
from onetoall_jax.models.attention.settings import AttentionConfig

_DEFAULT = AttentionConfig()


def attend(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    tokens: str = axes.TOKENS,
    keys: str = axes.TOKENS,
    num_keys: int | None = None,
    bias: jax.Array | None = None,
    config: AttentionConfig = _DEFAULT,
) -> jax.Array:
    """softmax(q k^T / sqrt(K) + bias) v.

    Under a mesh every device works on its own clips, heads and query tokens. Where the
    keys lie whole on each (text, the reference), nothing is sent; where devices share
    the keys' tokens, `config.context` says how they attend to all of them.

    Args:
      q: [B,T,N,K].
      k, v: [B,S,N,K].
      tokens, keys: logical axes of T and S. With `axes.REFERENCE_COPIES`, S holds one
        whole copy of the keys for each device that shares the tokens; queries meet
        their own copy.
      num_keys: keys that count, the first ones; those behind them are padding.
      bias: broadcasts to [B,N,T,S]; plain kernel and whole keys only.
    Returns:
      [B,T,N,K] in the type of q; scores and softmax are float32.
    Raises:
      ValueError: a bias for another kernel, or for keys that devices share.
    """
    num_keys = k.shape[1] if num_keys is None else num_keys
    batch, rows, heads = axes.spec(axes.BATCH, tokens, axes.HEADS)
    (columns,) = axes.spec(keys)
    if q.shape[0] % axes.size(batch):
        batch = None  # fewer clips than devices: each device has them all
    if math.prod(map(axes.size, (batch, rows, heads, columns))) == 1:
        return kernels.local(q, k[:, :num_keys], v[:, :num_keys], config, bias)
    shared = axes.size(columns) > 1 and keys != axes.REFERENCE_COPIES
    if shared and bias is not None:
        raise ValueError("attention to keys that devices share takes no bias")
    devices = axes.size(columns)
    form = _form(config, devices, q.shape[2], axes.size(heads)) if shared else ""

    def own(q: jax.Array, k: jax.Array, v: jax.Array, *bias: jax.Array) -> jax.Array:
        if form == "ring":
            return context.ring(q, k, v, columns, devices, num_keys)
        if form == "ulysses":
            return context.ulysses(q, k, v, columns, num_keys, config)
        return kernels.local(q, k[:, :num_keys], v[:, :num_keys], config, *bias)

    # Heads that the devices cannot share evenly are filled up with empty ones.
    share = axes.size(heads) * (devices if form == "ulysses" else 1)
    given = [_fill(x, 2, share) for x in (q, k, v)]
    places = [PartitionSpec(batch, at, heads) for at in (rows, columns, columns)]
    if bias is not None:
        filled = bias if bias.shape[1] == 1 else _fill(bias, 1, share)
        given.append(filled)
        places.append(_broadcast(PartitionSpec(batch, heads, rows), filled))
    # What is equal on several devices cannot be inferred through a kernel.
    over = jax.shard_map(
        own, in_specs=tuple(places), out_specs=places[0], check_vma=False
    )
    return over(*given)[:, :, : q.shape[2]]


def _form(config: AttentionConfig, devices: int, heads: int, tensor: int) -> str:
    if config.context != "auto":
        return config.context
    # Beyond one head for each device, the exchange would be of empty ones.
    return "ulysses" if devices <= -(-heads // tensor) else "ring"


def _broadcast(places: PartitionSpec, x: jax.Array) -> PartitionSpec:
    return PartitionSpec(
        *(None if n == 1 else at for at, n in zip(places, x.shape, strict=False))
    )


def _fill(x: jax.Array, axis: int, multiple: int) -> jax.Array:
    """Zeros at the end of an axis, up to the next multiple."""
    missing = -x.shape[axis] % multiple
    if not missing:
        return x
    return jnp.pad(x, [(0, missing if i == axis else 0) for i in range(x.ndim)])
