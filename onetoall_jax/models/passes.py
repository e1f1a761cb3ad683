"""The passes of guidance through one model: what several need is computed once."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from onetoall_jax import axes
from onetoall_jax.models.denoiser import Conditions, Model, Stream
from onetoall_jax.models.text_attention import Text, TextMemory

Params = Any
Poses = tuple[jax.Array | None, jax.Array | None]


class Pass(Protocol):
    """One pass; equal names stand for equal inputs."""

    @property
    def reference(self) -> str: ...
    @property
    def text(self) -> str: ...
    @property
    def pose(self) -> str: ...
    @property
    def pose_scale(self) -> float: ...


def prepare(
    model: Model,
    params: Params,
    rows: Sequence[Pass],
    texts: Mapping[str, jax.Array | Text],
    references: Mapping[str, jax.Array | None],
    poses: Mapping[str, Poses],
    *,
    together: bool = False,
) -> Conditions | tuple[Conditions, ...]:
    """Conditions of every pass, or of all as one batch; see `onetoall.functions`.

    A pass of pose scale 0 has no pose path, unless it shares a batch.
    """
    text = {n: model.text(params, texts[n]) for n in _names(rows, "text")}
    prefix = {n: model.prefix(params, references[n]) for n in _names(rows, "reference")}
    scaled = [row for row in rows if row.pose_scale]
    pose = {n: model.pose(params, *poses[n]) for n in _names(scaled, "pose")}
    made = [
        model.joined(
            text[row.text],
            prefix[row.reference],
            pose[row.pose] if row.pose_scale else None,
            row.pose_scale,
            len(texts[row.text]),
        )
        for row in rows
    ]
    return _stacked(made) if together else tuple(made)


def velocities(
    model: Model,
    params: Params,
    latents: jax.Array,
    timestep: jax.Array,
    rows: Sequence[Pass],
    given: Conditions | tuple[Conditions, ...],
    features: Mapping[str, jax.Array | None],
    context: jax.Array | None = None,
    *,
    together: bool = False,
) -> list[jax.Array]:
    """Velocity of every pass, [B,f,h,w,C]; see `onetoall.functions`."""
    if together:
        count = len(rows)
        assert isinstance(given, Conditions)
        x, t = (_joined([a] * count, axis=0) for a in (latents, timestep))
        flags = _for_each([context] * count, axis=0)
        feature = _for_each([features[row.reference] for row in rows], axis=1)
        made = model.velocity(params, x, t, given, feature, flags)
        return jnp.split(made, count)
    assert not isinstance(given, Conditions)
    begin = _Begun(model, params, latents, timestep, features, context)
    done: list[jax.Array] = []
    for row, conditions in zip(rows, given, strict=True):
        stream, begun = begin(row, conditions, done[-1] if done else None)
        feature = features[row.reference]
        done.append(
            model.rest(params, stream, begun, given=conditions, features=feature)
        )
    return done


class _Begun:
    """First blocks of the passes of one step.

    The first attention reads the reference alone, the rest of the blocks before the
    pose lands the prompt too. The first pass with a name stands for all with that name.
    """

    def __init__(
        self,
        model: Model,
        params: Params,
        latents: jax.Array,
        timestep: jax.Array,
        features: Mapping[str, jax.Array | None],
        context: jax.Array | None,
    ):
        self._model, self._params, self._features = model, params, features
        self._latents, self._timestep, self._context = latents, timestep, context
        self._streams: dict[str, Stream] = {}
        self._attended: dict[str, jax.Array] = {}
        self._begun: dict[tuple[str, str], tuple[jax.Array, jax.Array]] = {}

    def __call__(
        self, row: Pass, given: Conditions, done: jax.Array | None
    ) -> tuple[Stream, tuple[jax.Array, jax.Array] | None]:
        """(stream, outputs of the blocks before the pose, or None without them).

        Args:
          done: what the pass before made. Nothing of this pass begins earlier: a
            compiler would weave the passes together and need the memory of all.
        """

        def after(x: Any) -> Any:
            return x if done is None else jax.lax.optimization_barrier((done, x))[1]

        model, params, name = self._model, self._params, row.reference
        if name not in self._streams:
            latents = after(self._latents)
            self._streams[name] = model.embed(
                params, latents, self._timestep, given, self._context
            )
        stream = self._streams[name]
        stream = stream._replace(x=after(stream.x))
        if not model.cfg.pose_layers:
            return stream, None
        feature, names = self._features[name], (name, row.text)
        if name not in self._attended:
            self._attended[name] = model.first_attention(params, stream, feature)
        if names not in self._begun:
            attended = after(self._attended[name])
            self._begun[names] = model.before_pose(
                params, stream, given, feature, attended
            )
        return stream, after(self._begun[names])


def _names(rows: Sequence[Pass], kind: str) -> list[str]:
    return list(dict.fromkeys(getattr(row, kind) for row in rows))


def _stacked(made: Sequence[Conditions]) -> Conditions:
    """Conditions of several passes as those of one larger batch."""
    tokens = [one.pose_tokens for one in made]
    scale = None
    if any(t is not None for t in tokens):
        like = next(t for t in tokens if t is not None)
        tokens = [jnp.zeros_like(like) if t is None else t for t in tokens]
        clips = like.shape[0]
        scale = jnp.concatenate(
            [
                jnp.zeros(clips) if one.pose_scale is None else one.pose_scale
                for one in made
            ]
        )
    return Conditions(
        text={n: _stacked_text([one.text[n] for one in made]) for n in made[0].text},
        prefix=_for_each([one.prefix for one in made], axis=0),
        pose_tokens=_for_each(tokens, axis=0),
        pose_scale=scale,
    )


def _stacked_text(texts: Sequence[TextMemory]) -> TextMemory:
    """Along the clips; prompts of fewer rows get rows that no query sees."""
    longest = max(text.key.shape[2] for text in texts)
    equal = all(text.bias is None and text.key.shape[2] == longest for text in texts)

    def filled(x: jax.Array) -> jax.Array:
        more = longest - x.shape[2]
        return jnp.pad(x, ((0, 0), (0, 0), (0, more), (0, 0), (0, 0)))

    def bias(text: TextMemory) -> jax.Array:
        _, clips, rows = text.key.shape[:3]
        own = jnp.zeros((clips, rows)) if text.bias is None else text.bias
        more = ((0, 0), (0, longest - rows))
        return jnp.pad(own, more, constant_values=-jnp.inf)

    return TextMemory(
        jnp.concatenate([filled(text.key) for text in texts], axis=1),
        jnp.concatenate([filled(text.value) for text in texts], axis=1),
        None if equal else jnp.concatenate([bias(text) for text in texts]),
    )


def _for_each(parts: Sequence[jax.Array | None], axis: int) -> jax.Array | None:
    """Arrays of all passes joined along their axis of clips."""
    there = [part for part in parts if part is not None]
    return _joined(there, axis) if len(there) == len(parts) else None


def _joined(parts: Sequence[jax.Array], axis: int) -> jax.Array:
    joined = jnp.concatenate(parts, axis=axis)
    names = [axes.BATCH if i == axis else None for i in range(joined.ndim)]
    return axes.constrain(joined, *names)
