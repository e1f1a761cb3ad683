"""Where key points come from: a file, or a detector whose answers are kept.

    python -m onetoall_jax.pose.detect --setup
    python -m onetoall_jax.pose.detect --input=dance.mp4 --output=dance.npz

The first command makes the offline detector's own environment (MediaPipe, about 1 GB),
once. The released detectors are another choice, see `detect_onnx`.
"""

import argparse
import functools
import hashlib
import itertools
import json
import os
import subprocess
import sys
import venv
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from onetoall_jax import errors, media
from onetoall_jax.errors import UserError
from onetoall_jax.pose import choice, detect_onnx, files
from onetoall_jax.pose.files import Track
from onetoall_jax.pose.keypoints import BODY, COUNT
from onetoall_jax.pose.offline import Offline

DEFAULT_ENVIRONMENT = Path("~/.cache/onetoall_jax/mediapipe")
DEFAULT_CACHE = Path("~/.cache/onetoall_jax/keypoints")
OFFLINE = "offline"
DETECTORS = (OFFLINE, *detect_onnx.CHAINS)
_PACKAGES = ("mediapipe==0.10.21",)
_SURE = 0.3
_MARGIN = 0.35  # of a followed person's size, for what it may move in a frame


class NoPersonError(UserError):
    """Nobody was found in a file that could be read."""


class Found(NamedTuple):
    """Key points of a file, and what was filled in or left out on the way."""

    track: Track
    notes: tuple[str, ...]


class Search(NamedTuple):
    """How a person is looked for.

    Attributes:
      detector: "offline", "vitpose" or "dwpose".
      person: see `choice.choose`; None leaves it to the detector, frame by frame.
      environment: of the offline detector; models: folder of the others.
      colours: that ViTPose gets, "bgr" (as released) or "rgb"; see `VitPose`.
      cache: folder of what was found before; None keeps nothing.
    """

    detector: str = OFFLINE
    person: str | None = None
    environment: Path = DEFAULT_ENVIRONMENT
    models: Path = detect_onnx.DEFAULT_MODELS
    cache: Path | None = DEFAULT_CACHE
    colours: str = detect_onnx.BGR


def track(source: Path, environment: Path = DEFAULT_ENVIRONMENT) -> Track:
    """Key points of a video or picture, detected offline; an .npz file is read.

    What `find` notes is printed. Raises as `find` does.
    """
    if Path(source).suffix == ".npz":
        return files.read(Path(source))
    found = find(Path(source), Search(environment=environment, cache=None))
    for note in found.notes:
        print(note, file=sys.stderr)
    return found.track


def find(source: Path, search: Search = Search()) -> Found:  # noqa: B008
    """Detects the key points of one person in a video or picture.

    Frames without a person take the nearest earlier frame's points (later, at the
    start).

    Raises:
      UserError: no such detector, an unreadable file, or several people and no choice.
      NoPersonError: nobody in any frame.
    """
    if search.detector not in DETECTORS:
        raise UserError(
            f"There is no detector {search.detector!r}: choose from {list(DETECTORS)}."
        )
    if search.person is not None:
        choice.check(search.person)
    frames, fps = _frames(source)
    kept = _kept(source, search)
    if kept is not None and kept.exists():
        notes = tuple(json.loads(kept.with_suffix(".json").read_text()))
        return _filled(source, files.read(kept), notes)
    first = next(frames)
    look = _look(search, still=source.suffix.lower() not in media.VIDEO_SUFFIXES)
    made, notes = look(itertools.chain([first], frames), search.person, source.name)
    seen = Track(made, first.shape[0], first.shape[1], fps)
    found = _filled(source, seen, notes)
    if kept is not None:
        kept.parent.mkdir(parents=True, exist_ok=True)
        beside = kept.with_suffix(".json.part")
        beside.write_text(json.dumps(notes))
        os.replace(beside, kept.with_suffix(".json"))
        files.write(kept, seen)  # last, since it says that all is there
    return found


def _frames(source: Path) -> tuple[Iterator[np.ndarray], float]:
    if source.suffix.lower() in media.VIDEO_SUFFIXES:
        video = media.Video(source)
        return video.frames(), video.fps
    return iter([media.read_image(source)]), 1.0


