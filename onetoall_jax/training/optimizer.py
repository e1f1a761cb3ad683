"""AdamW, the learning rate of a step, the running mean of parameters."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from onetoall_jax.errors import UserError
from onetoall_jax.training.settings import OptimizerConfig

Tree = Any


def transform(config: OptimizerConfig) -> optax.GradientTransformation:
    """Gradient -> direction: clipped, AdamW, decay; still to be multiplied by -rate.

    The rate is left out so that it can be an input of the compiled step: runs that
    differ only in their schedule share one program.
    """
    steps = []
    if config.clip_norm:
        steps.append(optax.clip_by_global_norm(config.clip_norm))
    adam = optax.scale_by_adam(config.beta1, config.beta2, config.eps)
    steps.append(_held_in(adam, jnp.dtype(config.moments_dtype)))
    steps.append(
        optax.add_decayed_weights(config.weight_decay, _decayed(config.decay_on))
    )
    return optax.chain(*steps)


def _held_in(
    inner: optax.GradientTransformation, dtype: jnp.dtype
) -> optax.GradientTransformation:
    """A transformation whose state is kept in `dtype` between steps."""

    def cast(state: Tree, dtype: jnp.dtype) -> Tree:
        def one(x: jax.Array) -> jax.Array:
            return x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x

        return jax.tree.map(one, state)

    def update(grads: Tree, state: Tree, params: Tree = None) -> tuple[Tree, Tree]:
        direction, state = inner.update(grads, cast(state, jnp.float32), params)
        return direction, cast(state, dtype)

    return optax.GradientTransformation(lambda p: cast(inner.init(p), dtype), update)


def _decayed(decay_on: str) -> Callable[[Tree], Tree] | None:
    if decay_on == "all":
        return None
    if decay_on == "matrices":
        # Norm scales, biases and modulation tables are stacked, so rank says nothing.
        return lambda tree: jax.tree_util.tree_map_with_path(
            lambda path, _: str(path[-1].key) == "kernel", tree
        )
    raise UserError(f"optimizer.decay_on is {decay_on!r}: choose 'all' or 'matrices'.")


def learning_rate(config: OptimizerConfig, step: int, steps: int) -> float:
    """Rate of the update that follows `step` earlier ones, of `steps` in all.

    Climbs linearly from 0 over the warm-up, stays, and after `decay_from` of all steps
    falls linearly to `final_rate` times the full rate.
    """
    rate = config.learning_rate
    if config.warmup_steps:
        rate *= min(step / config.warmup_steps, 1.0)
    start = config.decay_from * steps
    if step > start and steps > start:
        gone = min((step - start) / (steps - start), 1.0)
        rate *= 1.0 + (config.final_rate - 1.0) * gone
    return rate


def apply(params: Tree, direction: Tree, rate: jax.typing.ArrayLike) -> Tree:
    """Parameters after one update: params - rate * direction."""
    return jax.tree.map(lambda p, d: p - rate * d, params, direction)


def ema(mean: Tree, params: Tree, step: jax.Array, decay: float) -> Tree:
    """Running mean after the update that follows `step` earlier ones.

    Early on it forgets faster, (n + 1) / (n + 10), so that it does not remember the
    start.
    """
    n = step.astype(jnp.float32)
    keep = jnp.minimum(decay, (n + 1) / (n + 10))
    return jax.tree.map(lambda m, p: m + (1 - keep) * (p - m), mean, params)
