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


PICTURE_FRAMES = 2  # a row of so few frames is a picture, or a target and its source


def units(sizes: RowSizes) -> list[tuple[int, ...]]:
    """Rows that share one place in an epoch: groups of pictures, then each video.

    Pictures of one size are cut into equal groups in the order of their rows, so many
    that there is about one group for six videos; the rest of a size is left out. With
    fewer than six videos every picture is a group of its own.

    Source: section 1 of the released data page.
    """
    few = np.asarray(sizes.num_frames) <= PICTURE_FRAMES
    pictures, videos = np.flatnonzero(few), np.flatnonzero(~few)
    wanted = len(videos) // 6
    each = max(1, len(pictures) // wanted) if wanted else 1
    by_size: dict[tuple[int, int], list[int]] = {}
    for i in pictures.tolist():
        size = int(sizes.height[i]), int(sizes.width[i])
        by_size.setdefault(size, []).append(i)
    groups = [
        tuple(rows[start : start + each])
        for _, rows in sorted(by_size.items())
        for start in range(0, len(rows) - each + 1, each)
    ]
    return groups + [(i,) for i in videos.tolist()]


def facts(sizes: RowSizes, row: int) -> tuple[int, int, int, float]:
    """(height, width, frames, frames a second) as buckets count them."""
    height, width = int(sizes.height[row]), int(sizes.width[row])
    if sizes.num_frames[row] <= PICTURE_FRAMES:
        return height, width, 1, np.nan
    return height, width, int(sizes.num_frames[row]), float(sizes.fps[row])


def members(
    config: DataConfig,
    sizes: RowSizes,
    epoch: int,
    places: list[tuple[int, ...]] | None = None,
) -> dict[Bucket, list[int]]:
    """Rows of every bucket in an epoch, in order; some rows may be in none.

    Of a group of pictures an epoch has one, drawn uniformly.

    Args:
      places: of `units`, where they are known already.
    Raises:
      UserError: the settings name an unknown table of sizes.
    """
    found: dict[Bucket, list[int]] = {}
    places = units(sizes) if places is None else places
    areas = config.resolutions
    rng = np.random.default_rng([config.seed, epoch, 0])
    chances = rng.random((len(places), 1 + buckets.DRAWS * len(areas))).tolist()
    for i, (rows, (member, *draws)) in enumerate(zip(places, chances, strict=True)):
        drawn: int | list[float] = draws
        if config.released_buckets:
            drawn = buckets.released_seed(areas, i, config.seed + epoch)
        known = facts(sizes, rows[0])
        bucket = buckets.assign(areas, config.num_frames, known, drawn, config.aspects)
        if bucket is not None:
            found.setdefault(bucket, []).append(rows[int(member * len(rows))])
    return found


def programs(config: DataConfig, sizes: RowSizes) -> list[Bucket]:
    """All sizes that batches may come in: one compiled program of a step each.

    At most 40 aspects x 2 lengths x areas; `DataConfig.aspects` makes them fewer.
    """
    kinds = {facts(sizes, rows[0]) for rows in units(sizes)}
    found: set[Bucket] = set()
    for row in kinds:
        found.update(
            buckets.possible(config.resolutions, config.num_frames, row, config.aspects)
        )
    return sorted(found)


def told(config: DataConfig, sizes: RowSizes) -> str:
    """How many programs a run compiles, for people to read."""
    made = programs(config, sizes)
    videos = sum(bucket.num_frames > 1 for bucket in made)
    return (
        f"{len(made)} sizes of batches ({videos} of videos, {len(made) - videos} of "
        "pictures), a compiled program each; data.aspects, data.resolutions and "
        "image_share make them fewer"
    )


class Plan:
    """All batches of a run, as a sequence that never ends.

    Each epoch assigns every row to a bucket, shuffles the rows of a bucket, cuts them
    into batches (the remainder is left to another epoch) and shuffles the batches.

    Raises:
      UserError: no bucket has enough rows for one batch.
    """

    def __init__(self, config: DataConfig, sizes: RowSizes):
        self._config, self.sizes = config, sizes
        self._places = units(sizes)
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
        config, sizes = self._config, self.sizes
        assigned = members(config, sizes, epoch, self._places)
        rng = np.random.default_rng([config.seed, epoch])
        batches = []
        for bucket in sorted(assigned):
            rows = rng.permutation(assigned[bucket])
            whole = len(rows) // config.batch * config.batch
            batches += [(bucket, r) for r in rows[:whole].reshape(-1, config.batch)]
        return [batches[i] for i in rng.permutation(len(batches))]
