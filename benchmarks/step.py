"""Training steps of a configuration, on random parameters and random clips.

    python -m benchmarks.step --config=configs/stage2.py:1_3b --batches 1 largest
    python -m benchmarks.step --config=configs/lora.py:14b --sizes 29x512x512
    python -m benchmarks.step --config=configs/stage2.py:tiny --sizes 5x48x32

Settings are overridden as for train.py (--config.training.remat=attention). Latents of
the clips are given, references encoded in the step; with --encode so are the clips.
Operations, and with them all rates, are those of the network alone, forward and
backward, without what is computed again and without the codec. Batches are for each
part of the mesh that has clips of its own.
"""

import argparse
import sys

import jax

from benchmarks import rates, report
from benchmarks.drawn import Drawn
from benchmarks.rates import Rates, Shape
from benchmarks.report import GIB
from onetoall_jax import errors
from onetoall_jax.errors import UserError
from onetoall_jax.pipelines import tune
from onetoall_jax.planning import work
from onetoall_jax.planning.work import Size

LARGEST = "largest"
_ROOM = 0.97  # of the device's memory: its allocator loses some between arrays


@errors.reported
def main(argv: list[str]) -> None:
    """Times every size and batch and prints the table."""
    parser = report.parser(__doc__)
    parser.add_argument("--config", required=True, help="as train.py takes it")
    sizes = tuple(map(Size.parse, ("29x512x512", "29x768x768")))
    parser.add_argument("--sizes", type=Size.parse, nargs="+", default=sizes)
    parser.add_argument("--batches", nargs="+", default=["1"], help="or 'largest'")
    parser.add_argument("--encode", action="store_true", help="encode the clips, too")
    parser.add_argument("--memory", type=float, help="GiB of a device, where unknown")
    args, words = parser.parse_known_args(argv)
    run = Drawn.build(args.config, words, encode=args.encode)
    rows = [measure(run, s, batch, args) for s in args.sizes for batch in args.batches]
    report.publish("step", args, rows)


def measure(run: Drawn, size: Size, batch: str, args: argparse.Namespace) -> report.Row:
    """The row of one size and batch."""
    if batch != LARGEST:
        return _row(run, size, run.shards * int(batch), args)
    clips = largest(run, size, _memory(args.memory))
    while True:
        try:
            return _row(run, size, clips, args)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error) or clips == run.shards:
                raise
        clips -= run.shards  # the compiler's account was short of what is needed


def largest(run: Drawn, size: Size, limit: float) -> int:
    """Most clips whose step fits, by the memory of steps with one and two a part.

    Args:
      limit: bytes of a device.
    Raises:
      UserError: not even one fits.
    """
    one, two = (run.program(size, n * run.shards).bytes for n in (1, 2))
    if one > limit:
        raise UserError(
            f"A step of one clip of {size} takes {one / GIB:.3f} GiB of "
            f"{limit / GIB:.3f}: docs/scaling.md says what saves memory."
        )
    return run.shards * (1 + int((limit - one) // max(two - one, 1)))


def _memory(given: float | None) -> float:
    """Bytes of a device that a program may use."""
    if given is not None:
        return given * GIB
    stats = jax.devices()[0].memory_stats()
    if not stats:
        raise UserError("This device does not tell its memory: give --memory in GiB.")
    return _ROOM * stats["bytes_limit"]


def operations(run: Drawn, size: Size) -> dict[str, float]:
    """Operations of one clip by kind."""
    made: dict[str, float] = {}
    for row in work.training(run.settings, run.codec, size):
        if row.part != work.CODEC:
            made[row.kind] = made.get(row.kind, 0.0) + row.model
    return made


def own_rates(run: Drawn, size: Size, rounds: int) -> Rates:
    """Rates of this device for the attention that one device has of a clip."""
    model, split = run.settings.model, run.mesh.shape
    frames, rows, columns = size.clip(run.codec.geometry, 1).grid
    tokens = (frames + bool(model.pose_layers)) * rows * columns
    heads = -(-model.num_heads // (split["tensor"] * split["context"]))
    shape = Shape(1, tokens, heads, model.head_dim)
    form = tune.taken_in(run.settings.attention, jax.devices()[0].device_kind)
    return rates.measured(shape, run.settings.training.dtype, form, rounds)


def _row(run: Drawn, size: Size, clips: int, args: argparse.Namespace) -> report.Row:
    best = own_rates(run, size, args.rounds)
    made = run.program(size, clips)
    share = clips / run.mesh.devices.size
    done = {kind: share * n for kind, n in operations(run, size).items()}
    return report.row(
        f"{run.settings.name}, {clips} clips, remat {run.settings.training.remat}",
        str(size),
        report.timed(run.steps(made, size, clips), args),
        work=done,
        matmul=best.matmul,
        ideal=best.seconds(done, gradient=True),
        program=made,
        clips=clips,
    )


if __name__ == "__main__":
    main(sys.argv[1:])
