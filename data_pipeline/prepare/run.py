"""Surveys, screens and stores; finished files are noted, so a killed run goes on."""

import dataclasses
import functools
import hashlib
import json
import multiprocessing
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from data_pipeline import builder
from data_pipeline.builder import Clip
from data_pipeline.drawing import draw_poses
from data_pipeline.prepare import report, screening, survey
from data_pipeline.prepare.screening import Measures, ScreenConfig
from onetoall_jax import media
from onetoall_jax.errors import UserError
from onetoall_jax.pose import detect

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")


@dataclasses.dataclass(frozen=True)
class PrepareConfig:
    """How footage becomes rows.

    Attributes:
      short_side: of the stored frames; larger ones are reduced to it. 0 keeps all.
      canvas_side: of pose pictures stored with the clips; 0 draws them when read.
      test_every: each such clip of those kept goes to the test split; 0 makes none.
      lossless: store frames exactly, rather than as JPEG of quality 95.
      environment: of the offline detector.
      screen: what is good enough.
    """

    short_side: int = 768
    canvas_side: int = 0
    test_every: int = 0
    lossless: bool = False
    environment: str = str(detect.DEFAULT_ENVIRONMENT)
    screen: ScreenConfig = ScreenConfig()


@dataclasses.dataclass(frozen=True)
class Found:
    """One clip of a source file.

    Attributes:
      source: file, relative to the input folder; first, end: its frames.
      reason: why it is left out; None where it is kept.
      measures: None where nothing could be measured.
    """

    source: str
    first: int
    end: int
    reason: str | None
    measures: Measures | None = None


def sources(folder: Path) -> list[Path]:
    """All videos and pictures under a folder, in order of their names.

    Raises:
      UserError: there are none.
    """
    suffixes = media.VIDEO_SUFFIXES + PICTURE_SUFFIXES
    files = sorted(
        p for p in folder.rglob("*") if p.suffix.lower() in suffixes and p.is_file()
    )
    if not files:
        raise UserError(f"{folder} holds no video and no picture.")
    return files


def examine(
    folder: Path, work: Path, config: PrepareConfig, source: Path
) -> list[Found]:
    """Clips of one file; a file examined before is only looked up.

    A file that cannot be read is one clip left out with the sentence why.
    """
    note, points = _noted(folder, work, config, source)
    if note.exists():
        return [_found(entry) for entry in json.loads(note.read_text())]
    relative = str(source.relative_to(folder))
    try:
        made, keypoints = _examined(source, relative, config)
    except detect.NoPersonError:
        made, keypoints = [Found(relative, 0, 1, "no person")], None
    except UserError as error:
        made, keypoints = [Found(relative, 0, 0, str(error))], None
    if keypoints is not None:
        beside = points.with_suffix(".part")
        with open(beside, "wb") as file:
            np.save(file, keypoints.astype(np.float32))
        os.replace(beside, points)
    # Last, since it says that the file is done.
    beside = note.with_suffix(".part")
    beside.write_text(json.dumps([dataclasses.asdict(f) for f in made]))
    os.replace(beside, note)
    return made


def _found(entry: dict[str, Any]) -> Found:
    measures = entry.pop("measures")
    return Found(**entry, measures=Measures(**measures) if measures else None)


def _noted(
    folder: Path, work: Path, config: PrepareConfig, source: Path
) -> tuple[Path, Path]:
    """(note, key points) of a file, named after it, its size, its date and settings."""
    status = source.stat()
    what = [
        str(source.relative_to(folder)),
        status.st_size,
        status.st_mtime_ns,
        dataclasses.asdict(config.screen),
    ]
    key = hashlib.sha256(json.dumps(what).encode()).hexdigest()[:24]
    return work / f"{key}.json", work / f"{key}.npy"


def _examined(
    source: Path, relative: str, config: PrepareConfig
) -> tuple[list[Found], np.ndarray]:
    frames = [media.read_image(source)] if _is_picture(source) else None
    seen = survey.survey(frames or media.Video(source).frames())
    keypoints = _keypoints(source, config, seen.num_frames)
    screen = config.screen
    made = []
    for first, end in survey.shots(seen.change, screen.shot_change):
        parts = survey.pieces(first, end, screen.longest, screen.shortest)
        if frames is not None:
            parts = [(0, 1)]
        if not parts:
            made.append(Found(relative, first, end, "too short"))
        for a, b in parts:
            mark = survey.fingerprint(seen.small[a:b])
            measures = screening.measure(seen, keypoints, a, b, mark)
            why = screening.reason(screen, seen, measures)
            made.append(Found(relative, a, b, why, measures))
    return made, keypoints


def _keypoints(source: Path, config: PrepareConfig, num_frames: int) -> np.ndarray:
    beside = source.with_suffix(".npz")
    track = detect.track(
        beside if beside.exists() else source, Path(config.environment)
    )
    if len(track.keypoints) != num_frames:
        raise UserError(
            f"{source.name} has {num_frames} frames but key points for "
            f"{len(track.keypoints)}."
        )
    return track.keypoints


