"""A procedural data set of moving people with exact key points.

    python -m data_pipeline.synthetic --output=runs/data --clips=4000
    python -m data_pipeline.synthetic --output=runs/one --clips=200 --character=7

writes a training split and a test split whose people, motions and backgrounds come from
other seeds, as any prepared data set is written. With --character all clips of both
splits show one person.
"""

import argparse
import dataclasses
import functools
import multiprocessing
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm

from data_pipeline import builder, figure
from data_pipeline.builder import Clip
from data_pipeline.drawing import draw_poses
from onetoall_jax import errors
from onetoall_jax.errors import UserError

_SPLIT = {"train": 0, "test": 1}
_PERSON = 2  # a stream beside those of the splits


@dataclasses.dataclass(frozen=True)
class SyntheticConfig:
    """What to generate.

    Attributes:
      height, width: of every clip, in pixels.
      num_frames, fps: length and rate.
      canvas_side: of the stored pose pictures (`pose.draw`); 0 stores none.
      seed: of everything; splits and clips get streams of their own.
      character: number of the one person in all clips, whose motions and backgrounds
        differ as ever; None gives every clip a person of its own.
    """

    height: int = 48
    width: int = 32
    num_frames: int = 16
    fps: float = 8.0
    canvas_side: int = 256
    seed: int = 0
    character: int | None = None


def background(
    rng: np.random.Generator, height: int, width: int
) -> tuple[np.ndarray, float]:
    """(wall and floor, uint8 [H,2W,3], twice as wide as the picture; drift in px/s)."""
    rows = np.linspace(0, 1, height)[:, None, None]
    columns = np.linspace(0, 2, 2 * width)[None, :, None]
    wall = rng.uniform(60, 230, 3)
    shade = rng.uniform(-45, 45, 3)
    picture = wall + shade * (columns - 1) * 0.5 + rng.uniform(-30, 30, 3) * rows
    floor = rng.uniform(40, 200, 3) + rng.uniform(-30, 30, 3) * columns * 0.5
    horizon = 1 / (1 + np.exp(-(rows - rng.uniform(0.7, 0.9)) * 25))
    picture = picture * (1 - horizon) + floor * horizon
    for _ in range(rng.integers(0, 3)):
        y, x, size = rng.uniform(0, 0.6), rng.uniform(0, 2), rng.uniform(0.1, 0.25)
        aspect = height / width
        distance = np.sqrt(((rows - y) * aspect) ** 2 + (columns - x) ** 2) / size
        disc = 1 / (1 + np.exp((distance - 1) * 8))
        picture = picture * (1 - disc) + rng.uniform(40, 240, 3) * disc
    if rng.random() < 0.2:
        angle, count = rng.uniform(0, np.pi), rng.uniform(2, 4)
        waves = np.sin(
            2 * np.pi * count * (columns * np.cos(angle) + rows * np.sin(angle))
        )
        picture = picture + rng.uniform(4, 12) * waves
    drift = rng.uniform(-0.25, 0.25) * width if rng.random() < 0.2 else 0.0
    return np.clip(picture, 0, 255).astype(np.uint8), float(drift)


def make_clip(config: SyntheticConfig, split: str, index: int) -> Clip:
    """Clip `index` of a split: a pure function of its arguments."""
    rng = np.random.default_rng([config.seed, _SPLIT[split], index])
    who, how = figure.character(rng), figure.motion(rng)
    if config.character is not None:
        who = figure.character(np.random.default_rng([_PERSON, config.character]))
    height, width = config.height, config.width
    wide, drift = background(rng, height, width)
    scale = who.height * height
    feet = height * rng.uniform(0.94, 0.99)
    if rng.random() < 0.2:
        # A closer camera cuts the legs off.
        scale, feet = scale * 1.45, feet + 0.45 * who.height * height
    centre = width * rng.uniform(0.44, 0.56)
    start = rng.uniform(0, 10)
    frames, points = [], []
    for i in range(config.num_frames):
        seconds = i / config.fps
        left = int(
            round(width / 2 + drift * (seconds - config.num_frames / config.fps / 2))
        )
        behind = wide[:, left : left + width]
        at = figure.joints(who, how, start + seconds, centre, feet, scale)
        frames.append(figure.render(np.ascontiguousarray(behind), who, at))
        points.append(figure.keypoints(who, at))
    keypoints = np.stack(points)
    poses = None
    if config.canvas_side:
        poses = draw_poses(keypoints, height, width, config.canvas_side)
    return Clip(np.stack(frames), keypoints, config.fps, poses)


def clips(
    config: SyntheticConfig, split: str, count: int, workers: int
) -> Iterator[Clip]:
    """All clips of a split in order, made by `workers` processes."""
    make = functools.partial(make_clip, config, split)
    if workers <= 1:
        yield from map(make, range(count))
        return
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        yield from pool.imap(make, range(count), chunksize=16)


@errors.reported
def main(argv: list[str]) -> None:
    """Writes the data set; refuses a directory that already holds one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--clips", type=int, default=4000)
    parser.add_argument("--test_clips", type=int, default=64)
    parser.add_argument("--workers", type=int, default=2)
    for field in dataclasses.fields(SyntheticConfig):
        kind = int if field.default is None else type(field.default)
        flag = "frames" if field.name == "num_frames" else field.name
        parser.add_argument(
            f"--{flag}", dest=field.name, type=kind, default=field.default
        )
    parser.add_argument(
        "--store_poses",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="draw all poses now, rather than whenever a clip is read",
    )
    args = parser.parse_args(argv)
    if builder.exists(args.output):
        raise UserError(f"{args.output} already holds a data set: choose another.")
    names = [f.name for f in dataclasses.fields(SyntheticConfig)]
    values = {n: getattr(args, n) for n in names}
    if not args.store_poses:
        values["canvas_side"] = 0
    config = SyntheticConfig(**values)
    counts = {"train": args.clips, "test": args.test_clips}
    made = {
        split: _shown(clips(config, split, n, args.workers), split, n)
        for split, n in counts.items()
    }
    builder.write(args.output, made, counts)


def _shown(made: Iterator[Clip], split: str, count: int) -> Iterator[Clip]:
    # A bar made beforehand would count the time of the split before it, too.
    yield from tqdm(made, split, count, mininterval=2)


if __name__ == "__main__":
    main(sys.argv[1:])
