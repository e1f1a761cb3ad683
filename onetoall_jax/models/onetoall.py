"""The denoiser: parameters of every part, and the three functions that use them."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from onetoall_jax import axes
from onetoall_jax.models import pose_resnet
from onetoall_jax.models.dit import Block, Head, Modulation, Stack, TimeEmbedding
from onetoall_jax.models.layers import MLP, Dense, PatchEmbedding, gelu, unpatchify
from onetoall_jax.models.prefix_encoder import PrefixEncoder
from onetoall_jax.models.rope import Rope
from onetoall_jax.models.settings import ModelConfig

Params = Any
CONTEXT_FRAMES = 2  # latent frames of clean context in token replace


@flax.struct.dataclass
class Conditions:
    """What stays the same over the steps of one segment.

    Attributes:
      text: [B,L,D], embedded prompt rows, zero padding included.
      prefix: [B,1,h,w,C] or None, the latent frame before the video.
      pose_tokens: [B,T,D] of prefix and video frames, or None (no pose path at all).
      pose_scale: [B], factor on the pose residuals.
    """

    text: jax.Array
    prefix: jax.Array | None = None
    pose_tokens: jax.Array | None = None
    pose_scale: jax.Array | None = None


class Functions(NamedTuple):
    """The model as three pure functions; see `functions`."""

    conditions: Callable[..., Conditions]
    reference_features: Callable[..., jax.Array | None]
    velocity: Callable[..., jax.Array]


class _Parts(NamedTuple):
    """The modules of one model; they hold sizes only."""

    patch: PatchEmbedding
    time: TimeEmbedding
    time_projection: Dense
    text: MLP
    blocks: Stack
    head: Head
    plain: Stack  # blocks without text and reference: extractor and pose control
    zeros: Dense  # projections out of the extractor and the pose blocks
    prefix: PrefixEncoder
    pose: pose_resnet.PoseResNet


def _parts(cfg: ModelConfig, dtype: jnp.dtype, remat: str) -> _Parts:
    d = (axes.PARAM_EMBED, axes.PARAM_HEADS)
    reference = cfg.reference_layers > 0
    text_names = (axes.CONV_IN, axes.PARAM_EMBED, axes.PARAM_HEADS)
    return _Parts(
        patch=PatchEmbedding(cfg.dim, cfg.patch, dtype),
        time=TimeEmbedding(cfg, dtype),
        time_projection=Dense(6 * cfg.dim, d, dtype),
        text=MLP(cfg.dim, cfg.dim, gelu, text_names, dtype),
        blocks=Stack(Block(cfg, text=True, reference=reference, dtype=dtype), remat),
        head=Head(cfg, dtype),
        plain=Stack(Block(cfg, text=False, reference=False, dtype=dtype), remat),
        zeros=Dense(cfg.dim, d, dtype, zero_init=True),
        prefix=PrefixEncoder(cfg, dtype),
        pose=pose_resnet.PoseResNet(cfg, dtype),
    )


def init(cfg: ModelConfig, key: jax.Array) -> Params:
    """Fresh parameters, boxed with logical axis names (`flax.linen.meta.unbox`).

    Every layer starts as the release's layers do: uniform in +-1/sqrt(fan_in), norms
    at one, and zero for the layers that join a new part to a trained one.
    """
    part = _parts(cfg, jnp.float32, "none")
    keys = iter(jax.random.split(key, 32))
    row = jnp.zeros((1, cfg.dim))
    tokens = jnp.zeros((1, 1, cfg.dim))
    rope = Rope((1, 1, 1), cfg.head_dim, cfg.rope_theta)
    mod = Modulation(jnp.zeros((1, 6, cfg.dim)))

    def one(module: nn.Module, *args: Any) -> Params:
        return module.init(next(keys), *args)["params"]

    def embeddings(channels: int) -> Params:
        return {
            "patch_embedding": one(part.patch, jnp.zeros((1, *cfg.patch, channels))),
            "time_embedding": one(part.time, jnp.zeros(1)),
            "time_projection": one(part.time_projection, row),
        }

    def projections(length: int) -> Params:
        stacked = jax.vmap(lambda k: part.zeros.init(k, row)["params"])(
            jax.random.split(next(keys), length)
        )
        return nn.meta.add_axis(stacked, 0, {nn.PARTITION_NAME: axes.LAYERS})

    full = (tokens, mod, rope, tokens, tokens)
    dit = embeddings(cfg.in_channels)
    dit["text_embedding"] = one(part.text, jnp.zeros((1, 1, cfg.text_dim)))
    if cfg.lead_layers:
        dit["lead_blocks"] = part.blocks.init(next(keys), cfg.lead_layers, *full)
    rest = cfg.num_layers - cfg.lead_layers
    if rest:
        dit["blocks"] = part.blocks.init(next(keys), rest, *full)
    dit["head"] = one(part.head, tokens, Modulation(jnp.zeros((1, 1, cfg.dim))))
    params = {"dit": dit}
    if cfg.reference_layers:
        params["reference_extractor"] = {
            **embeddings(cfg.reference_channels),
            "blocks": part.plain.init(
                next(keys), cfg.reference_layers, tokens, mod, rope
            ),
            "projections": projections(cfg.reference_layers + 1),
        }
    if cfg.pose_layers:
        latents = jnp.zeros((1, 1, 1, 1, cfg.reference_channels))
        params["prefix_encoder"] = one(part.prefix, latents)
        params["pose_resnet"] = one(part.pose, jnp.zeros((1, 1, 16, 16, 3)))
        params["pose_control"] = {
            "blocks": part.plain.init(next(keys), cfg.pose_layers, tokens, mod, rope),
            "projections": projections(cfg.pose_layers),
        }
    return params


def abstract(cfg: ModelConfig) -> Params:
    """Shapes and types of `init`, unboxed, without making any array."""
    boxed = jax.eval_shape(lambda key: init(cfg, key), jax.random.key(0))
    return nn.meta.unbox(boxed)


def functions(
    cfg: ModelConfig, *, dtype: jnp.dtype = jnp.float32, remat: str = "none"
) -> Functions:
    """The model as three pure functions of plain (unboxed) parameters.

    conditions(params, text, reference=None, pose=None, reference_pose=None,
               pose_scale=1.0) -> Conditions
      text [B,L,text_dim]; reference [B,1,h,w,2C]; pose [B,F,H,W,3] and reference_pose
      [B,1,H,W,3] in -1..1 (both or neither); pose_scale a number or [B].
    reference_features(params, reference, timestep) -> [M+1,B,R,D] or None
    velocity(params, latents, timestep, conditions, features=None, context=None) ->
      predicted noise - data, shaped as latents [B,f,h,w,C]; timestep [B] in 0..1000;
      context [B] bool: there the first CONTEXT_FRAMES latent frames are clean and
      take the modulation of timestep 0 (their output means nothing).

    Args:
      dtype: of the computation; parameters are cast where they are used.
      remat: "none" or "block".
    Source: sections 2, 7, 10, 11 of the released model.
    """
    model = Model.build(cfg, dtype, remat)
    return Functions(model.conditions, model.reference_features, model.velocity)


def _run(module: nn.Module, params: Params, *args: Any) -> jax.Array:
    return module.apply({"params": params}, *args)  # type: ignore[return-value]


class Stream(NamedTuple):
    """Tokens on their way through the blocks, and what every block reads.

    Attributes:
      x: [B,T,D], prefix frame first.
      grid: frames, rows, columns of the tokens.
      rope: their positions.
      modulation, head_modulation: from the noise time, for blocks and for the head.
    """

    x: jax.Array
    grid: tuple[int, int, int]
    rope: Rope
    modulation: Modulation
    head_modulation: Modulation


@dataclasses.dataclass(frozen=True)
class Model:
    """The steps behind `functions`, one method each."""

    cfg: ModelConfig
    dtype: jnp.dtype
    part: _Parts

    @classmethod
    def build(cls, cfg: ModelConfig, dtype: jnp.dtype, remat: str) -> "Model":
        """Model whose modules compute in `dtype`; see `functions`."""
        return cls(cfg, dtype, _parts(cfg, dtype, remat))

    def conditions(
        self,
        params: Params,
        text: jax.Array,
        reference: jax.Array | None = None,
        pose: jax.Array | None = None,
        reference_pose: jax.Array | None = None,
        pose_scale: jax.Array | float = 1.0,
    ) -> Conditions:
        rows = text.astype(self.dtype)
        embedded = _run(self.part.text, params["dit"]["text_embedding"], rows)
        if not self.cfg.pose_layers:
            return Conditions(embedded)
        prefix = _run(self.part.prefix, params["prefix_encoder"], reference)
        if pose is None or reference_pose is None:
            return Conditions(embedded, prefix)
        # Two calls: the norms pool over time, and the reference is no part of the clip.
        grids = [
            _run(self.part.pose, params["pose_resnet"], p)
            for p in (reference_pose, pose)
        ]
        tokens = pose_resnet.to_tokens(jnp.concatenate(grids, axis=1))
        scale = jnp.broadcast_to(jnp.asarray(pose_scale, jnp.float32), text.shape[:1])
        return Conditions(embedded, prefix, tokens, scale)

    def reference_features(
        self, params: Params, reference: jax.Array, timestep: jax.Array
    ) -> jax.Array | None:
        if not self.cfg.reference_layers:
            return None
        p = params["reference_extractor"]
        x = _run(self.part.patch, p["patch_embedding"], reference)
        _, m = self._time(p, timestep)
        rope = self._rope(self._grid(reference))
        _, kept = self.part.plain.scan(p["blocks"], x, Modulation(m), rope, keep=True)
        stages = jnp.concatenate([x[None], kept])
        project = jax.vmap(lambda q, r: _run(self.part.zeros, q, r))
        return project(p["projections"], stages)

    def velocity(
        self,
        params: Params,
        latents: jax.Array,
        timestep: jax.Array,
        given: Conditions,
        features: jax.Array | None = None,
        context: jax.Array | None = None,
    ) -> jax.Array:
        p = params["dit"]
        stream = self.embed(params, latents, timestep, given, context)
        x = stream.x
        if self.cfg.lead_layers:
            x = self._lead(params, stream, given, features)
        if "blocks" in p:
            index = jnp.asarray(self.cfg.feature_of_block[self.cfg.lead_layers :])
            x, _ = self.part.blocks.scan(
                p["blocks"],
                x,
                stream.modulation,
                stream.rope,
                given.text,
                features,
                index,
            )
        patches = _run(self.part.head, p["head"], x, stream.head_modulation)
        out = unpatchify(patches, stream.grid, self.cfg.patch)
        return out if given.prefix is None else out[:, 1:]

    def embed(
        self,
        params: Params,
        latents: jax.Array,
        timestep: jax.Array,
        given: Conditions,
        context: jax.Array | None = None,
    ) -> Stream:
        """Tokens before block 0, with positions and modulation."""
        p = params["dit"]
        z = latents.astype(self.dtype)
        if given.prefix is not None:
            z = jnp.concatenate([given.prefix.astype(self.dtype), z], axis=1)
        grid = self._grid(z)
        x = _run(self.part.patch, p["patch_embedding"], z)
        x = axes.constrain(x, axes.BATCH, axes.TOKENS, axes.EMBED)
        modulations = self._modulations(p, timestep, context, grid)
        return Stream(x, grid, self._rope(grid), *modulations)

    def _lead(
        self,
        params: Params,
        stream: Stream,
        given: Conditions,
        features: jax.Array | None,
    ) -> jax.Array:
        """Blocks 0..P; the pose chain starts at block 0's output, lands after 1..P."""
        x = u = stream.x
        for i in range(self.cfg.lead_layers):
            x = self.lead_block(params, i, x, stream, given, features)
            if given.pose_tokens is None:
                continue
            if i == 0:
                u = x + given.pose_tokens
                continue
            u, residual = self.pose_block(params, i - 1, u, stream)
            scale = given.pose_scale.astype(self.dtype)  # type: ignore[union-attr]
            x = x + scale[:, None, None] * residual
        return x

    def lead_block(
        self,
        params: Params,
        i: int,
        x: jax.Array,
        stream: Stream,
        given: Conditions,
        features: jax.Array | None,
    ) -> jax.Array:
        """Output of leading block i, before a pose residual is added."""
        feature = features[self.cfg.feature_of_block[i]]  # type: ignore[index]
        return self.part.blocks.one(
            params["dit"]["lead_blocks"],
            i,
            x,
            stream.modulation,
            stream.rope,
            given.text,
            feature,
        )

    def pose_block(
        self, params: Params, j: int, u: jax.Array, stream: Stream
    ) -> tuple[jax.Array, jax.Array]:
        """Pose-control block j: (its output, the residual for DiT block j + 1)."""
        p = params["pose_control"]
        u = self.part.plain.one(p["blocks"], j, u, stream.modulation, stream.rope)
        last = jax.tree.map(lambda a: a[j], p["projections"])
        return u, _run(self.part.zeros, last, u)

    def _grid(self, latents: jax.Array) -> tuple[int, int, int]:
        u, p, q = self.cfg.patch
        _, f, h, w, _ = latents.shape
        return f // u, h // p, w // q

    def _rope(self, grid: tuple[int, int, int]) -> Rope:
        return Rope(grid, self.cfg.head_dim, self.cfg.rope_theta)

    def _time(self, params: Params, timestep: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Embedding [B,D] and block modulation [B,6,D]."""
        e = _run(self.part.time, params["time_embedding"], timestep)
        m = _run(self.part.time_projection, params["time_projection"], nn.silu(e))
        return e, rearrange(m, "b (six d) -> b six d", six=6)

    def _modulations(
        self,
        params: Params,
        timestep: jax.Array,
        context: jax.Array | None,
        grid: tuple[int, int, int],
    ) -> tuple[Modulation, Modulation]:
        """(of the blocks, of the head)."""
        e, m = self._time(params, timestep)
        if context is None:
            return Modulation(m), Modulation(e[:, None])
        e0, m0 = self._time(params, jnp.zeros_like(timestep))
        frame = np.arange(np.prod(grid)) // (grid[1] * grid[2])
        first = 1 if self.cfg.pose_layers else 0  # the prefix is never context
        clean = (frame >= first) & (frame < first + CONTEXT_FRAMES)
        is_clean = context[:, None] & jnp.asarray(clean)
        return (
            Modulation(m, m0, is_clean),
            Modulation(e[:, None], e0[:, None], is_clean),
        )
