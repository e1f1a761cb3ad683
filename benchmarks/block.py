"""One block of the network: text, reference and feed-forward, as training runs it.

    python -m benchmarks.block --size=1_3b --grids 9x32x32 9x48x48
    python -m benchmarks.block --size=tiny --grids 3x6x4 --dtype=float32

Grids are frames x rows x columns of tokens, the frame before the video included. The
gradient is that of stage 2: to the tokens, the reference and the trained parameters.
"""

import argparse
import sys
from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from benchmarks import rates, report
from benchmarks.rates import Shape
from configs import sizes
from onetoall_jax import config, trees
from onetoall_jax.models.attention import AttentionConfig
from onetoall_jax.models.dit import REMAT, Block, Modulation, Stack
from onetoall_jax.models.rope import Rope
from onetoall_jax.models.settings import ModelConfig
from onetoall_jax.models.text_attention import TextMemory
from onetoall_jax.training import flops, stages

TEXT = 226  # rows of the prompt
_NAME = "dit/blocks/"


def main(argv: list[str]) -> None:
    """Times every grid and prints the table."""
    parser = report.parser(__doc__)
    parser.add_argument("--size", choices=sizes.NAMES, default="1_3b")
    parser.add_argument("--grids", type=_grid, nargs="+", default=((9, 48, 48),))
    parser.add_argument("--remat", choices=REMAT, default="none")
    parser.add_argument("--dtype", default="bfloat16")
    args = parser.parse_args(argv)
    cfg = config.build(ModelConfig, sizes.model(args.size).to_dict())
    report.publish(
        "block", args, [r for g in args.grids for r in measure(cfg, g, args)]
    )


def _grid(text: str) -> tuple[int, int, int]:
    frames, rows, columns = map(int, text.split("x"))
    return frames, rows, columns


def measure(
    cfg: ModelConfig, grid: tuple[int, int, int], args: argparse.Namespace
) -> Iterator[report.Row]:
    """Rows of one grid: forward, and with the gradient of stage 2."""
    forward, gradient, given = functions(cfg, grid, args.remat, args.dtype)
    frames, rows, columns = grid
    shape = Shape(1, frames * rows * columns, cfg.num_heads, cfg.head_dim)
    best = rates.measured(shape, args.dtype, AttentionConfig(), args.rounds)
    for name, fn, trained in (
        ("forward", forward, ()),
        ("with gradient", gradient, stages.patterns("stage2")),
    ):
        program = report.compiled(fn.trace(*given))

        def call(program: Any = program.call) -> None:
            jax.block_until_ready(program(*given))

        work = operations(cfg, grid, trained)
        times = report.timed(call, args)
        yield report.row(
            f"{args.size}, {name}",
            f"{shape.tokens} tokens",
            times,
            work=work,
            matmul=best.matmul,
            ideal=best.seconds(work, gradient=bool(trained)),
            program=program,
        )


def operations(
    cfg: ModelConfig, grid: tuple[int, int, int], trained: tuple[str, ...]
) -> dict[str, float]:
    """Operations by kind; with trained parameters those of the gradient, too."""
    frames, *area = grid
    # The table adds the frame before the video by itself.
    video: Any = (frames - bool(cfg.pose_layers), *area)
    made: dict[str, float] = {}
    sized: Any = cfg  # frozen, where the protocol would let one set values
    for op in flops.block(sized, flops.Clip(0, 0, 0, video, TEXT), trained):
        made[op.kind] = made.get(op.kind, 0.0) + op.forward + op.backward
    return made


def functions(
    cfg: ModelConfig, grid: tuple[int, int, int], remat: str, dtype: str
) -> tuple[Any, Any, tuple[Any, ...]]:
    """(jitted forward pass, gradient, arguments) of a block with random parameters."""
    type_, dim, tokens = jnp.dtype(dtype), cfg.dim, grid[0] * grid[1] * grid[2]
    stack = Stack(Block(cfg, True, True, type_), remat)
    rope = Rope(grid, cfg.head_dim, cfg.rope_theta)

    def normal(seed: int, *shape: int) -> jax.Array:
        return jax.random.normal(jax.random.key(seed), shape, type_)

    @jax.jit
    def drawn(key: jax.Array) -> Any:
        one = jnp.zeros((1, 1, dim))
        time = Modulation(jnp.zeros((1, 6, dim)))
        small = Rope((1, 1, 1), cfg.head_dim, cfg.rope_theta)
        return nn.meta.unbox(stack.init(key, 1, one, time, small, one, one))

    named = {_NAME + n: v for n, v in trees.flatten(drawn(jax.random.key(0))).items()}
    split = trees.split(trees.unflatten(named), stages.patterns("stage2"))
    heads = (cfg.num_heads, cfg.head_dim)
    text = TextMemory(normal(1, 1, TEXT, *heads), normal(2, 1, TEXT, *heads))
    x, feature = normal(3, 1, tokens, dim), normal(4, 1, grid[1] * grid[2], dim)
    time = normal(5, 1, 6, dim)

    def forward(trained, frozen, x, feature, time, text):
        params = trees.join(trained, frozen)["dit"]["blocks"]
        return stack.one(params, 0, x, Modulation(time), rope, text, feature)

    def total(*args: Any) -> jax.Array:
        return jnp.sum(forward(*args).astype(jnp.float32))

    given = (*split, x, feature, time, text)
    return jax.jit(forward), jax.jit(jax.grad(total, argnums=(0, 2, 3))), given


if __name__ == "__main__":
    main(sys.argv[1:])