def _kept(source: Path, search: Search) -> Path | None:
    """The file of what was found, named by contents, detector and person."""
    if search.cache is None:
        return None
    with open(source, "rb") as file:
        contents = hashlib.file_digest(file, "sha256").hexdigest()
    how = [search.detector, search.person]
    if search.colours != detect_onnx.BGR:
        how.append(search.colours)
    what = json.dumps([contents, *how])
    key = hashlib.sha256(what.encode()).hexdigest()[:24]
    return Path(search.cache).expanduser() / f"{key}.npz"


class Detector(Protocol):
    """Finds key points in one frame after another."""

    @property
    def sees_all(self) -> bool:
        """Is `people` meant for every frame; else one is looked for where it was."""

    def people(self, frame: np.ndarray) -> np.ndarray:
        """Boxes [n,4] of everybody: x0, y0, x1, y1 in pixels."""

    def points(self, frame: np.ndarray, box: np.ndarray | None) -> np.ndarray:
        """[133,3], pixels and scores, of the person in a box; None: its own choice."""


def _look(search: Search, *, still: bool) -> Callable[..., tuple[np.ndarray, tuple]]:
    """`detected` with the detector asked for."""
    if search.detector != OFFLINE:
        chain = detect_onnx.open_chain(
            search.detector, search.models, colours=search.colours
        )
        return functools.partial(detected, chain)
    worker = offline(search.environment)
    worker.begin()
    return functools.partial(detected, _Still(worker) if still else worker)


class _Still:
    """The offline detector for a picture that stands alone."""

    sees_all = False

    def __init__(self, worker: Offline):
        self._worker = worker
        self.people = worker.people

    def points(self, frame: np.ndarray, box: np.ndarray | None) -> np.ndarray:
        return self._worker.points(frame, box, still=True)


def detected(
    detector: Detector, frames: Iterable[np.ndarray], person: str | None, name: str
) -> tuple[np.ndarray, tuple[str, ...]]:
    """(key points [F,133,3] with score 0 where the person is not seen, notes).

    Args:
      frames: RGB uint8 [H,W,3] of one size, one at a time.
      person: as in Search; chosen in the first frame that shows anybody, then followed
        by overlap.
      name: of the file, for messages.
    """
    made: list[np.ndarray] = []
    notes: list[str] = []
    box: np.ndarray | None = None
    crowd = False
    size: tuple[int, ...] = ()
    for frame in frames:
        if size and size != frame.shape[:2]:
            raise UserError(
                f"{name} changes its size at frame {len(made)}: convert it anew."
            )
        size = frame.shape[:2]
        looking = box is None or detector.sees_all
        if person is not None and looking:
            there, told = _chosen(detector.people(frame), box, person, name, len(made))
            notes += told
            crowd = crowd or bool(told)
            if there is None:
                made.append(np.zeros((COUNT, 3), np.float32))
                continue
            box = there
        made.append(detector.points(frame, box if crowd or detector.sees_all else None))
        if box is not None and not detector.sees_all and people(made[-1][None])[0]:
            box = choice.around(made[-1][BODY], frame.shape[:2], _MARGIN)
    return np.stack(made), tuple(notes)


def _chosen(
    boxes: np.ndarray, before: np.ndarray | None, person: str, name: str, at: int
) -> tuple[np.ndarray | None, list[str]]:
    """(box of the person in this frame, or None; what to tell of the others)."""
    if before is not None:
        index = choice.follow(before, boxes)
        return (None if index is None else boxes[index]), []
    if not len(boxes):
        return None, []
    box = boxes[choice.choose(person, boxes, name)]
    if len(boxes) == 1:
        return box, []
    where = ",".join(str(round(v)) for v in box)
    return box, [
        f"{name}: {len(boxes)} people in frame {at}; the one at {where} is followed, "
        "the others are left out"
    ]


def _filled(source: Path, found: Track, notes: tuple[str, ...]) -> Found:
    """Frames without a person repeat a neighbour; raises where all are."""
    seen = people(found.keypoints)
    if not seen.any():
        raise NoPersonError(
            f"No person was found in {source}: give key points from a file (.npz)."
        )
    if not seen.all():
        absent = np.flatnonzero(~seen)
        notes += (
            f"{source.name}: {len(absent)} of {len(seen)} frames had no person and "
            f"repeat a neighbour's pose ({_ranges(absent)})",
        )
    return Found(found._replace(keypoints=found.keypoints[nearest(seen)]), notes)


