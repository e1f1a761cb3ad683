"""What a benchmark prints and stores: one row a case, a table and the same as JSON."""

import argparse
import contextlib
import json
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from benchmarks import timing
from onetoall_jax.training import flops

GIB = 2**30
Row = dict[str, Any]
# Heading, key of a row, format. Columns that no row fills are left out.
COLUMNS = (
    ("case", "name", "s"),
    ("shape", "shape", "s"),
    ("compile s", "compile_s", ".1f"),
    ("seconds", "seconds", ".4g"),
    ("CPU s", "cpu_s", ".4g"),
    ("s a clip", "seconds_a_clip", ".4g"),
    ("GB/s", "gb_per_s", ".2f"),
    ("TFLOP", "tflop", ".4g"),
    ("TFLOP/s", "tflops_per_s", ".4g"),
    ("% of matmul", "percent_of_matmul", ".1f"),
    ("% of both rates", "percent_of_rates", ".1f"),
    ("% of peak", "percent_of_peak", ".1f"),
    ("program GiB", "program_gib", ".2f"),
    ("peak GiB", "peak_gib", ".2f"),
)


class Program(NamedTuple):
    """A compiled function and what compiling it took."""

    call: Any
    compile_s: float

    @property
    def bytes(self) -> int:
        """Of its arguments, results and temporaries on one device."""
        stats = self.call.memory_analysis()
        own = stats.output_size_in_bytes - stats.alias_size_in_bytes
        return stats.argument_size_in_bytes + stats.temp_size_in_bytes + own


def compiled(traced: Any) -> Program:
    """Compiles what `jax.jit(...).trace(...)` gives."""
    begun = time.perf_counter()
    made = traced.lower().compile()
    return Program(made, time.perf_counter() - begun)


def parser(doc: str | None) -> argparse.ArgumentParser:
    """Flags that every benchmark takes."""
    made = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--out", type=Path, help="JSON file to write")
    made.add_argument("--rounds", type=int, default=10, help="median of so many")
    made.add_argument("--trace", type=Path, help="folder for a profile (xprof) of each")
    return made


def timed(call: Callable[[], object], args: argparse.Namespace) -> list[float]:
    """Seconds of each round; with --trace one more round is profiled.

    Args:
      call: returns when its work is done.
    """
    times = timing.in_turn({"": call}, args.rounds)[""]
    with profile(args.trace):
        call()
    return times


@contextlib.contextmanager
def profile(folder: Path | None) -> Iterator[None]:
    """Writes an xprof trace of what happens inside; nothing without a folder."""
    if folder is None:
        yield
        return
    with jax.profiler.trace(str(folder)):
        yield


def row(
    name: str,
    shape: str,
    times: Sequence[float],
    *,
    work: Mapping[str, float] | None = None,
    matmul: float | None = None,
    ideal: float | None = None,
    program: Program | None = None,
    clips: int = 0,
) -> Row:
    """Figures of one case.

    Args:
      times: seconds of each round.
      work: operations of one device by kind, as the project's table counts them.
      matmul: operations a second of this device's matrix products.
      ideal: seconds that the work takes at this device's own rates.
      clips: that all devices together did, where there are any.
    """
    seconds = statistics.median(times)
    ordered = sorted(times)
    made: Row = {
        "name": name,
        "shape": shape,
        "seconds": seconds,
        "p10": ordered[len(times) // 10],
        "p90": ordered[-1 - len(times) // 10],
        "n": len(times),
    }
    if clips:
        made["seconds_a_clip"] = seconds / clips
    if work is not None:
        total = sum(work.values())
        made |= {
            "work": dict(work),
            "tflop": total / 1e12,
            "tflops_per_s": total / seconds / 1e12,
        }
        if matmul is not None:
            made["percent_of_matmul"] = 100 * total / seconds / matmul
        if ideal is not None:
            made["percent_of_rates"] = 100 * ideal / seconds
        peak = flops.peak(jax.devices()[0].device_kind)
        if peak is not None:
            made["percent_of_peak"] = 100 * total / seconds / 1e12 / peak
    if program is not None:
        made["compile_s"] = program.compile_s
        made["program_gib"] = program.bytes / GIB
    stats = jax.devices()[0].memory_stats()
    if stats and "peak_bytes_in_use" in stats:
        made["peak_gib"] = stats["peak_bytes_in_use"] / GIB  # since the process began
    return made


def publish(name: str, args: argparse.Namespace, rows: Sequence[Row]) -> None:
    """Prints the table and writes the same figures to --out."""
    device = jax.devices()[0]
    made = {
        "name": name,
        "commit": _commit(),
        "device": device.device_kind,
        "devices": jax.device_count(),
        "jax": jax.__version__,
        "rows": list(rows),
    }
    print(
        f"{name}: {made['devices']} x {made['device']}, jax {made['jax']}, commit "
        f"{made['commit']}, medians of {args.rounds} rounds"
    )
    print(table(rows))
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(made, indent=1) + "\n")


def table(rows: Sequence[Row]) -> str:
    """Markdown table of the columns that rows fill."""
    used = [c for c in COLUMNS if any(c[1] in row for row in rows)]
    lines = [[heading for heading, _, _ in used]]
    for row in rows:
        lines.append([format(row[k], f) if k in row else "" for _, k, f in used])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = [
        "| " + " | ".join(f"{c:<{w}}" for c, w in zip(line, widths, strict=True)) + " |"
        for line in lines
    ]
    text.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
    return "\n".join(text)


def _commit() -> str | None:
    root = Path(__file__).resolve().parent
    said = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    return said.stdout.strip() or None
