"""What a run writes down: every step's loss, metrics now and then, a line to watch."""

import json
import math
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from tensorboardX import SummaryWriter

STEPS = "log.jsonl"
METRICS = "metrics.jsonl"


class StepLog:
    """Appends one record for each step and flushes it: {"step", "loss", "batch"}.

    After a resume the repeated steps are appended again, so a reader can see that they
    came out the same.
    """

    def __init__(self, workdir: Path):
        self._file = _append(workdir / STEPS)

    def write(self, step: int, loss: float, batch: str) -> None:
        """Record of the update numbered `step`, with the hash of its batch."""
        record = {"step": step, "loss": loss, "batch": batch}
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


class MetricsLog:
    """Scalars as JSON lines and as TensorBoard events."""

    def __init__(self, workdir: Path):
        self._file = _append(workdir / METRICS)
        self._events = SummaryWriter(str(workdir / "tensorboard"))

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Values at `step`; those that are not numbers (an empty bin) are left out."""
        numbers = {k: v for k, v in metrics.items() if math.isfinite(v)}
        self._file.write(json.dumps({"step": step, **numbers}) + "\n")
        self._file.flush()
        for name, value in numbers.items():
            self._events.add_scalar(name, value, step)
        self._events.flush()

    def close(self) -> None:
        """Closes both."""
        self._file.close()
        self._events.close()


class Progress:
    """One line on stderr: where the run stands and how long it still takes."""

    def __init__(self, first: int, steps: int, out: IO[str] | None = None):
        self._steps = steps
        self._out = out or sys.stderr
        self._last = (first, time.monotonic())

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Line after `step` of all steps."""
        before, then = self._last
        now = time.monotonic()
        self._last = (step, now)
        left = (now - then) / max(step - before, 1) * (self._steps - step)
        parts = [f"step {step}/{self._steps}", f"loss {metrics['loss']:.4f}"]
        parts += [f"lr {metrics['learning_rate']:.2e}"]
        parts += [f"{metrics['samples_per_s']:.2f} samples/s"]
        if "percent_of_peak" in metrics:
            parts += [f"{metrics['percent_of_peak']:.1f} % of peak"]
        print("  ".join([*parts, f"{duration(left)} left"]), file=self._out, flush=True)


def duration(seconds: float) -> str:
    """Seconds as hours, minutes, seconds: "2 h 05 min", "3 min 20 s", "12 s"."""
    s = round(seconds)
    if s >= 3600:
        return f"{s // 3600} h {s % 3600 // 60:02d} min"
    return f"{s // 60} min {s % 60:02d} s" if s >= 60 else f"{s} s"


def _append(path: Path) -> IO[Any]:
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("a+", encoding="utf-8")
    if file.tell() and not path.read_bytes().endswith(b"\n"):
        file.write("\n")  # a process that was killed left half a line
    return file
