"""Shows batches exactly as the model gets them.

    python -m data_pipeline.preview --config=configs/stage2.py:tiny --output=DIR

writes for each of some batches a contact sheet and a short video, and a histogram of
the sizes that batches come in. In this order: the reference with what is to be
invented in red, its pose, the driving poses, the clip, and the clip with regions of
larger weight in green and parts that the loss leaves out in blue. Where a driving head
was changed, the poses as they were come last.
"""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from absl import app, flags, logging
from ml_collections import config_flags
from PIL import Image, ImageDraw

from data_pipeline import loader, plan
from data_pipeline.augment import Sample
from data_pipeline.buckets import Bucket
from data_pipeline.loader import Load
from data_pipeline.plan import BatchPlan, Plan
from data_pipeline.settings import DataConfig
from onetoall_jax import config, errors, media
from onetoall_jax.geometry import Geometry

_RED, _GREEN, _BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)
_FPS, _COLUMNS, _HEIGHT = 8.0, 8, 160
_EPOCHS = 4  # that the histogram counts
_SEARCHED = 200  # batches in which every size is looked for


class Shown(NamedTuple):
    """One clip of a batch, ready to look at.

    Attributes:
      caption: row, size and choices.
      clips: name -> frames [F,H,W,3].
    """

    caption: str
    clips: Mapping[str, np.ndarray]


