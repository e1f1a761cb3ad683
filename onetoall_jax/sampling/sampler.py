"""The compiled unit: several segments of one length, each made of Euler steps."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from onetoall_jax import flow, pixels
from onetoall_jax.errors import UserError
from onetoall_jax.sampling import guidance
from onetoall_jax.sampling.euler import Context, Denoiser, Inputs, Params
from onetoall_jax.sampling.settings import SamplingConfig


@flax.struct.dataclass
class Carry:
    """What one segment hands to the next, in one call or from call to call.

    Attributes:
      overlap_u8: [B,overlap,H,W,3], what the segment before drew of the next one's
        first frames.
      index: scalar, segments made so far; at 0 the others mean nothing.
      tone: [B,2,3], mean and contrast of each colour in the first segment; see `tone`.
    """

    overlap_u8: jax.Array
    index: jax.Array
    tone: jax.Array


class Drawn(NamedTuple):
    """Segments of one call: latents [n,B,f,h,w,C] and frames_u8 [n,B,F,H,W,3]."""

    latents: jax.Array
    frames_u8: jax.Array


@dataclasses.dataclass(frozen=True)
class Sampler:
    """Draws segments with a model and a codec that are given as functions.

    Keep one and use it for every clip: it holds the compiled programs.

    Attributes:
      functions: the model's `conditions`, `reference_features`, `velocity`.
      codec: `geometry`, `encode` and `decode`; see `models.codec.Codec`.
      config: settings.
      scope: what programs are called in: a mesh and its rules, or nothing.
    """

    functions: Any
    codec: Any
    config: SamplingConfig
    scope: Callable[[], contextlib.AbstractContextManager] | None = None

    @functools.cached_property
    def denoiser(self) -> Denoiser:
        """The guided steps of one segment."""
        c = self.config
        if c.steps < 1 or c.shift <= 0:
            raise UserError(
                f"sampling.steps={c.steps} and sampling.shift={c.shift} make no "
                "schedule: give at least one step and a positive shift."
            )
        sigmas = flow.sampling_sigmas(c.steps, c.shift)
        guidance.check_form(c.passes)
        return Denoiser(self.functions, guidance.table(c), sigmas, c.passes)

    @functools.cached_property
    def call(self) -> Callable[..., tuple[Carry, Drawn]]:
        """`draw`, compiled once for every shape.

        A seed (a scalar) may stand for the noise, so that drawing it is no program of
        its own; `length`, in frames, is then the segments'.
        """

        def call(
            params: Params,
            codec_params: Params,
            inputs: Inputs,
            carry: Carry,
            pose_u8: jax.Array | None,
            offset: jax.Array,
            noise: jax.Array,
            *,
            length: int,
            chained: bool,
        ) -> tuple[Carry, Drawn]:
            if not noise.ndim:
                clips, _, *size, _ = carry.overlap_u8.shape
                noise = draw_noise(noise, clips, self.latent_shape(length, *size))
            return self.draw(
                params, codec_params, inputs, carry, pose_u8, offset, noise,
                chained=chained,
            )  # fmt: skip

        # Frames come back in the place of their poses, which have the same shape.
        program = jax.jit(
            call, static_argnames=("length", "chained"), donate_argnames="pose_u8"
        )
        scope = self.scope
        if scope is None:
            return program

        def inside(*args: Any, **static: Any) -> tuple[Carry, Drawn]:
            with scope():
                return program(*args, **static)

        return inside

    def latent_shape(self, num_frames: int, height: int, width: int) -> tuple[int, ...]:
        """[f,h,w,C] of a segment."""
        g = self.codec.geometry
        sides = height // g.spatial, width // g.spatial
        return (g.latent_frames(num_frames), *sides, g.channels)

    def first_carry(self, clips: int, height: int, width: int) -> Carry:
        """Carry before the first segment."""
        # On the host: made on the device, each would be a program of its own.
        empty = np.zeros((clips, self.config.overlap, height, width, 3), np.uint8)
        tone = np.zeros((clips, 2, 3), np.float32)
        return Carry(empty, np.zeros((), np.int32), tone)  # type: ignore[arg-type]

    def draw(
        self,
        params: Params,
        codec_params: Params,
        inputs: Inputs,
        carry: Carry,
        pose_u8: jax.Array | None,
        offset: jax.Array,
        noise: jax.Array,
        *,
        chained: bool = True,
    ) -> tuple[Carry, Drawn]:
        """The next n segments of one length: a scan over segments of a scan over steps.

        Args:
          params, codec_params: plain trees.
          pose_u8: [n,B,F,H,W,3], or None for a model without pose.
          offset: [n], how far behind each segment's start the next one starts; means
            nothing for a clip's last.
          noise: [B,f,h,w,C], the same for every segment, as released.
          chained: segments start with the last frames made; False where a clip is one
            segment, so that none is encoded.
        """

        def segment(carry: Carry, at: tuple) -> tuple[Carry, Drawn]:
            pose, offset = at
            context = self._context(codec_params, carry) if chained else None
            latents, _ = self.denoiser.draw(params, inputs, pose, noise, context)
            held, overlap_u8 = carry.tone, carry.overlap_u8
            if self.config.colour_anchor and chained:
                frames = self.codec.decode(codec_params, latents)
                held = jnp.where(carry.index > 0, held, tone(frames))
                frames = anchored(frames, held, self.config.colour_anchor)
                frames_u8 = to_bytes(frames)
            else:
                frames_u8 = self.codec.decode(codec_params, latents, to_bytes)
            if chained:
                overlap_u8 = jax.lax.dynamic_slice_in_dim(
                    frames_u8, offset, self.config.overlap, axis=1
                )
            return Carry(overlap_u8, carry.index + 1, held), Drawn(latents, frames_u8)

        return jax.lax.scan(segment, carry, (pose_u8, offset))

    def _context(self, codec_params: Params, carry: Carry) -> Context:
        """First frames of the segment as the one before drew them, encoded.

        Before the first segment there are none; the same program then ignores them.
        """
        frames = pixels.scaled(carry.overlap_u8)
        latents = self.codec.encode(codec_params, frames)
        return Context(latents, jnp.broadcast_to(carry.index > 0, len(latents)))


def to_bytes(frames: jax.Array) -> jax.Array:
    """Frames in -1..1 -> bytes; cut, not rounded, as released."""
    unit = jnp.clip(frames.astype(jnp.float32) / 2 + 0.5, 0, 1)
    return jnp.floor(255 * unit).astype(jnp.uint8)


def tone(frames: jax.Array) -> jax.Array:
    """[B,2,3] float32: mean and standard deviation of each colour of a clip."""
    x = frames.astype(jnp.float32)
    mean = x.mean(axis=(1, 2, 3))
    return jnp.stack([mean, x.std(axis=(1, 2, 3))], axis=1)


def anchored(frames: jax.Array, wanted: jax.Array, share: float) -> jax.Array:
    """Frames brought `share` of the way, 0..1, to the mean and contrast of `wanted`.

    Args:
      wanted: [B,2,3] as `tone` gives it.
    """
    own = tone(frames)
    aim = own + share * (wanted - own)
    gain = aim[:, 1] / jnp.maximum(own[:, 1], 1e-3)
    offset = aim[:, 0] - gain * own[:, 0]
    spread = (slice(None), None, None, None)
    return frames.astype(jnp.float32) * gain[spread] + offset[spread]


def draw_noise(seed: Any, clips: int, shape: tuple[int, ...]) -> jax.Array:
    """Standard normal [B,f,h,w,C], equal for every clip, so no batch changes a clip."""
    one = jax.random.normal(jax.random.key(seed), shape, jnp.float32)
    return jnp.broadcast_to(one, (clips, *shape))
