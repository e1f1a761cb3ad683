"""One training step, for every stage and variant: it knows no model class."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax
from einops import rearrange

from onetoall_jax import axes, rng, trees
from onetoall_jax.batch import sizes
from onetoall_jax.training import loss, optimizer
from onetoall_jax.training.draws import Draws, draw
from onetoall_jax.training.example import Batch, Encoders, Example, prepare
from onetoall_jax.training.metrics import Metrics
from onetoall_jax.training.settings import TrainingConfig
from onetoall_jax.training.state import TrainState

Params = Any


class Denoiser(Protocol):
    """The three functions of a network (`models.onetoall.functions`)."""

    @property
    def conditions(self) -> Callable[..., Any]: ...
    @property
    def reference_features(self) -> Callable[..., jax.Array | None]: ...
    @property
    def velocity(self) -> Callable[..., jax.Array]: ...


class Fixed(NamedTuple):
    """What a step reads and never changes.

    Attributes:
      codec: parameters of the codec.
      text: [L,text_dim], rows of the embedded prompt, the same for every clip.
    """

    codec: Params
    text: jax.Array


class Knobs(NamedTuple):
    """Numbers that are inputs of the compiled step, so that stages can share one."""

    learning_rate: jax.typing.ArrayLike
    token_replace_probability: jax.typing.ArrayLike
    region_weight: jax.typing.ArrayLike


def clip_losses(
    denoiser: Denoiser,
    params: Params,
    text: jax.Array,
    example: Example,
    region_weight: jax.typing.ArrayLike,
    context_frames: int,
) -> jax.Array:
    """[B] losses of the network on an example.

    Args:
      text: [B,L,text_dim].
    """
    given = denoiser.conditions(
        params,
        text,
        example.reference,
        example.pose,
        example.reference_pose,
        example.pose_scale,
    )
    features = denoiser.reference_features(params, example.reference, example.timestep)
    predicted = denoiser.velocity(
        params, example.noisy, example.timestep, given, features, example.context
    )
    weight = loss.weights(
        example.region, example.keep, region_weight, example.context, context_frames
    )
    return loss.per_clip(predicted, example.target, weight)


def make_train_step(
    denoiser: Denoiser,
    encoders: Encoders,
    tx: optax.GradientTransformation,
    config: TrainingConfig,
) -> Callable[[TrainState, Fixed, Batch, Knobs], tuple[TrainState, jax.Array, Metrics]]:
    """The step as a function to be compiled: -> (next state, loss, metrics).

    Only the trainable parameters get a gradient; the draws follow from the state's key
    and step alone.
    """

    def losses(
        trainable: Params, frozen: Params, fixed: Fixed, part: "_Part", knobs: Knobs
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        example = prepare(encoders, fixed.codec, part.batch, part.draws, config)
        clips = len(part.draws.time)
        text = jnp.broadcast_to(fixed.text, (clips, *fixed.text.shape))
        params = trees.join(trainable, frozen)
        made = clip_losses(
            denoiser,
            params,
            text,
            example,
            knobs.region_weight,
            encoders.context_frames,
        )
        return jnp.mean(made), (made, example.timestep)

    gradient = jax.grad(losses, has_aux=True)

    def step(
        state: TrainState, fixed: Fixed, batch: Batch, knobs: Knobs
    ) -> tuple[TrainState, jax.Array, Metrics]:
        whole = _Part(batch, _draws(state, fixed, batch, knobs, encoders, config))
        grads, (clip_loss, timestep) = _in_parts(
            lambda part: gradient(state.trainable, state.frozen, fixed, part, knobs),
            whole,
            config.optimizer.accumulation,
        )
        metrics = Metrics.single_from_model_output(
            losses=clip_loss, timestep=timestep, grad_norm=optax.tree.norm(grads)
        )
        state = _update(state, grads, tx, config, knobs.learning_rate)
        return state, jnp.mean(clip_loss), metrics  # type: ignore[return-value]

    return step


class _Part(NamedTuple):
    batch: Batch
    draws: Draws


def _draws(
    state: TrainState,
    fixed: Fixed,
    batch: Batch,
    knobs: Knobs,
    encoders: Encoders,
    config: TrainingConfig,
) -> Draws:
    size = sizes(batch)
    frames = jax.ShapeDtypeStruct((*size, 3), jnp.float32)
    latents = jax.eval_shape(encoders.clip, fixed.codec, frames)
    return draw(
        rng.at_step(state.key, state.step),
        size[0],
        latents.shape[1:],
        batch["reference_u8"].shape[1:],
        config,
        knobs.token_replace_probability,
    )


def _in_parts(
    gradient: Callable[[_Part], tuple[Params, Any]], whole: _Part, parts: int
) -> tuple[Params, Any]:
    """Mean gradient over equal parts of a batch gone through one after another."""
    if parts == 1:
        return gradient(whole)

    def split(x: jax.Array) -> jax.Array:
        # Every part takes clips from all devices.
        x = rearrange(x, "(b parts) ... -> parts b ...", parts=parts)
        return axes.constrain(x, None, axes.BATCH, *[None] * (x.ndim - 2))

    def body(total: Params, part: _Part) -> tuple[Params, Any]:
        grads, aux = gradient(part)
        return jax.tree.map(jnp.add, total, grads), aux

    split_up = jax.tree.map(split, whole)
    first = jax.eval_shape(gradient, jax.tree.map(lambda x: x[0], split_up))[0]
    zero = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), first)
    total, aux = jax.lax.scan(body, zero, split_up)
    grads = jax.tree.map(lambda g: g / parts, total)
    return grads, jax.tree.map(lambda a: rearrange(a, "parts b -> (b parts)"), aux)


def _update(
    state: TrainState,
    grads: Params,
    tx: optax.GradientTransformation,
    config: TrainingConfig,
    rate: jax.typing.ArrayLike,
) -> TrainState:
    direction, memory = tx.update(grads, state.optimizer, state.trainable)
    trainable = optimizer.apply(state.trainable, direction, rate)
    mean = state.ema
    if mean is not None:
        decay = config.optimizer.ema_decay
        mean = optimizer.ema(mean, trainable, state.step, decay)
    return state.replace(  # type: ignore[attr-defined]
        step=state.step + 1, trainable=trainable, optimizer=memory, ema=mean
    )
