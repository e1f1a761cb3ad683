"""Clips and pairs as rows: each in a file of its own until the set is written."""

import dataclasses
import hashlib
import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from data_pipeline import builder
from data_pipeline.builder import Coded, Marks, Sizes
from data_pipeline.drawing import draw_poses
from data_pipeline.importers.footage import Item
from data_pipeline.prepare import examine, survey
from data_pipeline.prepare.examine import Seen
from data_pipeline.prepare.settings import PrepareConfig
from onetoall_jax.errors import UserError
from onetoall_jax.pose import detect


class Task(NamedTuple):
    """Rows that are made in one pass.

    Attributes:
      item: whose clips they are, or the target of a pair.
      clips: first frame and one past the last, of each; in order.
      source: of a pair; None otherwise.
      caption: of a pair.
    """

    item: Item
    clips: tuple[tuple[int, int], ...]
    source: Item | None = None
    caption: str = ""


def paths(work: Path, config: PrepareConfig, task: Task) -> list[Path]:
    """Files of a task's rows, named after what they are made of."""
    how = [config.short_side, config.canvas_side, config.lossless, task.caption]
    how += [list(task.item.starts), list(task.item.references)]
    items = [task.item, *([task.source] if task.source else [])]
    notes = [examine.note_of(work, config, item).name for item in items]
    key = hashlib.sha256(json.dumps([how, notes]).encode()).hexdigest()[:24]
    return [work / f"{key}-{first}-{end}.row" for first, end in task.clips]


def store(work: Path, config: PrepareConfig, task: Task) -> list[Sizes] | str:
    """Makes the rows of a task that are not there yet; the sizes of all.

    Returns:
      A sentence where a file can no longer be read.
    """
    wanted = paths(work, config, task)
    sizes = [_sizes(path) for path in wanted]
    if None in sizes:
        try:
            made = (
                _pair(work, config, task) if task.source else _rows(work, config, task)
            )
            for i, row in enumerate(made):
                if sizes[i] is None:
                    _write(wanted[i], row)
                    sizes[i] = row.sizes()
        except UserError as error:
            return str(error)
    return [s for s in sizes if s is not None]


def lost(task: Task) -> str:
    """The sentence on a task whose process died."""
    return f"{task.item.files[0]} ended the process that stored it: convert it anew."


def read(path: Path) -> Coded:
    """A row that was made."""
    with np.load(path, allow_pickle=False) as stored:
        frames, poses = (
            _split(stored[n].tobytes(), stored[n + "_bytes"])
            for n in ("frames", "poses")
        )
        return Coded(
            frames,
            poses,
            stored["keypoints"],
            float(stored["fps"]),
            (int(stored["size"][0]), int(stored["size"][1])),
            json.loads(str(stored["text_boxes"])),
            str(stored["caption"]),
            _marks(stored),
        )


def _marks(stored: Mapping[str, np.ndarray]) -> Marks:
    return Marks(*(tuple(stored[n].tolist()) for n in ("starts", "references")))


def _split(data: bytes, lengths: np.ndarray) -> list[bytes]:
    ends = np.cumsum(lengths)
    return [data[e - n : e] for e, n in zip(ends, lengths, strict=True)]


def _write(path: Path, row: Coded) -> None:
    arrays = {
        "keypoints": row.keypoints,
        "fps": row.fps,
        "size": np.array(row.size),
        "text_boxes": np.array(json.dumps(row.text_boxes)),
        "caption": np.array(row.caption),
        "starts": np.array(row.marks.starts, np.int64),
        "references": np.array(row.marks.references, np.int64),
    }
    for name, parts in (("frames", row.frames), ("poses", row.poses)):
        arrays[name] = np.frombuffer(b"".join(parts), np.uint8)
        arrays[name + "_bytes"] = np.array([len(p) for p in parts], np.int64)
    examine.save(path, arrays)


def _sizes(path: Path) -> Sizes | None:
    try:
        with np.load(path, allow_pickle=False) as stored:
            height, width = (int(v) for v in stored["size"])
            frames, fps = len(stored["frames_bytes"]), float(stored["fps"])
            return height, width, frames, fps, _marks(stored)
    except (FileNotFoundError, ValueError, EOFError, zipfile.BadZipFile):
        return None  # see `examine.read`


def _rows(work: Path, config: PrepareConfig, task: Task) -> Iterator[Coded]:
    """Rows of an item's clips; the file is decoded once, a frame held at a time."""
    item, seen = task.item, _seen(work, config, task.item)
    place = whole(seen.survey.height, seen.survey.width, config.short_side)
    frames = enumerate(picture for _, picture in item.frames())
    for first, end in task.clips:
        numbers = first + survey.steady(seen.survey.times[first:end], seen.fps)
        coded: list[bytes] = []
        for i, picture in frames:
            often = int((numbers == i).sum())
            if often:
                small = place.picture(picture)
                coded += [builder.code(small, config.lossless)] * often
            if i == end - 1:
                break
        if len(coded) < len(numbers):
            raise UserError(f"{item.files[0]} has changed since it was looked at.")
        points = place.points(_keypoints(item, seen, first, end)[numbers - first])
        boxes = [place.boxes(seen.text[i]) for i in numbers] if seen.text else []
        made = _row(config, coded, place, points, seen.fps, boxes, item.caption)
        named = (item.starts, item.references)
        marks = Marks(*(tuple(places(numbers, frames)) for frames in named))
        yield dataclasses.replace(made, marks=marks)


