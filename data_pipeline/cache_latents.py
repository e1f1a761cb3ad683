"""Stores latents of the windows that training takes, so that it need not encode clips.

    python -m data_pipeline.cache_latents --config=configs/stage2.py:1_3b \\
        --output=runs/latents
    python train.py --config=configs/stage2.py:1_3b --config.data.windows=cached \\
        --config.data.latents=runs/latents

All devices encode together. A shard appears under its name when it is complete: killed
and started again, the run goes on with the first that is missing and leaves the same
files as an unbroken one. On several machines give each a part of the shards,
--part=0/4 and so on, and a folder that all of them see; whichever is last finishes.
"""

import dataclasses
import functools
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import app, flags, logging
from ml_collections import config_flags
from tqdm import tqdm

from data_pipeline import augment, builder, latents, windows
from data_pipeline.builder import Rows
from data_pipeline.latents import Entry, Layout, shard_file
from data_pipeline.settings import DataConfig
from onetoall_jax import config, errors
from onetoall_jax.alignment.fit import train_fit
from onetoall_jax.errors import UserError

_STARTED = "started.json"


class Job(NamedTuple):
    """Records of one shard that are encoded together, all of one size."""

    shard: int
    first: int
    clips: int


def jobs(
    layout: Layout, shards: Sequence[int], per_shard: int, clips: int
) -> list[Job]:
    """All records of `shards` in order, at most `clips` of one size together.

    No job reaches over the end of a shard, so that what a shard holds does not depend
    on where an earlier run stopped.
    """
    made = []
    for shard in shards:
        place = shard * per_shard
        end = min(place + per_shard, len(layout))
        while place < end:
            last = min(place + clips, end, layout.end(place))
            made.append(Job(shard, place, last - place))
            place = last
    return made


class Read:
    """Job -> frames u8 [clips,F,H,W,3] of its records; the rest repeats the last."""

    def __init__(self, data: DataConfig, clips: int):
        self._rows = Rows(data.root, data.split)
        self._layout = Layout(data, self._rows.sizes)
        self._clips = clips

    def __call__(self, job: Job) -> dict[str, Any]:
        entries = [self._layout[job.first + i] for i in range(job.clips)]
        made = [frames(self._rows, entry) for entry in entries]
        made += made[-1:] * (self._clips - len(made))
        return {"job": np.array(job), "frames_u8": np.stack(made)}


def frames(rows: Rows, entry: Entry) -> np.ndarray:
    """Frames [F,H,W,3] of a record, as training would get them."""
    wanted = list(entry.window.frames)
    pictures = rows.read(entry.row, wanted).frames
    if entry.window.zoom != 1:
        pictures = augment.zoomed(pictures, entry.window.zoom)
    height, width = entry.bucket.height, entry.bucket.width
    if pictures.shape[1:3] == (height, width):
        return pictures
    return train_fit(pictures, height, width)


def batches(data: DataConfig, todo: Sequence[Job], clips: int) -> Any:
    """Iterator of every job's frames, in order, read ahead by `data.workers`."""
    import grain

    reading = grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)
    source = grain.MapDataset.source(todo).map(Read(data, clips))
    dataset = source.to_iter_dataset(reading)
    if data.workers:
        dataset = dataset.mp_prefetch(
            grain.MultiprocessingOptions(num_workers=data.workers)
        )
    return iter(dataset)


def write(
    data: DataConfig,
    encoder: Any,
    output: Path,
    *,
    clips: int = 1,
    dtype: str = "float32",
    per_shard: int = 256,
    part: tuple[int, int] = (0, 1),
) -> int:
    """Writes what is missing of a set; -> records in it.

    Args:
      encoder: `onetoall_jax.pipelines.encode.Encoder`.
      clips: encoded at once on each share of the devices.
      dtype: stored, "float32" or "bfloat16".
      per_shard: records in a file, which is what an interrupted run may lose.
      part: (i, n), shards i, i + n, ... are this process's.
    Raises:
      UserError: settings that store nothing, a folder begun with others, or a disk
        that is full.
    """
    try:
        return _write(data, encoder, output, clips, dtype, per_shard, part)
    except (OSError, RuntimeError) as error:
        if not builder.is_full(error):
            raise
        raise UserError(
            f"There is no room left on the disk of {output}: make some and give the "
            "same command again, it goes on where it stood."
        ) from error


