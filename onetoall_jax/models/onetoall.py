"""The denoiser: parameters of every part, and the functions that use them."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from onetoall_jax import axes
from onetoall_jax.models import passes, pose_resnet
from onetoall_jax.models.attention import AttentionConfig
from onetoall_jax.models.dit import Block, Head, Modulation, Stack, TimeEmbedding
from onetoall_jax.models.layers import (
    MLP,
    Dense,
    PatchEmbedding,
    gelu,
    silu,
    unpatchify,
)
from onetoall_jax.models.prefix_encoder import PrefixEncoder
from onetoall_jax.models.rope import Rope
from onetoall_jax.models.settings import ModelConfig
from onetoall_jax.models.text_attention import Text, TextAttention, TextMemory

Params = Any
_DEFAULT_ATTENTION = AttentionConfig()
CONTEXT_FRAMES = 2  # latent frames of clean context in token replace


@flax.struct.dataclass
class Conditions:
    """What stays the same over the steps of one segment.

    Attributes:
      text: stack of blocks -> what its blocks keep of the prompt.
      prefix: [B,1,h,w,C] or None, the latent frame before the video.
      pose_tokens: [B,T,D] of prefix and video frames, or None (no pose path at all).
      pose_scale: [B], factor on the pose residuals.
    """

    text: Mapping[str, TextMemory]
    prefix: jax.Array | None = None
    pose_tokens: jax.Array | None = None
    pose_scale: jax.Array | None = None


class Functions(NamedTuple):
    """The model as pure functions; see `functions`."""

    conditions: Callable[..., Conditions]
    reference_features: Callable[..., jax.Array | None]
    velocity: Callable[..., jax.Array]
    prepare: Callable[..., Any]
    velocities: Callable[..., list[jax.Array]]
    pass_bytes: Callable[[tuple[int, ...]], int]


class _Parts(NamedTuple):
    """The modules of one model; they hold sizes only."""

    patch: PatchEmbedding
    time: TimeEmbedding
    time_projection: Dense
    text: MLP
    text_attention: TextAttention
    blocks: Stack
    head: Head
    control: Stack  # of the pose
    extractor: Stack
    zeros: Dense  # projections out of the extractor and the pose blocks
    prefix: PrefixEncoder
    pose: pose_resnet.PoseResNet


def _parts(
    cfg: ModelConfig,
    dtype: jnp.dtype = jnp.float32,
    remat: str = "none",
    attention: AttentionConfig = _DEFAULT_ATTENTION,
) -> _Parts:
    d = (axes.PARAM_EMBED, axes.PARAM_HEADS)

    def stack(
        tokens: str = axes.TOKENS, *, text: bool = False, reference: bool = False
    ) -> Stack:
        return Stack(Block(cfg, text, reference, dtype, tokens, attention), remat)

    reference = cfg.reference_layers > 0
    text_names = (axes.CONV_IN, axes.PARAM_EMBED, axes.PARAM_HEADS)
    return _Parts(
        patch=PatchEmbedding(cfg.dim, cfg.patch, dtype),
        time=TimeEmbedding(cfg, dtype),
        time_projection=Dense(6 * cfg.dim, d, dtype),
        text=MLP(cfg.dim, cfg.dim, gelu, text_names, dtype),
        text_attention=TextAttention(cfg, dtype),
        blocks=stack(text=True, reference=reference),
        head=Head(cfg, dtype),
        control=stack(),
        extractor=stack(axes.REFERENCE_COPIES),
        zeros=Dense(cfg.dim, d, dtype, zero_init=True),
        prefix=PrefixEncoder(cfg, dtype),
        pose=pose_resnet.PoseResNet(cfg, dtype, remat != "none"),
    )


def init(cfg: ModelConfig, key: jax.Array) -> Params:
    """Fresh parameters, boxed with logical axis names (`flax.linen.meta.unbox`).

    Every layer starts as the release's layers do: uniform in +-1/sqrt(fan_in), norms
    at one, and zero for the layers that join a new part to a trained one.
    """
    part = _parts(cfg)
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
            "blocks": part.extractor.init(
                next(keys), cfg.reference_layers, tokens, mod, rope
            ),
            "projections": projections(cfg.reference_layers + 1),
        }
    if cfg.pose_layers:
        latents = jnp.zeros((1, 1, 1, 1, cfg.reference_channels))
        params["prefix_encoder"] = one(part.prefix, latents)
        params["pose_resnet"] = one(part.pose, jnp.zeros((1, 1, 16, 16, 3)))
        params["pose_control"] = {
            "blocks": part.control.init(next(keys), cfg.pose_layers, tokens, mod, rope),
            "projections": projections(cfg.pose_layers),
        }
    return params


def abstract(cfg: ModelConfig) -> Params:
    """Shapes and types of `init`, unboxed, without making any array."""
    boxed = jax.eval_shape(lambda key: init(cfg, key), jax.random.key(0))
    return nn.meta.unbox(boxed)


def functions(
    cfg: ModelConfig,
    *,
    dtype: jnp.dtype = jnp.float32,
    remat: str = "none",
    attention: AttentionConfig = _DEFAULT_ATTENTION,
) -> Functions:
    """The model as three pure functions of plain (unboxed) parameters.

    conditions(params, text, reference=None, pose=None, reference_pose=None,
               pose_scale=1.0) -> Conditions
      text [B,L,text_dim] or Text; reference [B,1,h,w,2C]; pose [B,F,H,W,3] and
      reference_pose [B,1,H,W,3], bytes or in -1..1 (both or neither); pose_scale a
      number or [B].
    reference_features(params, reference, timestep) -> [M+1,B,R,D] or None; over a mesh
      whose devices share the tokens, R is one whole copy for each of them
    velocity(params, latents, timestep, conditions, features=None, context=None) ->
      predicted noise - data, shaped as latents [B,f,h,w,C]; timestep [B] in 0..1000;
      context [B] bool: there the first CONTEXT_FRAMES latent frames are clean and
      take the modulation of timestep 0 (their output means nothing).

    And for the passes of guidance, `rows` of type `passes.Pass`:

    prepare(params, rows, texts, references, poses, *, together=False) -> conditions
      texts and references by name; poses name -> (pose, reference_pose) or Nones.
    velocities(params, latents, timestep, rows, conditions, features, context=None, *,
               together=False) -> one velocity a row
      conditions of `prepare`; features by name of the reference.
      together: all passes as one batch, which a mesh may spread over its devices;
        else one after another.
    pass_bytes(shape) -> bytes that a pass of one clip needs beside the parameters, for
      latents [B,f,h,w,C] of this shape

    Args:
      dtype: of the computation; parameters are cast where they are used.
      remat: what is kept for the backward pass, a name in `dit.REMAT`.
      attention: its form.
    Source: sections 2, 7, 10, 11 of the released model.
    """
    model = Model.build(cfg, dtype, remat, attention)
    return Functions(
        model.conditions,
        model.reference_features,
        model.velocity,
        functools.partial(passes.prepare, model),
        functools.partial(passes.velocities, model),
        model.pass_bytes,
    )


def _run(module: nn.Module, params: Params, *args: Any) -> jax.Array:
    return module.apply({"params": params}, *args)  # type: ignore[return-value]


def _shared_out(x: jax.Array) -> jax.Array:
    """Tokens [B,T,D] split over the devices that share a clip's.

    Where they do not divide T, padding follows: it takes part in everything but
    attention, where nothing looks at it, and is cut off behind the head.
    """
    missing = -x.shape[1] % axes.shards(axes.TOKENS)
    if missing:
        x = jnp.pad(x, ((0, 0), (0, missing), (0, 0)))
    return axes.constrain(x, axes.BATCH, axes.TOKENS, axes.EMBED)


class Stream(NamedTuple):
    """Tokens on their way through the blocks, and what every block reads.

    Attributes:
      x: [B,T,D], prefix frame first; padding last, if any.
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
    def build(
        cls,
        cfg: ModelConfig,
        dtype: jnp.dtype,
        remat: str = "none",
        attention: AttentionConfig = _DEFAULT_ATTENTION,
    ) -> "Model":
        """Model whose modules compute in `dtype`; see `functions`."""
        return cls(cfg, dtype, _parts(cfg, dtype, remat, attention))

    def conditions(
        self,
        params: Params,
        text: jax.Array | Text,
        reference: jax.Array | None = None,
        pose: jax.Array | None = None,
        reference_pose: jax.Array | None = None,
        pose_scale: jax.Array | float = 1.0,
    ) -> Conditions:
        return self.joined(
            self.text(params, text),
            self.prefix(params, reference),
            self.pose(params, pose, reference_pose),
            pose_scale,
            len(text),
        )

    def joined(
        self,
        text: Mapping[str, TextMemory],
        prefix: jax.Array | None,
        pose_tokens: jax.Array | None,
        pose_scale: jax.Array | float,
        clips: int,
    ) -> Conditions:
        """Conditions of their parts; pose_scale a number or [B]."""
        if pose_tokens is None:
            return Conditions(text, prefix)
        scale = jnp.broadcast_to(jnp.asarray(pose_scale, jnp.float32), (clips,))
        return Conditions(text, prefix, pose_tokens, scale)

    def text(self, params: Params, text: jax.Array | Text) -> Mapping[str, TextMemory]:
        """Keys and values of the prompt in every block."""
        p, bias = params["dit"], None
        if isinstance(text, Text):
            rows, bias = text.rows, jnp.log(text.copies.astype(jnp.float32))
        else:
            rows = text
        embedded = _run(self.part.text, p["text_embedding"], rows.astype(self.dtype))

        def kept(block: Params) -> tuple[jax.Array, jax.Array]:
            return self.part.text_attention.apply(  # type: ignore[return-value]
                {"params": block}, embedded, method="remember"
            )

        def stack(name: str) -> TextMemory:
            layer = p[name]["text_attention"]
            read = {k: layer[k] for k in ("key", "value", "key_norm")}
            key, value = jax.lax.map(kept, read)
            return TextMemory(key, value, bias)

        return {name: stack(name) for name in ("lead_blocks", "blocks") if name in p}

    def prefix(self, params: Params, reference: jax.Array | None) -> jax.Array | None:
        """Latent frame before the video, [B,1,h,w,C]."""
        if not self.cfg.pose_layers:
            return None
        return _run(self.part.prefix, params["prefix_encoder"], reference)

    def pose(
        self,
        params: Params,
        pose: jax.Array | None,
        reference_pose: jax.Array | None,
    ) -> jax.Array | None:
        """Tokens of reference pose and driving poses, [B,T,D]."""
        if not self.cfg.pose_layers or pose is None or reference_pose is None:
            return None
        # Two calls: the norms pool over time, and the reference is no part of the clip.
        grids = [
            pose_resnet.grid(self.part.pose, params["pose_resnet"], p)
            for p in (reference_pose, pose)
        ]
        return _shared_out(pose_resnet.to_tokens(jnp.concatenate(grids, axis=1)))

    def reference_features(
        self, params: Params, reference: jax.Array, timestep: jax.Array
    ) -> jax.Array | None:
        if not self.cfg.reference_layers:
            return None
        p = params["reference_extractor"]
        copies = axes.shards(axes.REFERENCE_COPIES)
        rope = self._rope(self._grid(reference.shape))
        rope = dataclasses.replace(rope, copies=copies)
        # One for each device that shares a clip's tokens, to which every token looks.
        # As copies, not as one replicated array, each device carries the gradient of
        # its own down to the parameters, whose sum over devices is made anyway.
        many = jnp.repeat(reference, copies, axis=1)
        x = _run(self.part.patch, p["patch_embedding"], many)
        x = axes.constrain(x, axes.BATCH, axes.REFERENCE_COPIES, axes.EMBED)
        _, m = self._time(p, timestep)
        _, kept = self.part.extractor.scan(
            p["blocks"], x, Modulation(m), rope, keep=True
        )
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
        stream = self.embed(params, latents, timestep, given, context)
        begun = None
        if self.cfg.pose_layers:
            begun = self.before_pose(params, stream, given, features)
        return self.rest(params, stream, begun, given, features)

    def pass_bytes(self, shape: tuple[int, ...]) -> int:
        """Bytes of one clip's tokens where a block is widest, float32 norms included.

        Residual, its norm in float32, queries (turned twice), keys, values and the
        result of attention are alive at once; or the feed-forward's middle.
        """
        f, h, w = self._grid(shape)
        tokens = (f + (self.cfg.pose_layers > 0)) * h * w
        size = jnp.dtype(self.dtype).itemsize
        attention = (7 * size + 4) * self.cfg.dim
        feed_forward = (2 * size + 4) * self.cfg.dim + 2 * size * self.cfg.mlp_dim
        return tokens * max(attention, feed_forward)

    def first_attention(
        self, params: Params, stream: Stream, features: jax.Array | None
    ) -> jax.Array:
        """Tokens after the attention of block 0, which reads no prompt."""
        return self.part.blocks.one(
            params["dit"]["lead_blocks"],
            0,
            stream.x,
            stream.modulation,
            stream.rope,
            features[self.cfg.feature_of_block[0]],  # type: ignore[index]
            method="attend",
        )

    def before_pose(
        self,
        params: Params,
        stream: Stream,
        given: Conditions,
        features: jax.Array | None,
        attended: jax.Array | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        """Outputs of blocks 0 and 1, after which the first pose residual lands.

        Args:
          attended: of `first_attention`, if it is there already.
        """
        if attended is None:
            first = self.lead_block(params, 0, stream.x, stream, given, features)
        else:
            first = self.part.blocks.one(
                params["dit"]["lead_blocks"],
                0,
                attended,
                stream.modulation,
                given.text["lead_blocks"].block(0),
                method="finish",
            )
        return first, self.lead_block(params, 1, first, stream, given, features)

    def rest(
        self,
        params: Params,
        stream: Stream,
        begun: tuple[jax.Array, jax.Array] | None,
        given: Conditions,
        features: jax.Array | None,
    ) -> jax.Array:
        """From `before_pose`, None in a model without pose, to the velocity."""
        p = params["dit"]
        x = stream.x
        if begun is not None:
            x = self._lead(params, stream, begun, given, features)
        elif self.cfg.lead_layers:
            x = self.lead_block(params, 0, x, stream, given, features)
        if "blocks" in p:
            index = jnp.asarray(self.cfg.feature_of_block[self.cfg.lead_layers :])
            x, _ = self.part.blocks.scan(
                p["blocks"],
                x,
                stream.modulation,
                stream.rope,
                given.text["blocks"],
                features,
                index,
            )
        patches = _run(self.part.head, p["head"], x, stream.head_modulation)
        whole = axes.constrain(patches, axes.BATCH, None, None)
        out = unpatchify(
            whole[:, : stream.rope.num_tokens], stream.grid, self.cfg.patch
        )
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
        grid = self._grid(z.shape)
        x = _shared_out(_run(self.part.patch, p["patch_embedding"], z))
        rope = self._rope(grid)
        rope = dataclasses.replace(rope, padding=x.shape[1] - rope.num_tokens)
        modulations = self._modulations(p, timestep, context, grid, x.shape[1])
        return Stream(x, grid, rope, *modulations)

    def _lead(
        self,
        params: Params,
        stream: Stream,
        begun: tuple[jax.Array, jax.Array],
        given: Conditions,
        features: jax.Array | None,
    ) -> jax.Array:
        """Blocks 0..P; the pose chain starts at block 0's output, lands after 1..P."""
        first, x = begun
        u = first if given.pose_tokens is None else first + given.pose_tokens
        for i in range(1, self.cfg.lead_layers):
            if i > 1:
                x = self.lead_block(params, i, x, stream, given, features)
            if given.pose_tokens is None:
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
            given.text["lead_blocks"].block(i),
            feature,
        )

    def pose_block(
        self, params: Params, j: int, u: jax.Array, stream: Stream
    ) -> tuple[jax.Array, jax.Array]:
        """Pose-control block j: (its output, the residual for DiT block j + 1)."""
        p = params["pose_control"]
        u = self.part.control.one(p["blocks"], j, u, stream.modulation, stream.rope)
        last = jax.tree.map(lambda a: a[j], p["projections"])
        return u, _run(self.part.zeros, last, u)

    def _grid(self, shape: tuple[int, ...]) -> tuple[int, int, int]:
        u, p, q = self.cfg.patch
        _, f, h, w, _ = shape
        return f // u, h // p, w // q

    def _rope(self, grid: tuple[int, int, int]) -> Rope:
        return Rope(grid, self.cfg.head_dim, self.cfg.rope_theta)

    def _time(self, params: Params, timestep: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Embedding [B,D] and block modulation [B,6,D]."""
        e = _run(self.part.time, params["time_embedding"], timestep)
        m = _run(self.part.time_projection, params["time_projection"], silu(e))
        return e, rearrange(m, "b (six d) -> b six d", six=6)

    def _modulations(
        self,
        params: Params,
        timestep: jax.Array,
        context: jax.Array | None,
        grid: tuple[int, int, int],
        tokens: int,
    ) -> tuple[Modulation, Modulation]:
        """(of the blocks, of the head)."""
        e, m = self._time(params, timestep)
        if context is None:
            return Modulation(m), Modulation(e[:, None])
        e0, m0 = self._time(params, jnp.zeros_like(timestep))
        frame = np.arange(tokens) // (grid[1] * grid[2])
        first = 1 if self.cfg.pose_layers else 0  # the prefix is never context
        clean = (frame >= first) & (frame < first + CONTEXT_FRAMES)
        is_clean = context[:, None] & jnp.asarray(clean)
        return (
            Modulation(m, m0, is_clean),
            Modulation(e[:, None], e0[:, None], is_clean),
        )
