"""What this device reaches at best in matrix products and in attention.

Nearly all time goes to these two. Measured, so that the other benchmarks can be set
against the device itself instead of the vendor's figure.
"""

import functools
import math
import statistics
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from benchmarks import timing
from onetoall_jax.models.attention import AttentionConfig, attend

_CHAIN = 8  # products in a row, so that starting them costs nothing


class Shape(NamedTuple):
    """Of queries and keys on one device: [clips, tokens, heads, width of a head]."""

    clips: int
    tokens: int
    heads: int
    head_dim: int

    @classmethod
    def parse(cls, text: str) -> "Shape":
        """Shape of "1x20736x12x128"; ValueError for anything else."""
        clips, tokens, heads, head_dim = map(int, text.split("x"))
        return cls(clips, tokens, heads, head_dim)

    def __str__(self) -> str:
        return "x".join(map(str, self))

    @property
    def forward(self) -> float:
        """Operations of a forward pass; a gradient takes twice as many beside."""
        clips, tokens, heads, head_dim = self
        return 4.0 * clips * tokens**2 * heads * head_dim


class Rates(NamedTuple):
    """Operations a second.

    Attributes:
      matmul: of square matrices.
      attention: of a forward pass.
      with_gradient: of forward and backward pass together, as the model counts them
        (the scores that a kernel computes again count nothing).
    """

    matmul: float
    attention: float
    with_gradient: float

    def seconds(self, work: Mapping[str, float], *, gradient: bool) -> float:
        """Time of work by kind at these rates; convolutions are matrix products."""
        attention = self.with_gradient if gradient else self.attention
        rest = sum(n for kind, n in work.items() if kind != "attention")
        return rest / self.matmul + work.get("attention", 0.0) / attention


@functools.cache
def matmul(dtype: str, rounds: int) -> float:
    """Operations a second of matrix products."""
    side = 512 if jax.default_backend() == "cpu" else 8192
    keys = jax.random.split(jax.random.key(0))
    x, w = (jax.random.normal(key, (side, side), dtype) for key in keys)

    @jax.jit
    def chain(x: jax.Array, w: jax.Array) -> jax.Array:
        w = w / math.sqrt(side)  # keeps the sizes of numbers
        return jax.lax.fori_loop(0, _CHAIN, lambda _, x: x @ w, x)

    return _CHAIN * 2.0 * side**3 / _median(chain, (x, w), rounds)


def attention(
    shape: Shape, dtype: str, form: AttentionConfig
) -> tuple[Any, Any, tuple[jax.Array, ...]]:
    """(jitted forward pass, its gradient, arguments) as the network calls attention."""
    keys = jax.random.split(jax.random.key(0), 3)
    args = tuple(jax.random.normal(key, tuple(shape), dtype) for key in keys)

    def forward(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        return attend(q, k, v, config=form)

    def total(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        return jnp.sum(forward(q, k, v).astype(jnp.float32))

    return jax.jit(forward), jax.jit(jax.grad(total, argnums=(0, 1, 2))), args


@functools.cache
def measured(shape: Shape, dtype: str, form: AttentionConfig, rounds: int) -> Rates:
    """The device's rates, those of attention at one shape."""
    forward, gradient, args = attention(shape, dtype, form)
    return Rates(
        matmul(dtype, rounds),
        shape.forward / _median(forward, args, rounds),
        3 * shape.forward / _median(gradient, args, rounds),
    )


def _median(fn: Callable[..., Any], args: tuple[jax.Array, ...], rounds: int) -> float:
    def call() -> None:
        jax.block_until_ready(fn(*args))

    return statistics.median(timing.in_turn({"": call}, rounds)[""])