def _write(
    data: DataConfig,
    encoder: Any,
    output: Path,
    clips: int,
    dtype: str,
    per_shard: int,
    part: tuple[int, int],
) -> int:
    layout = Layout(data, Rows(data.root, data.split).sizes)
    shards = -(-len(layout) // per_shard)
    told = {
        "data": latents.identity(data, Rows(data.root, data.split).sizes),
        "codec": encoder.fingerprint,
        "dtype": dtype,
        "records": len(layout),
        "shards": shards,
        "per_shard": per_shard,
    }
    _begin(output, told)
    own = range(part[0], shards, part[1])
    missing = [s for s in own if not shard_file(output, s, shards).is_file()]
    together = clips * encoder.clips
    todo = jobs(layout, missing, per_shard, together)
    open_shard = functools.partial(_Shard, output, shards=shards)
    shard: _Shard | None = None
    bar = tqdm(total=sum(job.clips for job in todo), desc="windows", mininterval=2)
    source = batches(data, todo, together) if todo else iter(())
    for batch in source:
        job = Job(*batch["job"].tolist())
        if shard is None or shard.number != job.shard:
            if shard is not None:
                shard.close()
            shard = open_shard(job.shard)
        made = np.asarray(encoder(batch["frames_u8"]))[: job.clips]
        for record in made.astype(np.dtype(dtype)):
            shard.write(record)
        bar.update(job.clips)
    if shard is not None:
        source.close()  # its processes
        shard.close()
    bar.close()
    if all(shard_file(output, s, shards).is_file() for s in range(shards)):
        latents.write_description(output, told)
        (output / _STARTED).unlink(missing_ok=True)
    return len(layout)


def _begin(output: Path, told: dict[str, Any]) -> None:
    """Notes what a set is made of before its first shard.

    Raises:
      UserError: the folder holds shards of something else.
    """
    output.mkdir(parents=True, exist_ok=True)
    for name in (_STARTED, latents.DESCRIPTION):
        if not (output / name).is_file():
            continue
        theirs = json.loads((output / name).read_text())
        different = [k for k in told if theirs.get(k) != told[k]]
        if different:
            raise UserError(
                f"{output} holds latents of another {different[0]}: choose another "
                "--output, or remove it."
            )
        return
    beside = output / (_STARTED + ".part")
    beside.write_text(json.dumps(told))
    os.replace(beside, output / _STARTED)


class _Shard:
    """One file in the making."""

    def __init__(self, folder: Path, number: int, *, shards: int):
        from array_record.python.array_record_module import ArrayRecordWriter

        self.number = number
        self._path = shard_file(folder, number, shards)
        self._beside = self._path.with_name(self._path.name + ".part")
        self._beside.unlink(missing_ok=True)
        self._writer = ArrayRecordWriter(str(self._beside), "group_size:1,uncompressed")

    def write(self, record: np.ndarray) -> None:
        self._writer.write(record.tobytes())

    def close(self) -> None:
        """Gives the file its name."""
        self._writer.close()
        os.replace(self._beside, self._path)


def _part(text: str) -> tuple[int, int]:
    i, _, n = text.partition("/")
    if not (i.isdigit() and n.isdigit() and int(i) < int(n)):
        raise UserError(f"--part is {text!r}: give i/n with i from 0 to n - 1.")
    return int(i), int(n)


def _define_flags() -> None:
    # Only as a program: flags are one table for all modules of a process.
    config_flags.DEFINE_config_file("config", None, "Of the run that reads them.")
    flags.DEFINE_string("output", None, "Folder of the latents.")
    flags.DEFINE_integer("clips", 1, "Windows that a device encodes at once.")
    flags.DEFINE_enum(
        "dtype", "bfloat16", ["bfloat16", "float32"], "Stored; bfloat16 takes half."
    )
    flags.DEFINE_integer("per_shard", 256, "Windows in a file.")
    flags.DEFINE_string("part", "0/1", "i/n: this process's share of the shards.")


@errors.reported
def main(argv: Sequence[str]) -> None:
    """Reads settings, encodes, stores."""
    del argv
    logging.set_verbosity(logging.WARNING)  # JAX tells of every backend it lacks
    given = flags.FLAGS
    if given.config is None or given.output is None:
        raise UserError(
            "Give --config=configs/stage2.py:tiny or another, and --output."
        )
    from onetoall_jax.pipelines import encode
    from onetoall_jax.pipelines import settings as run_settings

    settings = run_settings.build(given.config.to_dict())
    data = config.build(DataConfig, settings.data, "config.data")
    data = dataclasses.replace(data, windows=windows.CACHED, latents=None)
    output, part = Path(given.output), _part(given.part)
    Rows(data.root, data.split)  # a missing data set is said before any work
    encoder = encode.Encoder(settings)
    records = write(
        data,
        encoder,
        output,
        clips=given.clips,
        dtype=given.dtype,
        per_shard=given.per_shard,
        part=part,
    )
    if (output / latents.DESCRIPTION).is_file():
        size = sum(f.stat().st_size for f in output.iterdir())
        print(f"{records} windows in {output}, {size / 1e6:.1f} MB")
    else:
        print(f"part {given.part} is finished; others are not", file=sys.stderr)


if __name__ == "__main__":
    _define_flags()
    app.run(main)
