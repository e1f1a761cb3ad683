"""Blocks, embeddings and head of the Wan diffusion transformer."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jax.ad_checkpoint import checkpoint_name

from onetoall_jax import axes
from onetoall_jax.models.attention import OUTPUT, AttentionConfig
from onetoall_jax.models.hrfa import Attention
from onetoall_jax.models.layers import (
    MLP,
    Dense,
    LayerNorm,
    gelu,
    layer_norm,
    named,
    silu,
)
from onetoall_jax.models.layers import sinusoid as time_sinusoid
from onetoall_jax.models.rope import Rope
from onetoall_jax.models.settings import ModelConfig
from onetoall_jax.models.text_attention import TextAttention, TextMemory

Params = Any

_TOGETHER = 1 << 13  # tokens that go through a block at once, but for keys and values


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


def parts(tokens: int) -> int:
    """Number of equal parts of at most `_TOGETHER` tokens; 1 where none are equal."""
    divisors = (n for n in range(1, 65) if tokens % n == 0)
    return next((n for n in divisors if tokens // n <= _TOGETHER), 1)


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
    tokens: str = axes.TOKENS  # logical axis of x
    form: AttentionConfig = AttentionConfig()

    def setup(self) -> None:
        cfg, dtype = self.cfg, self.dtype
        init = named(table_init(cfg.dim), axes.MODULATION, axes.NORM)
        self.modulation = self.param("modulation", init, (6, cfg.dim))
        self.attention = Attention(cfg, self.reference, dtype, self.tokens, self.form)
        if self.text:
            self.text_norm = LayerNorm(cfg.eps, dtype)
            self.text_attention = TextAttention(cfg, dtype)
        self.mlp = MLP(cfg.mlp_dim, cfg.dim, gelu, dtype=dtype)

    def __call__(
        self,
        x: jax.Array,
        modulation: Modulation,
        rope: Rope,
        text: TextMemory | jax.Array | None = None,
        feature: jax.Array | None = None,
    ) -> jax.Array:
        """x [B,T,D], feature [B,R,D] -> [B,T,D]; initialisation takes text rows."""
        attended = self.attend(x, modulation, rope, feature)
        return self.finish(attended, modulation, text)

    def attend(
        self,
        x: jax.Array,
        modulation: Modulation,
        rope: Rope,
        feature: jax.Array | None = None,
    ) -> jax.Array:
        """The first part, which no text reaches: attention and its residual."""
        mod = modulation.plus(self.modulation)
        normed = self._modulated(x, mod, 0)
        keys = self.attention.keys(normed, rope, feature)
        if self._parts(x) == 1:
            return self._gated(x, self.attention(normed, keys, rope), mod, 2)

        def one(
            block: "Block", x: jax.Array, part: Modulation, start: Any
        ) -> jax.Array:
            mod = part.plus(block.modulation)
            y = block.attention(block._modulated(x, mod, 0), keys, rope, start)
            return block._gated(x, y, mod, 2)

        return self._in_parts(one, x, modulation)

    def finish(
        self,
        x: jax.Array,
        modulation: Modulation,
        text: TextMemory | jax.Array | None = None,
    ) -> jax.Array:
        """The second part: text and feed-forward."""
        if self._parts(x) == 1:
            return self._finish(x, modulation, text)

        def one(block: "Block", x: jax.Array, part: Modulation, _: Any) -> jax.Array:
            return block._finish(x, part, text)

        return self._in_parts(one, x, modulation)

    def _parts(self, x: jax.Array) -> int:
        # Split parameters would be gathered anew for every part.
        return parts(x.shape[1]) if axes.alone() else 1

    def _in_parts(
        self, fn: Callable[..., jax.Array], x: jax.Array, modulation: Modulation
    ) -> jax.Array:
        """fn(block, x, modulation, start) of all tokens, some of them at a time.

        Queries, their results and the feed-forward's middle take many times the memory
        of the tokens, and no token needs another's.
        """
        count = self._parts(x)

        def body(block: "Block", _: None, part: tuple, start: Any) -> tuple:
            x, is_clean = part
            own = modulation.replace(is_clean=is_clean)  # type: ignore[attr-defined]
            return None, fn(block, x, own, start)

        scan: Any = nn.scan(
            body,
            variable_broadcast="params",
            split_rngs={"params": False},
            in_axes=(1, 0),
            out_axes=1,
        )
        cut = jax.tree.map(
            lambda a: rearrange(a, "b (n t) ... -> b n t ...", n=count),
            (x, modulation.is_clean),
        )
        starts = np.arange(count) * (x.shape[1] // count)
        _, made = scan(self, None, cut, starts)
        return rearrange(made, "b n t d -> b (n t) d")

    def _finish(
        self,
        x: jax.Array,
        modulation: Modulation,
        text: TextMemory | jax.Array | None,
    ) -> jax.Array:
        mod = modulation.plus(self.modulation)
        if self.text:
            x = x + self.text_attention(self.text_norm(x), text)
        return self._gated(x, self.mlp(self._modulated(x, mod, 3)), mod, 5)

    def _modulated(self, x: jax.Array, mod: Modulation, shift: int) -> jax.Array:
        y = layer_norm(x, self.cfg.eps)
        y = y * (1 + mod.part(shift + 1)) + mod.part(shift)
        return y.astype(self.dtype)

    def _gated(
        self, x: jax.Array, y: jax.Array, mod: Modulation, gate: int
    ) -> jax.Array:
        wide = x.astype(jnp.float32) + mod.part(gate) * y.astype(jnp.float32)
        names = (axes.BATCH, self.tokens, axes.EMBED)
        return axes.constrain(wide.astype(self.dtype), *names)


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
        return Dense(self.cfg.dim, names, self.dtype, name="out")(silu(h))


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

    def __post_init__(self) -> None:
        if self.remat not in REMAT:
            raise ValueError(f"remat is {self.remat!r}: known are {tuple(REMAT)}")

    def init(self, key: jax.Array, length: int, *args: Any) -> Params:
        """Parameters of `length` blocks, boxed, with the axis of layers named."""
        keys = jax.random.split(key, length)
        stacked = jax.vmap(lambda k: self.block.init(k, *args)["params"])(keys)
        return nn.meta.add_axis(stacked, 0, {nn.PARTITION_NAME: axes.LAYERS})

    def one(
        self,
        params: Params,
        i: int,
        x: jax.Array,
        *args: Any,
        method: str = "__call__",
    ) -> jax.Array:
        """Block i alone, or one of its two parts: see `Block`."""
        call = self._call(scanned=False, method=method)
        return call(jax.tree.map(lambda p: p[i], params), x, *args)

    def scan(
        self,
        params: Params,
        x: jax.Array,
        modulation: Modulation,
        rope: Rope,
        text: TextMemory | None = None,
        features: jax.Array | None = None,
        feature_index: jax.Array | None = None,
        keep: bool = False,
    ) -> tuple[jax.Array, Any]:
        """All blocks in order.

        Args:
          text: of all blocks.
          features: [M+1,B,R,D]; block i reads features[feature_index[i]].
          keep: also return every block's output.
        Returns:
          (x [B,T,D], outputs [I,B,T,D] or None).
        """

        call = self._call(scanned=True)
        kept = (None, None) if text is None else (text.key, text.value)

        def body(x: jax.Array, layer: tuple) -> tuple[jax.Array, jax.Array | None]:
            p, index, (key, value) = layer
            feature = None if features is None else features[index]
            memory = None if text is None else TextMemory(key, value, text.bias)
            y = call(p, x, modulation, rope, memory, feature)
            return y, (y if keep else None)

        return jax.lax.scan(body, x, (params, feature_index, kept))

    def _call(
        self, *, scanned: bool, method: str = "__call__"
    ) -> Callable[..., jax.Array]:
        def apply(params: Params, x: jax.Array, *args: Any) -> jax.Array:
            x = checkpoint_name(x, _INPUT)
            return self.block.apply({"params": params}, x, *args, method=method)  # type: ignore[return-value]

        if self.remat == "none":
            return apply
        # Inside a scan nothing can be shared with the forward pass anyway.
        return jax.checkpoint(apply, policy=REMAT[self.remat], prevent_cse=not scanned)


_INPUT = "block_input"


def _attention_kept(primitive: Any, *_: Any, **__: Any) -> bool:
    # Of cuDNN's kernel the backward pass needs a sum that carries no name.
    return primitive.name.startswith("dot_product_attention_fwd")


_policies = jax.checkpoint_policies
# What a block keeps for its backward pass, beside its input; the rest is recomputed.
REMAT: Mapping[str, Callable[..., Any] | None] = {
    "none": None,  # everything is kept: not a policy
    "block": _policies.nothing_saveable,
    "attention": _policies.save_from_both_policies(
        _policies.save_only_these_names(OUTPUT), _attention_kept
    ),
    # The input too waits in the host's memory.
    "offload": _policies.save_and_offload_only_these_names(
        names_which_can_be_saved=[],
        names_which_can_be_offloaded=[_INPUT, OUTPUT],
        offload_src="device",
        offload_dst="pinned_host",
    ),
}