def tinted(
    pictures: np.ndarray, mask: np.ndarray, colour: tuple[int, int, int]
) -> np.ndarray:
    """Pictures [...,H,W,3] half of `colour` where a mask [...,H,W] is 1."""
    half = (pictures // 2 + np.array(colour, np.uint8) // 2).astype(np.uint8)
    return np.where(mask[..., None] > 0, half, pictures)


def at_frames(mask: np.ndarray, geometry: Geometry, num_frames: int) -> np.ndarray:
    """Mask [f,h,w] of latents -> [F,H,W] of the frames they stand for."""
    large = mask.repeat(geometry.spatial, axis=1).repeat(geometry.spatial, axis=2)
    frame = np.arange(num_frames)
    return large[(frame + geometry.temporal - 1) // geometry.temporal]


def shown(
    batch: Mapping[str, np.ndarray],
    samples: Sequence[Sample],
    unchanged: Sequence[Sample | None],
    bucket: Bucket,
    geometry: Geometry,
) -> list[Shown]:
    """Every clip of a batch.

    Args:
      batch: the arrays that the model gets.
      samples: what they were made of; only the notes are used.
      unchanged: the same with their own head, where it was changed.
    """
    made = []
    size = f"{bucket.num_frames} x {bucket.height}x{bucket.width}"
    for i, sample in enumerate(samples):
        frames, poses = batch["frames_u8"][i], batch["pose_u8"][i]
        count = len(frames)
        region = at_frames(batch["region_u8"][i], geometry, count)
        left_out = 1 - at_frames(batch["keep_u8"][i], geometry, count)
        hidden = batch["reference_mask_u8"][i]
        clips = {
            "reference": tinted(batch["reference_u8"][i], hidden, _RED)[None],
            "reference pose": batch["reference_pose_u8"][i][None],
            "pose": poses,
            "frames": frames,
            "regions": tinted(tinted(frames, region, _GREEN), left_out, _BLUE),
        }
        own = unchanged[i]
        if own is not None:
            clips["pose before the change"] = own.poses
        made.append(
            Shown(f"row {batch['row'][i]}, {size}: {'; '.join(sample.notes)}", clips)
        )
    return made


def sheet(clips: Sequence[Shown]) -> np.ndarray:
    """One picture of a batch."""
    rows = []
    for clip in clips:
        if len(clip.clips["pose"]) == 1:
            rows.append((clip.caption, np.concatenate(list(clip.clips.values()))))
            continue
        still = [clip.clips["reference"], clip.clips["reference pose"]]
        rows.append((clip.caption, np.concatenate(still)))
        rows += [(name, frames) for name, frames in list(clip.clips.items())[2:]]
    return media.contact_sheet(rows, columns=_COLUMNS, height=_HEIGHT)


def video(clips: Sequence[Shown]) -> np.ndarray:
    """Frames [F,H,W,3] of a batch, a row for each clip."""
    length = max(len(c.clips["pose"]) for c in clips)
    widest = max(len(c.clips) for c in clips)
    rows = []
    for clip in clips:
        parts = [
            np.broadcast_to(p, (length, *p.shape[1:])) if len(p) == 1 else p
            for p in clip.clips.values()
        ]
        parts += [np.zeros_like(parts[0])] * (widest - len(parts))
        rows.append(np.concatenate(parts, axis=2))
    whole = np.concatenate(rows, axis=1)
    factor = max(1, 96 // whole.shape[1] * len(clips))
    return media.enlarged(whole, factor)


def histogram(counts: Mapping[Bucket, float], title: str) -> np.ndarray:
    """Bars of how many clips an epoch has of each size."""
    line, left, across = 16, 150, 480
    most = max(counts.values())
    picture = Image.new("RGB", (left + across + 90, line * (len(counts) + 2)), "white")
    draw = ImageDraw.Draw(picture)
    draw.text((4, 2), title, fill="black")
    for i, (bucket, count) in enumerate(sorted(counts.items()), start=1):
        top = line * i + 4
        name = f"{bucket.num_frames:3d} x {bucket.height}x{bucket.width}"
        draw.text((4, top), name, fill="black")
        length = max(1, round(across * count / most))
        colour = "steelblue" if bucket.num_frames > 1 else "darkorange"
        draw.rectangle((left, top + 1, left + length, top + line - 4), fill=colour)
        draw.text((left + length + 4, top), f"{count:.1f}", fill="black")
    return np.asarray(picture)


def bucket_counts(data: DataConfig, steps: Plan, epochs: int) -> dict[Bucket, float]:
    """Clips of every size in an epoch, mean over the first `epochs`."""
    total: Counter[Bucket] = Counter()
    for epoch in range(epochs):
        for bucket, rows in plan.members(data, steps.sizes, epoch).items():
            total[bucket] += len(rows)
    return {bucket: count / epochs for bucket, count in total.items()}


def some_batches(steps: Plan, count: int) -> list[BatchPlan]:
    """The first batch of every size, then the first others, in order of steps."""
    first: dict[Bucket, BatchPlan] = {}
    searched = [steps[i] for i in range(max(_SEARCHED, count))]
    for batch in searched:
        first.setdefault(batch.bucket, batch)
    chosen = {b.step: b for b in list(first.values())[:count]}
    for batch in searched:
        if len(chosen) == count:
            break
        chosen.setdefault(batch.step, batch)
    return [chosen[step] for step in sorted(chosen)]


def write(
    data: DataConfig, geometry: Geometry, output: Path, batches: int, clips: int
) -> None:
    """Writes everything; prints a line for each file.

    Raises:
      UserError: no data set, or nothing in it fills a batch.
    """
    data = dataclasses.replace(data, latents=None)  # the frames are what one looks at
    load = Load(data, geometry, 0, 1)
    own = dataclasses.replace(data.augment, change_pose=0.0)
    load_own = Load(dataclasses.replace(data, augment=own), geometry, 0, 1)
    steps = Plan(data, load.sizes)
    output.mkdir(parents=True, exist_ok=True)
    counts = bucket_counts(data, steps, _EPOCHS)
    title = (
        f"clips of each size in an epoch (mean of {_EPOCHS}), {len(steps.sizes)} rows"
    )
    media.write_image(output / "sizes.png", histogram(counts, title))
    print(f"{output / 'sizes.png'}: {plan.told(data, steps.sizes)}")
    for batch in some_batches(steps, batches):
        rows = batch.rows[:clips].tolist()
        samples = [load.sample(batch, row) for row in rows]
        unchanged = [
            load_own.sample(batch, row) if _changed(sample) else None
            for row, sample in zip(rows, samples, strict=True)
        ]
        arrays = loader.collate(samples, batch.rows[:clips], geometry)
        seen = shown(arrays, samples, unchanged, batch.bucket, geometry)
        name = output / f"step_{batch.step:05d}"
        media.write_image(name.with_suffix(".png"), sheet(seen))
        media.write_video(name.with_suffix(".mp4"), video(seen), _FPS)
        for clip in seen:
            print(f"{name.name}: {clip.caption}")


def _changed(sample: Sample) -> bool:
    return any(note.startswith("head changed") for note in sample.notes)


def _define_flags() -> None:
    # Only as a program: flags are one table for all modules of a process.
    config_flags.DEFINE_config_file("config", None, "Whose batches to show.")
    flags.DEFINE_string("output", "runs/preview", "Folder for the pictures.")
    flags.DEFINE_integer("batches", 4, "How many, at least one of each size.")
    flags.DEFINE_integer("clips", 4, "Of each batch.")


@errors.reported
def main(argv: Sequence[str]) -> None:
    """Reads settings, writes pictures."""
    del argv
    logging.set_verbosity(logging.WARNING)  # JAX tells of every backend it lacks
    given = flags.FLAGS
    if given.config is None:
        raise errors.UserError("Give --config=configs/stage2.py:tiny or another one.")
    from onetoall_jax.pipelines import encode
    from onetoall_jax.pipelines import settings as run_settings

    settings = run_settings.build(given.config.to_dict())
    data = config.build(DataConfig, settings.data, "config.data")
    geometry = encode.geometry(settings)
    write(data, geometry, Path(given.output), given.batches, given.clips)


if __name__ == "__main__":
    _define_flags()
    app.run(main)
