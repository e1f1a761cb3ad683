"""One segment from noise to latents: guided velocity inside Euler steps."""

from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from onetoall_jax import axes, flow
from onetoall_jax.sampling import guidance
from onetoall_jax.sampling.segments import CONTEXT_LATENTS

Params = Any
Table = tuple[guidance.Pass, ...]


@flax.struct.dataclass
class Inputs:
    """What a whole clip is drawn from, its driving poses apart.

    Attributes:
      prompt: [B,L,text_dim], embedded, or what else the model takes for it.
      negative: the same, or None when no pass reads it.
      reference: [B,1,h,w,2C] latents, or None for a model that takes none.
      black: [1,1,h,w,2C] latents of no reference, or None when no pass reads it.
      reference_pose_u8: [B,1,H,W,3], or None for a model without pose.
    """

    prompt: jax.Array
    negative: jax.Array | None = None
    reference: jax.Array | None = None
    black: jax.Array | None = None
    reference_pose_u8: jax.Array | None = None


class Context(NamedTuple):
    """Latents that a segment starts with.

    Attributes:
      latents: [B,CONTEXT_LATENTS,h,w,C].
      given: [B] bool; where False the latents are ignored and all is drawn.
    """

    latents: jax.Array
    given: jax.Array


def check(table: Table, inputs: Inputs, has_pose: bool) -> None:
    """Raises ValueError when a pass of the table reads what is not there."""
    texts = {row.text for row in table}
    references = {row.reference for row in table}
    if guidance.NEGATIVE in texts and inputs.negative is None:
        raise ValueError("the guidance reads the negative prompt, which is None")
    if (
        inputs.reference is not None
        and guidance.BLACK in references
        and inputs.black is None
    ):
        raise ValueError("the guidance reads the black latents, which are None")
    if has_pose != (inputs.reference_pose_u8 is not None):
        raise ValueError("give the driving poses and the reference's pose, or neither")


class Trace(NamedTuple):
    """Guided velocity of every step and the latents after it, [steps,B,f,h,w,C]."""

    velocity: jax.Array
    latents: jax.Array


class Denoiser(NamedTuple):
    """Guided Euler steps with a model given as its functions.

    Attributes:
      functions: `prepare`, `reference_features` and `velocities`; see the model.
      table: the passes of a step; see `guidance.table`.
      sigmas: [steps + 1], noise levels from 1 down to 0.
      passes: how those of a step are made; see `guidance.together`.
    """

    functions: Any
    table: Table
    sigmas: np.ndarray
    passes: str = guidance.SEQUENTIAL

    def together(self, shape: tuple[int, ...]) -> bool:
        """Are the passes for latents [B,f,h,w,C] one batch, on the devices at hand?"""
        if self.passes != guidance.AUTO:
            return guidance.together(self.passes, len(self.table), 1, 1, 0, None)
        return guidance.together(
            self.passes,
            len(self.table),
            shape[0],
            axes.shards(axes.BATCH),
            self.functions.pass_bytes(shape) / axes.shards(axes.TOKENS),
            axes.free_bytes(),
        )

    def conditions(
        self,
        params: Params,
        inputs: Inputs,
        pose_u8: jax.Array | None,
        together: bool = False,
    ) -> Any:
        """The model's conditions of the passes, for one segment [B,F,H,W,3] of pose."""
        clips = len(inputs.prompt)
        given = [pose_u8, inputs.reference_pose_u8]
        return self.functions.prepare(
            params,
            self.table,
            {guidance.PROMPT: inputs.prompt, guidance.NEGATIVE: inputs.negative},
            {
                name: _reference(inputs, name, clips)
                for name in {row.reference for row in self.table}
            },
            {
                name: tuple(_picture(p, name == guidance.BLANK) for p in given)
                for name in {row.pose for row in self.table}
            },
            together=together,
        )

    def velocity(
        self,
        params: Params,
        inputs: Inputs,
        conditions: Any,
        latents: jax.Array,
        timestep: jax.Array,
        given: jax.Array | None,
        together: bool = False,
    ) -> jax.Array:
        """Weighted sum of the passes' velocities, float32 [B,f,h,w,C].

        Args:
          conditions: made with the same `together`.
          timestep: scalar, 0..1000.
          given: [B] bool as in Context, or None.
        """
        time = jnp.full(len(latents), timestep, jnp.float32)
        features = {
            name: self._features(params, inputs, name, time)
            for name in sorted({row.reference for row in self.table})
        }
        made = self.functions.velocities(
            params,
            latents,
            time,
            self.table,
            conditions,
            features,
            given,
            together=together,
        )
        total = jnp.zeros(latents.shape, jnp.float32)
        for row, out in zip(self.table, made, strict=True):
            total = total + row.weight * out.astype(jnp.float32)
        return total

    def _features(
        self, params: Params, inputs: Inputs, name: str, time: jax.Array
    ) -> jax.Array | None:
        reference = _reference(inputs, name, len(time))
        if reference is None:
            return None
        return self.functions.reference_features(params, reference, time)

    def draw(
        self,
        params: Params,
        inputs: Inputs,
        pose_u8: jax.Array | None,
        noise: jax.Array,
        context: Context | None = None,
        *,
        keep: bool = False,
    ) -> tuple[jax.Array, Trace | None]:
        """All steps from noise [B,f,h,w,C] to latents of the same shape.

        Returns:
          (latents, and with `keep` what every step made).
        """
        together = self.together(noise.shape)
        conditions = self.conditions(params, inputs, pose_u8, together)
        given = None if context is None else context.given
        held = _held(noise, context)
        start = noise.astype(jnp.float32)
        if context is not None:
            start = jnp.where(held, _lead(context.latents, noise), start)

        def step(x: jax.Array, at: tuple) -> tuple[jax.Array, Trace | None]:
            timestep, difference = at
            x = axes.constrain(
                x, axes.BATCH, axes.FRAMES, axes.HEIGHT, axes.WIDTH, axes.CHANNELS
            )
            v = self.velocity(params, inputs, conditions, x, timestep, given, together)
            moved = jnp.where(held, x, x + difference * v)
            return moved, Trace(v, moved) if keep else None

        grid = (flow.timesteps_of(self.sigmas[:-1]), np.diff(self.sigmas))
        return jax.lax.scan(step, start, grid)


def _picture(pose_u8: jax.Array | None, blank: bool) -> jax.Array | None:
    if pose_u8 is None:
        return None
    return jnp.zeros_like(pose_u8) if blank else pose_u8


def _reference(inputs: Inputs, name: str, clips: int) -> jax.Array | None:
    if inputs.reference is None or name == guidance.REAL:
        return inputs.reference
    assert inputs.black is not None
    return jnp.broadcast_to(inputs.black, (clips, *inputs.black.shape[1:]))


def _held(noise: jax.Array, context: Context | None) -> jax.Array:
    """[B,f,1,1,1] bool: latent frames that no step moves."""
    clips, frames = noise.shape[:2]
    if context is None:
        return jnp.zeros((clips, frames, 1, 1, 1), bool)
    is_first = jnp.arange(frames) < CONTEXT_LATENTS
    return (context.given[:, None] & is_first)[:, :, None, None, None]


def _lead(latents: jax.Array, noise: jax.Array) -> jax.Array:
    """The context's latents, then as much noise as makes a segment."""
    kept = noise[:, CONTEXT_LATENTS:]
    return jnp.concatenate([latents.astype(jnp.float32), kept], axis=1)
