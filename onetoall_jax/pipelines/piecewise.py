"""A function of a parameter tree, computed leaf by leaf."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np

Leaves = Mapping[str, Any]


def by_leaf(
    function: Callable[[Leaves], Leaves],
    inputs: Mapping[str, jax.ShapeDtypeStruct],
    read: Callable[[str], np.ndarray],
) -> tuple[dict[str, jax.ShapeDtypeStruct], Callable[[str], np.ndarray]]:
    """Makes the outputs of a function readable one by one.

    An output leaf is computed from only the inputs that it needs, so that memory holds
    those instead of two trees.

    Args:
      function: pure, from leaves by name to leaves by name.
      inputs: shapes and types of the input leaves.
      read: name of an input leaf -> its values.
    Returns:
      (shapes and types of the outputs, name of an output leaf -> its values).
    """
    inputs = dict(sorted(inputs.items()))  # the order in which JAX flattens them
    closed, shapes = jax.make_jaxpr(function, return_shape=True)(inputs)
    position = {name: i for i, name in enumerate(sorted(shapes))}

    def compute(name: str) -> np.ndarray:
        i = position[name]
        needed = _needed(closed.jaxpr, i)
        held = {
            key: read(key)
            for key, var in zip(inputs, closed.jaxpr.invars, strict=True)
            if var in needed
        }
        if closed.jaxpr.outvars[i] in closed.jaxpr.invars:  # unchanged
            return next(iter(held.values()))
        return np.asarray(_evaluate(closed, i, inputs, held))

    return {name: shapes[name] for name in position}, compute


def _needed(jaxpr: Any, output: int) -> set:
    """Variables that an output depends on."""
    needed = _variables([jaxpr.outvars[output]])
    for equation in reversed(jaxpr.eqns):
        if not needed.isdisjoint(equation.outvars):
            needed |= _variables(equation.invars)
    return needed


def _variables(atoms: Any) -> set:
    return {atom for atom in atoms if not isinstance(atom, jex.Literal)}


def _evaluate(closed: Any, output: int, inputs: Leaves, held: Leaves) -> jax.Array:
    def one(held: Leaves) -> jax.Array:
        # The others stand in as zeros, which the compiler removes with all that only
        # they would have fed.
        whole = [
            held[key] if key in held else jnp.zeros(leaf.shape, leaf.dtype)
            for key, leaf in inputs.items()
        ]
        return jex.jaxpr_as_fun(closed)(*whole)[output]

    return jax.jit(one)(held)
