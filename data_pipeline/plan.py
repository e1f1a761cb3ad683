"""Which rows make up the batch of a step: a pure function of seed, epoch and step."""

import dataclasses

import numpy as np

from data_pipeline import buckets
from data_pipeline.buckets import Bucket
from data_pipeline.builder import RowSizes
from data_pipeline.settings import DataConfig
from onetoall_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class BatchPlan:
    """One global batch.

    Attributes:
      step: of the run, from 0.
      epoch: which every row's draws depend on.
      bucket: sizes shared by all rows.
      rows: [batch] row numbers.
    """

    step: int
    epoch: int
    bucket: Bucket
    rows: np.ndarray


def members(config: DataConfig, sizes: RowSizes, epoch: int) -> dict[Bucket, list[int]]:
    """Rows of every bucket in an epoch, in order; some rows may be in none.

    Raises:
      UserError: the settings name an unknown table of sizes.
    """
    found: dict[Bucket, list[int]] = {}
    columns = zip(sizes.height, sizes.width, sizes.num_frames, sizes.fps, strict=True)
    for i, row in enumerate(columns):
        bucket = buckets.assign(
            config.resolutions, config.num_frames, row, i, config.seed + epoch
        )
        if bucket is not None:
            found.setdefault(bucket, []).append(i)
    return found


class Plan:
    """All batches of a run, as a sequence that never ends.

    Each epoch assigns every row to a bucket, shuffles the rows of a bucket, cuts them
    into batches (the remainder is left to another epoch) and shuffles the batches.

    Raises:
      UserError: no bucket has enough rows for one batch.
    """

    def __init__(self, config: DataConfig, sizes: RowSizes):
        self._config, self._sizes = config, sizes
        self._steps: dict[int, list[tuple[Bucket, np.ndarray]]] = {}
        self._starts = [0]
        if not self._epoch(0):
            raise UserError(
                f"None of the {len(sizes)} clips in {config.root} fills a batch of "
                f"{config.batch} at the sizes {[r.table for r in config.resolutions]}: "
                "lower data.batch or prepare larger clips."
            )

    def __len__(self) -> int:
        return 1 << 40

    def __getitem__(self, step: int) -> BatchPlan:
        step = int(step)
        while step >= self._starts[-1]:
            self._starts.append(
                self._starts[-1] + len(self._epoch(len(self._starts) - 1))
            )
        epoch = int(np.searchsorted(self._starts, step, side="right")) - 1
        bucket, rows = self._epoch(epoch)[step - self._starts[epoch]]
        return BatchPlan(step, epoch, bucket, rows)

    def _epoch(self, epoch: int) -> list[tuple[Bucket, np.ndarray]]:
        if epoch not in self._steps:
            # Only the newest epoch is kept; older ones can be made again.
            self._steps = {epoch: self._make(epoch)}
        return self._steps[epoch]

    def _make(self, epoch: int) -> list[tuple[Bucket, np.ndarray]]:
        config, sizes = self._config, self._sizes
        assigned = members(config, sizes, epoch)
        rng = np.random.default_rng([config.seed, epoch])
        batches = []
        for bucket in sorted(assigned):
            rows = rng.permutation(assigned[bucket])
            whole = len(rows) // config.batch * config.batch
            batches += [(bucket, r) for r in rows[:whole].reshape(-1, config.batch)]
        return [batches[i] for i in rng.permutation(len(batches))]
