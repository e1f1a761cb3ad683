"""Stored latents of clips: which there are, where each lies, and reading them.

The set is cut into shards of equally many records. What a record holds follows from the
settings and the sizes of the rows alone, so that no index needs to be stored.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes  # noqa: F401  (numpy then knows bfloat16)
import numpy as np

from data_pipeline import buckets, plan, windows
from data_pipeline.buckets import Bucket
from data_pipeline.builder import RowSizes
from data_pipeline.settings import DataConfig
from data_pipeline.windows import Window
from onetoall_jax.errors import UserError
from onetoall_jax.geometry import Geometry

DESCRIPTION = "latents.json"


class Entry(NamedTuple):
    """One record: a window of a row, fitted to a bucket."""

    bucket: Bucket
    row: int
    window: Window


class Layout:
    """The records of a set, in order: by bucket, row and number of the window.

    Attributes:
      buckets: all that a row may come to, in order.

    Raises:
      UserError: settings that store nothing.
    """

    def __init__(self, config: DataConfig, sizes: RowSizes):
        if config.windows != windows.CACHED:
            raise UserError(
                "Latents are stored of few windows: set data.windows=cached."
            )
        windows.check(config)
        self._config, self._sizes = config, sizes
        rows: dict[Bucket, list[int]] = {}
        for row in range(len(sizes)):
            known = plan.facts(sizes, row)
            for bucket in buckets.possible(
                config.resolutions, config.num_frames, known, config.aspects
            ):
                rows.setdefault(bucket, []).append(row)
        self.buckets = sorted(rows)
        self._rows = {b: np.array(rows[b]) for b in self.buckets}
        self._starts, total = {}, 0
        for b in self.buckets:
            counts = [len(self.windows(b, row)) for row in rows[b]]
            self._starts[b] = total + np.cumsum([0, *counts])
            total = int(self._starts[b][-1])
        self._total = total

    def __len__(self) -> int:
        return self._total

    def windows(self, bucket: Bucket, row: int) -> list[Window]:
        """Those stored of a row in a bucket."""
        length, fps = int(self._sizes.num_frames[row]), float(self._sizes.fps[row])
        config, sizes = self._config, self._sizes
        marks = windows.marks(config, sizes, row)
        return windows.stored(length, fps, bucket.num_frames, row, config, marks)

    def place(self, bucket: Bucket, row: int, number: int) -> int:
        """Number of a record."""
        i = int(np.searchsorted(self._rows[bucket], row))
        return int(self._starts[bucket][i]) + number

    def end(self, place: int) -> int:
        """Number after the last record of the same size as record `place`."""
        return next(int(s[-1]) for s in self._starts.values() if place < s[-1])

    def __getitem__(self, place: int) -> Entry:
        bucket = next(b for b in self.buckets if place < self._starts[b][-1])
        starts = self._starts[bucket]
        i = int(np.searchsorted(starts, place, side="right")) - 1
        row = int(self._rows[bucket][i])
        return Entry(bucket, row, self.windows(bucket, row)[place - int(starts[i])])


def identity(config: DataConfig, sizes: RowSizes) -> dict[str, Any]:
    """What stored windows depend on, as plain values."""
    return {
        "split": config.split,
        "rows": len(sizes),
        "frames": int(np.sum(sizes.num_frames)),
        "pixels": int(np.sum(np.asarray(sizes.height) * sizes.width)),
        "resolutions": [dataclasses.asdict(r) for r in config.resolutions],
        "aspects": list(config.aspects),
        "num_frames": config.num_frames,
        "windows_per_clip": config.windows_per_clip,
        "marked_frames": bool(len(sizes.marks)) and config.marked_frames,
        "zoomed": bool(config.augment.zoom),
        "same_picture": config.augment.same_picture,
        "released_pictures": config.augment.released_pictures,
        "seed": config.seed,
    }


def shard_file(folder: Path, shard: int, shards: int) -> Path:
    """Where a shard lies."""
    return folder / f"latents.array_record-{shard:05d}-of-{shards:05d}"


def description(folder: str | Path) -> dict[str, Any]:
    """What a finished set says of itself.

    Raises:
      UserError: there is no finished set.
    """
    path = Path(folder) / DESCRIPTION
    if not path.is_file():
        raise UserError(
            f"There are no finished latents at {folder}: make them with `python -m "
            f"data_pipeline.cache_latents --config=CONFIG --output={folder}`."
        )
    return json.loads(path.read_text())


def write_description(folder: Path, values: dict[str, Any]) -> None:
    """Says that a set is finished."""
    beside = folder / (DESCRIPTION + ".part")
    beside.write_text(json.dumps(values, indent=1))
    beside.replace(folder / DESCRIPTION)


class Latents:
    """Random access to a set of latents.

    Raises:
      UserError: there is none, it was made for other settings, or a shard is missing.
    """

    def __init__(self, config: DataConfig, sizes: RowSizes, geometry: Geometry):
        self._folder = Path(config.latents or "")
        told = description(self._folder)
        for name, ours in identity(config, sizes).items():
            theirs = told["data"].get(name)
            if theirs != ours:
                raise UserError(
                    f"The latents at {self._folder} were made with {name} {theirs}, "
                    f"not {ours}: make them anew."
                )
        self._geometry, self._dtype = geometry, np.dtype(told["dtype"])
        self._shards, self._per_shard = told["shards"], told["per_shard"]
        for shard in range(self._shards):
            file = shard_file(self._folder, shard, self._shards)
            if not file.is_file():
                raise UserError(
                    f"{file} is missing: run cache_latents again, which makes only "
                    "what is not there."
                )
        self._layout = Layout(config, sizes)
        self._readers: dict[int, Any] = {}

    def __getstate__(self) -> dict[str, Any]:
        # Each worker opens the files itself.
        return {**self.__dict__, "_readers": {}}

    def read(self, bucket: Bucket, row: int, number: int) -> np.ndarray:
        """[f,h,w,C] float32 of a row's stored window in a bucket.

        Raises:
          UserError: the record is damaged.
        """
        shard, place = divmod(self._layout.place(bucket, row, number), self._per_shard)
        g = self._geometry
        shape = (
            g.latent_frames(bucket.num_frames),
            bucket.height // g.spatial,
            bucket.width // g.spatial,
            g.channels,
        )
        file = shard_file(self._folder, shard, self._shards)
        try:
            if shard not in self._readers:
                self._readers[shard] = _reader(file)
            (record,) = self._readers[shard].read([place])
            return np.frombuffer(record, self._dtype).reshape(shape).astype(np.float32)
        except (RuntimeError, ValueError, IndexError) as error:
            raise UserError(
                f"{file} is damaged: remove it and run cache_latents again, which "
                "makes only what is not there."
            ) from error


def _reader(file: Path) -> Any:
    from array_record.python.array_record_module import ArrayRecordReader

    return ArrayRecordReader(str(file), options="readahead_buffer_size:0")