def _ranges(numbers: np.ndarray, most: int = 6) -> str:
    """[3, 4, 5, 9] -> "frames 3-5, 9"."""
    runs = np.split(numbers, np.flatnonzero(np.diff(numbers) > 1) + 1)
    told = [f"{r[0]}-{r[-1]}" if len(r) > 1 else f"{r[0]}" for r in runs[:most]]
    return "frames " + ", ".join(told) + (", ..." if len(runs) > most else "")


def people(keypoints: np.ndarray) -> np.ndarray:
    """Is somebody seen: [F] bool of key points [F,133,3]."""
    return np.asarray((keypoints[:, BODY, 2] > _SURE).any(axis=1))


def given(path: Path, footage: Path) -> Track:
    """Key points from a file: ours (.npz), the release's (.npy) or OpenPose's folder.

    Args:
      footage: the video or picture they belong to; only .npz files tell its size.
    Raises:
      UserError: no such file, other contents, or unreadable footage.
    """
    path = Path(path)
    if path.suffix == ".npz":
        return files.read(path)
    height, width, fps = _size_of(Path(footage))
    if path.is_dir():
        return files.read_openpose(path, height, width, fps)
    return files.read_release(path, height, width, fps)


def _size_of(footage: Path) -> tuple[int, int, float]:
    if footage.suffix.lower() in media.VIDEO_SUFFIXES:
        video = media.Video(footage)
        frame, fps = next(video.frames()), video.fps
    else:
        frame, fps = media.read_image(footage), 1.0
    return frame.shape[0], frame.shape[1], fps


def nearest(seen: np.ndarray) -> np.ndarray:
    """For each frame the last seen one, or the first."""
    index = np.where(seen, np.arange(len(seen)), -1)
    filled = np.maximum.accumulate(index)
    return np.where(filled < 0, np.argmax(seen), filled)


@functools.lru_cache(maxsize=1)
def offline(environment: Path) -> Offline:
    """The detector of an environment, started once for all clips of this process.

    Raises:
      UserError: it is not installed.
    """
    python = environment.expanduser() / "bin" / "python"
    if not python.exists():
        raise UserError(
            "Key points need a detector: install the offline one by "
            "`python -m onetoall_jax.pose.detect --setup`, or give an .npz file."
        )
    return Offline(python)


def setup(environment: Path = DEFAULT_ENVIRONMENT) -> None:
    """Makes the detector's environment.

    Raises:
      UserError: a package could not be installed.
    """
    environment = environment.expanduser()
    venv.create(environment, with_pip=True, clear=True)
    pip = [str(environment / "bin" / "python"), "-m", "pip", "install", *_PACKAGES]
    if subprocess.run(pip, check=False).returncode:
        raise UserError(f"pip could not install {_PACKAGES[0]} into {environment}.")


@errors.reported
def main(argv: list[str]) -> None:
    """Sets the detector up, or detects one file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--setup", action="store_true")
    parser.add_argument("--environment", type=Path, default=DEFAULT_ENVIRONMENT)
    parser.add_argument("--detector", choices=DETECTORS, default=OFFLINE)
    parser.add_argument("--models", type=Path, default=detect_onnx.DEFAULT_MODELS)
    parser.add_argument("--colours", default=detect_onnx.BGR, help="of vitpose")
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE)
    parser.add_argument(
        "--person", default=choice.ONLY,
        help="only, largest, a number from the left, or a box x0,y0,x1,y1",
    )  # fmt: skip
    parser.add_argument("--input", type=Path)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args(argv)
    if args.setup:
        setup(args.environment)
    elif args.input and args.output:
        search = Search(
            args.detector, args.person, args.environment, args.models, args.cache,
            args.colours,
        )  # fmt: skip
        found = find(args.input, search)
        for note in found.notes:
            print(note)
        files.write(args.output, found.track)
    else:
        parser.error("give --setup, or --input and --output")


if __name__ == "__main__":
    main(sys.argv[1:])
