"""What is known of a file: one pass over its frames, noted on disk.

The note holds no decision, so that other thresholds need no second look.
"""

import dataclasses
import functools
import hashlib
import json
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.importers.footage import Item
from data_pipeline.prepare import poses, screening, survey, text
from data_pipeline.prepare.screening import Measures, ScreenConfig
from data_pipeline.prepare.settings import PrepareConfig
from data_pipeline.prepare.survey import Survey, Surveyor
from onetoall_jax.errors import UserError

_SURVEY = [f.name for f in dataclasses.fields(Survey)]


@dataclasses.dataclass(frozen=True)
class Seen:
    """A file that could be read.

    Attributes:
      fps: frames a second.
      keypoints: [F,133,3] as they were found; people: [F], -1 where nobody counted.
      text: boxes of every frame; None where nobody looked.
    """

    survey: Survey
    fps: float
    keypoints: np.ndarray
    people: np.ndarray
    text: list[text.Boxes] | None


@dataclasses.dataclass(frozen=True)
class Found:
    """One clip of an item.

    Attributes:
      source: name of the item; first, end: its frames.
      reason: why it is left out; None where it is kept.
      measures, mark: None where nothing could be measured; the mark is for finding
        duplicates.
    """

    source: str
    first: int
    end: int
    reason: str | None
    measures: Measures | None = None
    mark: np.ndarray | None = dataclasses.field(default=None, compare=False)


def note_of(work: Path, config: PrepareConfig, item: Item) -> Path:
    """The note of an item: named after its files, their sizes and dates, and how it is
    looked at.
    """
    files = [*item.files, *([item.keypoints] if item.keypoints else [])]
    stats = [(str(p), _stamp(p)) for p in files]
    told = dataclasses.asdict(dataclasses.replace(item, files=(), keypoints=None))
    how = [config.detector if item.keypoints is None else "", config.text_detector]
    what = json.dumps([stats, told, how, config.text_every], default=str)
    return work / (hashlib.sha256(what.encode()).hexdigest()[:24] + ".npz")


def _stamp(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError:
        return -1, -1  # it went away: reading it says so
    return status.st_size, status.st_mtime_ns


def examine(work: Path, config: PrepareConfig, item: Item) -> list[Found]:
    """Clips of one item; an item looked at before is only looked up.

    One that cannot be read is one clip, left out with the sentence why.
    """
    note = note_of(work, config, item)
    known = read(note)
    if known is None:
        try:
            known = look(item, config)
        except UserError as error:
            known = str(error)
        write(note, known)
    if isinstance(known, str):
        return [Found(item.name, 0, 0, known)]
    return clips(item, known, config.screen)


def lost(item: Item) -> list[Found]:
    """An item at which the process died that looked at it."""
    sentence = f"{item.files[0]} ended the process that read it: convert it anew."
    return [Found(item.name, 0, 0, sentence)]


def look(item: Item, config: PrepareConfig) -> Seen:
    """One pass over the frames of an item.

    Raises:
      UserError: it cannot be read, or its key points do not fit.
    """
    surveyor, searched = Surveyor(), {}
    words = None
    if config.text_detector and item.text_boxes is None:
        words = _text_detector(config.text_detector)

    def frames() -> Iterator[np.ndarray]:
        for i, (time, picture) in enumerate(item.frames()):
            surveyor.add(time, picture)
            if words is not None and i % config.text_every == 0:
                searched[i] = words(picture)
            yield picture

    if item.keypoints is None:
        found = poses.find(
            config.detector,
            Path(config.models),
            Path(config.environment),
            frames(),
            still=item.is_picture,
        )
        seen = surveyor.finish()
    else:
        for _ in frames():
            pass
        seen = surveyor.finish()
        keypoints = item.track(seen.height, seen.width).keypoints
        found = poses.Found(keypoints, np.full(len(keypoints), -1))
    if len(found.keypoints) != seen.num_frames:
        raise UserError(
            f"{item.name} has {seen.num_frames} frames but key points for "
            f"{len(found.keypoints)}."
        )
    boxes = None
    if words is not None:
        boxes = text.spread(searched, seen.num_frames)
    elif item.text_boxes is not None:
        boxes = item.boxes(seen.num_frames)
    fps = item.rate()
    if item.fps is None and not item.is_picture:
        fps = survey.rate(seen.times, fps)
    if not np.isfinite(found.keypoints).all():
        raise UserError(f"Key points of {item.name} are not all finite numbers.")
    return Seen(seen, fps, found.keypoints.astype(np.float32), found.people, boxes)


@functools.lru_cache(maxsize=1)
def _text_detector(path: str) -> text.TextDetector:
    return text.open_detector(Path(path).expanduser())


def clips(item: Item, seen: Seen, screen: ScreenConfig) -> list[Found]:
    """The clips of an item, kept and left out."""
    first = item.first
    end = seen.survey.num_frames if item.end is None else item.end
    if not 0 <= first < end <= seen.survey.num_frames:
        sentence = (
            f"{item.name} has {seen.survey.num_frames} frames, not those from {first} "
            f"to {end}."
        )
        return [Found(item.name, 0, 0, sentence)]
    made = []
    for a, b in _cut(item, seen.survey, screen, first, end):
        steady = survey.steady(seen.survey.times[a:b], seen.fps)
        if min(b - a, len(steady)) < screen.shortest and not item.is_picture:
            made.append(Found(item.name, a, b, "too short"))
            continue
        measures = screening.measure(
            seen.survey, seen.keypoints, seen.people, seen.text, a, b
        )
        why = screening.reason(screen, seen.survey, measures)
        mark = survey.mark(seen.survey.marks[a:b])
        made.append(Found(item.name, a, b, why, measures, mark))
    return made


def _cut(
    item: Item, seen: Survey, screen: ScreenConfig, first: int, end: int
) -> Iterator[tuple[int, int]]:
    if item.is_picture or not item.cut:
        yield first, end
        return
    change, times = seen.change[first:end], seen.times[first:end]
    for a, b in survey.shots(change, screen.shot_change, times):
        parts = survey.pieces(first + a, first + b, screen.longest, screen.shortest)
        yield from parts or [(first + a, first + b)]


def write(note: Path, known: Seen | str) -> None:
    """Notes what is known of an item; the file appears when it is complete."""
    arrays: dict[str, Any] = {"sentence": np.array(known)}
    if isinstance(known, Seen):
        arrays = {name: getattr(known.survey, name) for name in _SURVEY} | {
            "fps": known.fps,
            "keypoints": known.keypoints,
            "people": known.people,
            "text": np.array(json.dumps(known.text)),
        }
    save(note, arrays)


def save(path: Path, arrays: dict[str, Any]) -> None:
    """Arrays in a file that appears when it is complete."""
    # Named after the process: one that was thought dead may still be writing.
    part = path.with_suffix(f".{os.getpid()}.part")
    try:
        with open(part, "wb") as file:
            np.savez(file, **arrays)
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def read(note: Path) -> Seen | str | None:
    """What is known of an item; None where nothing is."""
    try:
        with np.load(note, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
    except (FileNotFoundError, ValueError, EOFError, zipfile.BadZipFile):
        # A machine that lost power can leave an empty file under a whole one's name.
        return None
    if "sentence" in arrays:
        return str(arrays["sentence"])
    numbers = ("height", "width", "num_frames")
    seen: dict[str, Any] = {
        n: int(arrays[n]) if n in numbers else arrays[n] for n in _SURVEY
    }
    return Seen(
        Survey(**seen),
        float(arrays["fps"]),
        arrays["keypoints"],
        arrays["people"],
        json.loads(str(arrays["text"])),
    )
