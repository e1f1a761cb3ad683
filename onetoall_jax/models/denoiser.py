"""The denoiser: from latents, noise time and conditions to a velocity."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from onetoall_jax import axes
from onetoall_jax.models import pose_resnet
from onetoall_jax.models.dit import Modulation
from onetoall_jax.models.layers import silu, unpatchify
from onetoall_jax.models.modules import Modules
from onetoall_jax.models.rope import Rope
from onetoall_jax.models.settings import ModelConfig
from onetoall_jax.models.text_attention import Text, TextMemory

Params = Any
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


@dataclasses.dataclass(frozen=True)
class Model:
    """The steps behind `onetoall.functions`, one method each."""

    cfg: ModelConfig
    dtype: jnp.dtype
    modules: Modules

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
        embedded = _run(self.modules.text, p["text_embedding"], rows.astype(self.dtype))

        def kept(block: Params) -> tuple[jax.Array, jax.Array]:
            return self.modules.text_attention.apply(  # type: ignore[return-value]
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
        return _run(self.modules.prefix, params["prefix_encoder"], reference)

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
            pose_resnet.grid(self.modules.pose, params["pose_resnet"], p)
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
        x = _run(self.modules.patch, p["patch_embedding"], many)
        x = axes.constrain(x, axes.BATCH, axes.REFERENCE_COPIES, axes.EMBED)
        _, m = self._time(p, timestep)
        _, kept = self.modules.extractor.scan(
            p["blocks"], x, Modulation(m), rope, keep=True
        )
        stages = jnp.concatenate([x[None], kept])
        project = jax.vmap(lambda q, r: _run(self.modules.zeros, q, r))
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
        return self.modules.blocks.one(
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
            first = self.modules.blocks.one(
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
            x, _ = self.modules.blocks.scan(
                p["blocks"],
                x,
                stream.modulation,
                stream.rope,
                given.text["blocks"],
                features,
                index,
            )
        patches = _run(self.modules.head, p["head"], x, stream.head_modulation)
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
        x = _shared_out(_run(self.modules.patch, p["patch_embedding"], z))
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
        return self.modules.blocks.one(
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
        u = self.modules.control.one(p["blocks"], j, u, stream.modulation, stream.rope)
        last = jax.tree.map(lambda a: a[j], p["projections"])
        return u, _run(self.modules.zeros, last, u)

    def _grid(self, shape: tuple[int, ...]) -> tuple[int, int, int]:
        u, p, q = self.cfg.patch
        _, f, h, w, _ = shape
        return f // u, h // p, w // q

    def _rope(self, grid: tuple[int, int, int]) -> Rope:
        return Rope(grid, self.cfg.head_dim, self.cfg.rope_theta)

    def _time(self, params: Params, timestep: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Embedding [B,D] and block modulation [B,6,D]."""
        e = _run(self.modules.time, params["time_embedding"], timestep)
        m = _run(self.modules.time_projection, params["time_projection"], silu(e))
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
