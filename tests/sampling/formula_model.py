"""A model and a codec that are formulas, so that every number is known."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from einops import rearrange, repeat

from onetoall_jax import pixels
from onetoall_jax.geometry import Geometry
from onetoall_jax.sampling.euler import Inputs

GEOMETRY = Geometry(temporal=4, spatial=2, channels=3, patch=(1, 1, 1))
SIZE = (4, 6)


class Given(NamedTuple):
    text: jnp.ndarray
    reference: jnp.ndarray
    pose: jnp.ndarray | None
    scale: float


class Model(NamedTuple):
    """Velocity that leads from anywhere on the path to a known target.

    The target mixes the reference, the text, the pose and the frames of context, so
    whatever is lost on the way shows. `calls` counts how often each part is traced.
    """

    calls: dict

    def conditions(self, params, text, reference=None, pose=None, own=None, scale=1.0):
        self._count("conditions")
        if pose is not None:
            pose, own = pixels.scaled(pose), pixels.scaled(own)
            grid = rearrange(
                pose[:, ::4], "b f (h p) (w q) c -> b f h w (p q) c", p=2, q=2
            )
            pose = grid.mean(axis=-2) + own.mean(axis=(1, 2, 3, 4), keepdims=True)
        return Given(text, reference, pose, scale)

    def reference_features(self, params, reference, timestep):
        self._count("reference_features")
        return reference[..., :3] * (timestep / 1000)[:, None, None, None, None]

    def velocity(self, params, x, timestep, given, features=None, context=None):
        self._count("velocity")
        level = (timestep / 1000)[:, None, None, None, None]
        target = params["w"] * given.text.mean(axis=(1, 2))[:, None, None, None, None]
        target = target + features / level
        if given.pose is not None:
            target = target + given.scale * given.pose
        if context is not None:
            lead = x[:, :2].mean(axis=(1, 2, 3, 4), keepdims=True)
            flag = context[:, None, None, None, None]
            target = target + jnp.where(flag, 0.25 * lead, 0.0)
        return (x - jnp.broadcast_to(target, x.shape)) / level

    def prepare(self, params, rows, texts, references, poses, *, together=False):
        assert not together
        return tuple(
            self.conditions(
                params,
                texts[row.text],
                references[row.reference],
                *(poses[row.pose] if row.pose_scale else (None, None)),
                row.pose_scale,
            )
            for row in rows
        )

    def velocities(
        self, params, x, timestep, rows, given, features, context=None, *, together
    ):
        assert not together
        return [
            self.velocity(params, x, timestep, one, features[row.reference], context)
            for row, one in zip(rows, given, strict=True)
        ]

    def pass_bytes(self, shape):
        return 1

    def _count(self, name):
        self.calls[name] = self.calls.get(name, 0) + 1


class FormulaCodec(NamedTuple):
    """Every fourth frame, halved in size; back by repeating. Latents are 2 x frames.

    It decodes half a byte high, so that cutting gives back the byte that was encoded
    and not, by a rounding, the one below.
    """

    geometry: Geometry = GEOMETRY

    def encode(self, params, frames):
        cells = rearrange(
            frames[:, ::4], "b f (h p) (w q) c -> b f h w (p q) c", p=2, q=2
        )
        return params["gain"] * cells.mean(axis=-2)

    def decode(self, params, latents, finish=lambda frames: frames):
        count = 4 * latents.shape[1] - 3
        frames = repeat(latents, "b f h w c -> b (f t) (h p) (w q) c", t=4, p=2, q=2)
        cells = frames[:, 3 : 3 + count] / params["gain"] + 1 / 255
        return finish(jnp.clip(cells, -1, 1))


PARAMS = {"w": jnp.asarray(0.5)}
CODEC_PARAMS = {"gain": jnp.asarray(2.0)}


def inputs(clips=2, seed=0):
    """Inputs and a function that draws poses of a length, all from one seed."""
    rng = np.random.default_rng(seed)

    def latents(n):
        return jnp.asarray(rng.normal(size=(n, 1, 2, 3, 6)) * 0.3, jnp.float32)

    def text():
        return jnp.asarray(rng.normal(size=(clips, 4, 5)), jnp.float32)

    def pose(frames):
        return rng.integers(0, 256, (clips, frames, *SIZE, 3), dtype=np.uint8)

    given = Inputs(text(), text(), latents(clips), latents(1), jnp.asarray(pose(1)))
    return given, pose