def places(numbers: np.ndarray, frames: Sequence[int]) -> list[int]:
    """Where in a clip of a file's frames `numbers` those named lie; others are none."""
    found = (np.flatnonzero(numbers == frame) for frame in frames)
    return [int(where[0]) for where in found if len(where)]


def _pair(work: Path, config: PrepareConfig, task: Task) -> Iterator[Coded]:
    """The one row of a pair: the target, and the source cut to the target's aspect."""
    assert task.source is not None
    target = _seen(work, config, task.item).survey
    place = whole(target.height, target.width, config.short_side)
    size = place.size
    coded, points, boxes = [], [], []
    for item in (task.item, task.source):
        seen = _seen(work, config, item)
        if item is task.source:
            place = inside(seen.survey.height, seen.survey.width, *size)
        _, picture = next(iter(item.frames()))
        coded.append(builder.code(place.picture(picture), config.lossless))
        points.append(place.points(_keypoints(item, seen, 0, 1)))
        boxes.append(place.boxes(seen.text[0]) if seen.text else [])
    yield _row(config, coded, place, np.concatenate(points), 1.0, boxes, task.caption)


def _seen(work: Path, config: PrepareConfig, item: Item) -> Seen:
    known = examine.read(examine.note_of(work, config, item))
    if not isinstance(known, Seen):
        raise UserError(f"{item.files[0]} has changed since it was looked at.")
    return known


def _keypoints(item: Item, seen: Seen, first: int, end: int) -> np.ndarray:
    """Of frames first .. end - 1; where a detector lost the person, its neighbours'."""
    points = seen.keypoints[first:end]
    there = detect.people(points) & (seen.people[first:end] != 0)
    if item.keypoints is not None or there.all() or not there.any():
        return points
    return points[detect.nearest(there)]


def _row(
    config: PrepareConfig,
    coded: list[bytes],
    place: "Place",
    keypoints: np.ndarray,
    fps: float,
    boxes: list[list[list[float]]],
    caption: str,
) -> Coded:
    poses = []
    if config.canvas_side:
        for points in keypoints:
            drawn = draw_poses(points[None], *place.size, config.canvas_side)[0]
            poses.append(builder.code(drawn, True))
    return Coded(coded, poses, keypoints, fps, place.size, boxes, caption)


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a frame goes: a part of it is cut out and resized.

    Attributes:
      left, top, width, height: of the part, in pixels; size: height and width it gets.
    """

    left: int
    top: int
    width: int
    height: int
    size: tuple[int, int]

    def picture(self, frame: np.ndarray) -> np.ndarray:
        """The part of a frame [H,W,3] at its new size."""
        part = frame[self.top : self.top + self.height]
        part = part[:, self.left : self.left + self.width]
        if part.shape[:2] == self.size:
            return part
        smaller = self.size[0] < self.height
        method = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
        return cv2.resize(part, self.size[::-1], interpolation=method)

    def points(self, keypoints: np.ndarray) -> np.ndarray:
        """Key points [F,133,3] of the frame in pixels of the part."""
        x, y = self._scale()
        moved = keypoints - np.array([self.left, self.top, 0])
        return np.asarray(moved * (x, y, 1), np.float32)

    def boxes(self, boxes: list[list[float]]) -> list[list[float]]:
        """Boxes of the frame in pixels of the part; those outside are gone."""
        (x, y), (high, wide) = self._scale(), self.size
        made = []
        for x1, y1, x2, y2 in boxes:
            box = [
                max(0.0, (x1 - self.left) * x),
                max(0.0, (y1 - self.top) * y),
                min(float(wide), (x2 - self.left) * x),
                min(float(high), (y2 - self.top) * y),
            ]
            if box[0] < box[2] and box[1] < box[3]:
                made.append(box)
        return made

    def _scale(self) -> tuple[float, float]:
        return self.size[1] / self.width, self.size[0] / self.height


def whole(height: int, width: int, short_side: int) -> Place:
    """The whole frame, its short side reduced to `short_side` where that is not 0."""
    scale = min(1.0, short_side / min(height, width)) if short_side else 1.0
    size = max(1, round(height * scale)), max(1, round(width * scale))
    return Place(0, 0, width, height, size)


def inside(height: int, width: int, to_height: int, to_width: int) -> Place:
    """The largest middle part of a frame that has the aspect of another size."""
    high = min(height, max(1, round(width * to_height / to_width)))
    wide = min(width, max(1, round(height * to_width / to_height)))
    left, top = (width - wide) // 2, (height - high) // 2
    return Place(left, top, wide, high, (to_height, to_width))
