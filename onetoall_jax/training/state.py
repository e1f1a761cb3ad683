"""What a training step changes, as one tree."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding

from onetoall_jax import trees

Tree = Any


@flax.struct.dataclass
class TrainState:
    """Everything that a run must remember; the step is also its place in the data.

    Attributes:
      step: updates so far.
      trainable, frozen: the parameters, each leaf in one of the two.
      optimizer: its state, for the trainable leaves only.
      ema: running mean of the trainable leaves, or None.
      key: of all the run's draws; the step's own is folded in.
    """

    step: Any
    trainable: Tree
    frozen: Tree
    optimizer: optax.OptState
    ema: Tree | None
    key: Any

    @property
    def params(self) -> Tree:
        """The whole parameter tree."""
        return trees.join(self.trainable, self.frozen)


def create(
    params: Tree,
    patterns: tuple[str, ...],
    tx: optax.GradientTransformation,
    seed: int,
    *,
    ema: bool,
    frozen_dtype: jnp.dtype = jnp.float32,
) -> TrainState:
    """State before the first step; traceable.

    Args:
      patterns: names of the trainable parameters.
      frozen_dtype: of the kernels among the others.
    """
    trainable, frozen = trees.split(params, patterns)
    frozen = stored(frozen, frozen_dtype)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        trainable=trainable,
        frozen=frozen,
        optimizer=tx.init(trainable),
        # A copy: the step gives its buffers away, so no two leaves may share one.
        ema=jax.tree.map(jnp.copy, trainable) if ema else None,
        key=jax.random.key(seed),
    )


def stored(frozen: Tree, dtype: jnp.dtype) -> Tree:
    """Frozen parameters with their kernels in `dtype`: the rest is small.

    Args:
      frozen: arrays, or their shapes.
    """
    leaves = trees.flatten(frozen)
    for name in [n for n in leaves if n.endswith("/kernel")]:
        leaf = leaves[name]
        if isinstance(leaf, jax.ShapeDtypeStruct):
            leaves[name] = leaf.update(dtype=dtype)
        else:
            leaves[name] = leaf.astype(dtype)
    return trees.unflatten(leaves)


def shardings(
    abstract: TrainState,
    params: Tree,
    patterns: tuple[str, ...],
    tx: optax.GradientTransformation,
    whole: NamedSharding,
) -> TrainState:
    """Shardings of a state: what belongs to a parameter lies where the parameter does.

    Args:
      abstract: shapes of the state.
      params: shardings of the whole parameter tree.
      whole: for scalars.
    """
    trainable, frozen = trees.split(params, patterns)
    optimizer = optax.tree_utils.tree_map_params(
        tx,
        lambda _, place: place,
        abstract.optimizer,
        trainable,
        transform_non_params=lambda _: whole,
    )
    return TrainState(
        step=whole,
        trainable=trainable,
        frozen=frozen,
        optimizer=optimizer,
        ema=None if abstract.ema is None else trainable,
        key=whole,
    )
