"""Orders the calls of a run: batches in, steps, records and checkpoints out."""

import contextlib
import dataclasses
import math
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from onetoall_jax.errors import Stopped, UserError
from onetoall_jax.training import log, optimizer
from onetoall_jax.training.metrics import Metrics
from onetoall_jax.training.settings import TrainingConfig
from onetoall_jax.training.state import TrainState
from onetoall_jax.training.step import Knobs

HostBatch = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Job:
    """What the loop calls.

    Attributes:
      config: of the run.
      step: (state, device batch, knobs) -> (state, loss, metrics); compiled.
      place: host batch -> device batch.
      save: (step, state), writes a checkpoint.
      work: host batch -> model operations of a step on it, over all hosts.
      clips: host batch -> clips in it, over all hosts.
      peak: operations a second that all devices can do; None where unknown.
      sample: (step, state, host batch), draws sample videos; None draws none.
      writes: this process keeps the records.
      stop: has the run been asked to stop after this step?
    """

    config: TrainingConfig
    step: Callable[[TrainState, Any, Knobs], tuple[TrainState, jax.Array, Metrics]]
    place: Callable[[HostBatch], Any]
    save: Callable[[int, TrainState], None]
    work: Callable[[HostBatch], float]
    clips: Callable[[HostBatch], int]
    peak: float | None = None
    sample: Callable[[int, TrainState, HostBatch], None] | None = None
    writes: bool = True
    stop: Callable[[int], bool] = lambda step: False


def run(
    state: TrainState, batches: Iterator[HostBatch], job: Job, workdir: Path
) -> TrainState:
    """Trains from the state's step to the last; -> the final state.

    Every step's loss and the hash of its batch are appended to log.jsonl and flushed,
    one step late, so that the device never waits for the host; a checkpoint is written
    only after the records of all its steps.

    Raises:
      UserError: loss or gradient is no longer finite.
      Stopped: asked to, after a checkpoint of the last step.
    """
    config, first = job.config, int(state.step)
    saved = first
    with contextlib.ExitStack() as stack:
        records = _Records(stack, workdir if job.writes else None, job, first)
        for k in range(first, config.steps):
            batch = None if job.stop(k) else _read(records, batches, job, k)
            if batch is None:
                records.flush()
                if k > saved:
                    job.save(k, state)
                raise Stopped(
                    f"Stopped as asked after step {k} of {config.steps}, which is "
                    "saved: the same command goes on from there."
                )
            state, loss, metrics = job.step(state, job.place(batch), knobs(config, k))
            records.add(k + 1, batch, loss, metrics)
            if k == first:
                records.started()
            if _due(k + 1, config.log_every, config.steps):
                records.write(k + 1)
            if _due(k + 1, config.checkpoint_every, config.steps):
                records.flush()
                job.save(k + 1, state)
                saved = k + 1
            if job.sample and _due(k + 1, config.sample_every, config.steps):
                job.sample(k + 1, state, batch)
    return state


def _read(
    records: "_Records", batches: Iterator[HostBatch], job: Job, step: int
) -> HostBatch | None:
    """Next batch, or None if the request to stop ended those who read it."""
    try:
        return records.waiting(batches)
    except Exception:
        if not job.stop(step):
            raise
        return None


def knobs(config: TrainingConfig, step: int) -> Knobs:
    """Numbers of the update that follows `step` earlier ones."""
    return Knobs(
        np.float32(optimizer.learning_rate(config.optimizer, step, config.steps)),
        np.float32(config.token_replace_probability),
        np.float32(config.region_weight),
    )


def batch_hash(batch: HostBatch) -> str:
    """CRC-32 of all fields, 8 hexadecimal digits."""
    crc = 0
    for name in sorted(batch):
        crc = zlib.crc32(np.ascontiguousarray(batch[name]).data, crc)
    return f"{crc:08x}"


def _due(step: int, every: int, last: int) -> bool:
    return bool(every) and (step % every == 0 or step == last)


class _Records:
    """Losses, hashes and times of steps on their way to the files."""

    def __init__(
        self,
        stack: contextlib.ExitStack,
        workdir: Path | None,
        job: Job,
        first: int,
    ):
        self._job = job
        self._steps = self._metrics = self._progress = None
        if workdir is not None:
            self._steps = stack.enter_context(contextlib.closing(log.StepLog(workdir)))
            self._metrics = stack.enter_context(
                contextlib.closing(log.MetricsLog(workdir))
            )
            self._progress = log.Progress(first, job.config.steps)
        self._pending: tuple[int, str, jax.Array, jax.Array] | None = None
        self._good = first
        self._reset()

    def _reset(self) -> None:
        self._sum: Metrics | None = None
        self._since = time.monotonic()
        self._waited = self._work = 0.0
        self._clips = 0

    def waiting(self, batches: Iterator[HostBatch]) -> HostBatch:
        """Next batch, its time counted."""
        start = time.monotonic()
        batch = next(batches)
        self._waited += time.monotonic() - start
        return batch

    def add(
        self, step: int, batch: HostBatch, loss: jax.Array, metrics: Metrics
    ) -> None:
        """Takes a step that was just started; records the one before it."""
        self.flush()
        norm = metrics.grad_norm.total  # type: ignore[attr-defined]
        self._pending = (step, batch_hash(batch), loss, norm)
        self._sum = metrics if self._sum is None else self._sum.merge(metrics)
        self._work += self._job.work(batch)
        self._clips += self._job.clips(batch)

    def flush(self) -> None:
        """Records the last step, waiting for it."""
        if self._pending is None:
            return
        step, hashed, *numbers = self._pending
        self._pending = None
        loss, norm = map(float, jax.device_get(numbers))
        if self._steps:
            self._steps.write(step, loss, hashed)
        if not (math.isfinite(loss) and math.isfinite(norm)):
            name, value = ("loss", loss) if not math.isfinite(loss) else ("norm", norm)
            raise UserError(
                f"Step {step}: the {name} of the "
                f"{'batch' if name == 'loss' else 'gradient'} is {value}, so training "
                "stopped; lower training.optimizer.learning_rate and start again: the "
                "run goes on from its last checkpoint, which is good."
            )

    def started(self) -> None:
        """Says how long the first step and its compilation took; restarts the clock."""
        self.flush()
        seconds = time.monotonic() - self._since
        if self._progress:
            text = f"first step after {log.duration(seconds)} (compilation included)"
            print(text, file=sys.stderr, flush=True)
        self._since, self._waited, self._work, self._clips = time.monotonic(), 0, 0, 0

    def write(self, step: int) -> None:
        """Metrics since the last call, to the files and to the screen."""
        self.flush()
        assert self._sum is not None
        config = self._job.config
        rate = optimizer.learning_rate(config.optimizer, step - 1, config.steps)
        values = {**self._sum.values(), "learning_rate": rate, **self._speed()}
        if self._metrics and self._progress:
            self._metrics.write(step, values)
            self._progress.write(step, values)
        self._reset()

    def _speed(self) -> dict[str, float]:
        seconds = max(time.monotonic() - self._since, 1e-9)
        values = {
            "samples_per_s": self._clips / seconds,
            "tflops_per_s": self._work / seconds / 1e12,
            "data_wait_share": self._waited / seconds,
        }
        if self._job.peak:
            values["percent_of_peak"] = 100 * self._work / seconds / self._job.peak
        return values
