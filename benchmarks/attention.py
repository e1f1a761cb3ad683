"""Attention on this device, forward and with its gradient, and matrix products.

    python -m benchmarks.attention --out=benchmarks/results/attention.json
    python -m benchmarks.attention --shapes 1x256x2x32 --dtype=float32

Shapes are clips x tokens x heads x width of a head; the default ones are those of
sampling 81x576x1024 and of training 29x768x768 at 1.3B and 14B.
"""

import argparse
import sys
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import rates, report
from benchmarks.rates import Shape
from onetoall_jax.models.attention import AttentionConfig
from onetoall_jax.models.attention.kernels import choose
from onetoall_jax.models.attention.settings import KERNELS
from onetoall_jax.pipelines import tune

SHAPES = tuple(
    Shape(1, tokens, heads, 128) for tokens in (50688, 20736) for heads in (12, 40)
)


def main(argv: list[str]) -> None:
    """Times every shape and prints the table."""
    parser = report.parser(__doc__)
    parser.add_argument("--shapes", type=Shape.parse, nargs="+", default=SHAPES)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--kernel", choices=KERNELS, default="auto")
    parser.add_argument("--tuned_from", default="", help="blocks found before")
    args = parser.parse_args(argv)
    kind = jax.devices()[0].device_kind
    form = tune.taken_in(
        AttentionConfig(kernel=args.kernel, tuned_from=args.tuned_from), kind
    )
    best = rates.matmul(args.dtype, args.rounds)
    print(f"matrix products in {args.dtype}: {best / 1e12:.4g} TFLOP/s")
    rows = [r for shape in args.shapes for r in measure(shape, form, best, args)]
    report.publish("attention", args, rows)


def measure(
    shape: Shape, form: AttentionConfig, best: float, args: argparse.Namespace
) -> Iterator[report.Row]:
    """Rows of one shape: forward, and with gradient.

    Args:
      best: operations a second of matrix products.
    """
    kernel = form.kernel
    if kernel == "auto":
        kernel = choose(shape, shape.tokens, jnp.dtype(args.dtype))
    forward, gradient, qkv = rates.attention(shape, args.dtype, form)
    for name, fn, count in (("forward", forward, 1), ("with gradient", gradient, 3)):
        program = report.compiled(fn.trace(*qkv))

        def call(program: Any = program.call) -> None:
            jax.block_until_ready(program(*qkv))

        work = {"attention": count * shape.forward}
        times = report.timed(call, args)
        what = f"{kernel}, {name}"
        yield report.row(
            what, str(shape), times, work=work, matmul=best, program=program
        )


if __name__ == "__main__":
    main(sys.argv[1:])
