"""Counts the operations of a traced program: loops by their lengths, kernels not."""

import math
from collections.abc import Callable
from typing import Any

import jax
from jax.extend import core


def operations(fn: Callable[..., Any], *args: Any) -> dict[str, float]:
    """Operations of `fn` on abstract arguments by kind: "matmul" and "convolution".

    Nothing is computed or compiled. A multiply-add counts two.
    """
    closed = jax.make_jaxpr(fn)(*args)
    total = {"matmul": 0.0, "convolution": 0.0}
    _add(closed.jaxpr, 1.0, total)
    return total


def _add(jaxpr: core.Jaxpr, times: float, total: dict[str, float]) -> None:
    for eqn in jaxpr.eqns:
        name = eqn.primitive.name
        if name == "dot_general":
            total["matmul"] += times * _dot(eqn)
        elif name == "conv_general_dilated":
            total["convolution"] += times * _convolution(eqn)
        elif name == "while":
            raise ValueError("a while loop of unknown length cannot be counted")
        inner = times * eqn.params.get("length", 1) if name == "scan" else times
        for value in eqn.params.values():
            for part in value if isinstance(value, (tuple, list)) else (value,):
                closed = getattr(part, "jaxpr", part)
                if isinstance(closed, core.Jaxpr):
                    _add(closed, inner, total)


def _dot(eqn: Any) -> float:
    (contracted, _), _ = eqn.params["dimension_numbers"]
    left = eqn.invars[0].aval.shape
    depth = math.prod(left[axis] for axis in contracted)
    return 2.0 * depth * math.prod(eqn.outvars[0].aval.shape)


def _convolution(eqn: Any) -> float:
    numbers = eqn.params["dimension_numbers"]
    kernel = eqn.invars[1].aval.shape
    # Of the kernel's axes all but the one of output features are summed over.
    summed = math.prod(kernel) / kernel[numbers.rhs_spec[0]]
    return 2.0 * summed * math.prod(eqn.outvars[0].aval.shape)