def _is_picture(source: Path) -> bool:
    return source.suffix.lower() in PICTURE_SUFFIXES


def without_duplicates(found: list[Found], bits: int) -> list[Found]:
    """The same clips; of those that look alike, all but the first are left out."""
    kept: list[Found] = []
    made = []
    for clip in found:
        mark = clip.measures.fingerprint if clip.measures else None
        if clip.reason is None and mark is not None:
            twin = next((k for k in kept if _alike(k, clip, bits)), None)
            if twin is not None:
                what = f"duplicate of {twin.source}, frame {twin.first}"
                clip = dataclasses.replace(clip, reason=what)
            else:
                kept.append(clip)
        made.append(clip)
    return made


def _alike(a: Found, b: Found, bits: int) -> bool:
    # Neighbouring parts of one shot look alike and are not duplicates.
    if a.source == b.source or (a.end - a.first == 1) != (b.end - b.first == 1):
        return False
    assert a.measures is not None and b.measures is not None
    marks = a.measures.fingerprint, b.measures.fingerprint
    return survey.differing_bits(*marks) <= bits


def rows(
    folder: Path, work: Path, config: PrepareConfig, kept: list[Found]
) -> Iterator[Clip]:
    """Clips as they are stored, in order; each file is decoded once."""
    for source, group in _grouped(kept):
        path = folder / source
        keypoints = np.load(_noted(folder, work, config, path)[1])
        if _is_picture(path):
            yield _row(media.read_image(path)[None], keypoints, 1.0, config)
            continue
        video, waiting, held = media.Video(path), list(group), []
        for i, picture in enumerate(video.frames()):
            if not waiting:
                break
            clip = waiting[0]
            if i >= clip.first:
                held.append(_reduced(picture, config.short_side))
            if i == clip.end - 1:
                points = keypoints[clip.first : clip.end].copy()
                points[..., :2] *= held[0].shape[0] / picture.shape[0]
                yield _row(np.stack(held), points, video.fps, config)
                waiting, held = waiting[1:], []


def _grouped(kept: list[Found]) -> Iterator[tuple[str, list[Found]]]:
    by_source: dict[str, list[Found]] = {}
    for clip in kept:
        by_source.setdefault(clip.source, []).append(clip)
    yield from by_source.items()


def _reduced(picture: np.ndarray, short_side: int) -> np.ndarray:
    height, width = picture.shape[:2]
    scale = short_side / min(height, width) if short_side else 1.0
    if scale >= 1:
        return picture
    size = round(width * scale), round(height * scale)
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)


def _row(
    frames: np.ndarray, keypoints: np.ndarray, fps: float, config: PrepareConfig
) -> Clip:
    if len(frames) == 1 and config.short_side:
        before = frames.shape[1]
        frames = _reduced(frames[0], config.short_side)[None]
        keypoints = keypoints.copy()
        keypoints[..., :2] *= frames.shape[1] / before
    poses = None
    if config.canvas_side:
        height, width = frames.shape[1:3]
        poses = draw_poses(keypoints, height, width, config.canvas_side)
    return Clip(frames, keypoints, fps, poses, lossless=config.lossless)


def prepare(
    folder: Path, output: Path, config: PrepareConfig, workers: int
) -> list[Found]:
    """Writes the data set and its report; what was found, kept and left out.

    Raises:
      UserError: nothing to read, nothing good enough, or a set is there already.
    """
    if builder.exists(output):
        raise UserError(f"{output} already holds a data set: choose another.")
    files = sources(folder)
    work = output.with_name(output.name + ".work")
    work.mkdir(parents=True, exist_ok=True)
    look = functools.partial(examine, folder, work, config)
    made: list[Found] = []
    with multiprocessing.get_context("spawn").Pool(min(workers, len(files))) as pool:
        for clips in tqdm(pool.imap(look, files), "files", len(files), mininterval=2):
            for clip in clips:
                if clip.measures is None and clip.end == 0:
                    tqdm.write(f"skipped: {clip.reason}")
            made += clips
    made = without_duplicates(made, config.screen.duplicate_bits)
    kept = [c for c in made if c.reason is None]
    if not kept:
        counts = Counter(c.reason for c in made).most_common(3)
        told = "; ".join(f"{n} x {why}" for why, n in counts)
        raise UserError(f"No clip of {folder} is good enough to train on: {told}")
    splits = split(kept, config.test_every)
    builder.write(
        output,
        {
            name: tqdm(rows(folder, work, config, part), name, len(part))
            for name, part in splits.items()
        },
    )
    report.write(output / "report", folder, made)
    shutil.rmtree(work)
    return made


def split(kept: list[Found], test_every: int) -> dict[str, list[Found]]:
    """Kept clips by split."""
    if not test_every:
        return {"train": kept}
    test = kept[test_every - 1 :: test_every]
    if not test or len(test) == len(kept):
        raise UserError(
            f"{len(kept)} clips cannot give every {test_every}th to the test split: "
            "change --test_every."
        )
    chosen = set(test)
    return {"train": [c for c in kept if c not in chosen], "test": test}
