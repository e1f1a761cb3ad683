"""Where key points come from: a file, or the offline detector.

    python -m onetoall_jax.pose.detect --setup
    python -m onetoall_jax.pose.detect --input=dance.mp4 --output=dance.npz

The first command makes the detector's own environment (MediaPipe, about 1 GB), once.
MediaPipe finds one person a frame; it has no small toes, so these points get score 0.
"""

import argparse
import functools
import itertools
import struct
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from onetoall_jax import errors, media
from onetoall_jax.errors import UserError
from onetoall_jax.pose import files
from onetoall_jax.pose.files import Track
from onetoall_jax.pose.keypoints import COUNT

DEFAULT_ENVIRONMENT = Path("~/.cache/onetoall_jax/mediapipe")
_PACKAGES = ("mediapipe==0.10.21",)
_SURE = 0.3


class NoPersonError(UserError):
    """Nobody was found in a file that could be read."""


def track(source: Path, environment: Path = DEFAULT_ENVIRONMENT) -> Track:
    """Key points of a video or picture; an .npz file is read, anything else detected.

    Frames without a person take the nearest earlier frame's points (later, at the
    start); how many, is printed.

    Raises:
      UserError: no detector installed, or an unreadable file.
      NoPersonError: nobody in any frame.
    """
    source = Path(source)
    if source.suffix == ".npz":
        return files.read(source)
    if source.suffix.lower() in media.VIDEO_SUFFIXES:
        video = media.Video(source)
        frames, fps, still = video.frames(), video.fps, False
    else:
        frames, fps, still = iter([media.read_image(source)]), 1.0, True
    first = next(frames)
    keypoints = offline(environment)(itertools.chain([first], frames), still=still)
    seen = people(keypoints)
    if not seen.any():
        raise NoPersonError(
            f"No person was found in {source}: give key points from a file (.npz)."
        )
    if not seen.all():
        print(f"{source.name}: {int((~seen).sum())} of {len(seen)} frames had no "
              "person and repeat a neighbour's pose", file=sys.stderr)  # fmt: skip
    height, width = first.shape[:2]
    return Track(keypoints[nearest(seen)], height, width, fps)


def people(keypoints: np.ndarray) -> np.ndarray:
    """Is somebody seen: [F] bool of key points [F,133,3]."""
    return np.asarray((keypoints[:, :17, 2] > _SURE).any(axis=1))


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
def offline(environment: Path) -> "Offline":
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


class Offline:
    """The offline detector in a process of its own, see `offline_worker`."""

    def __init__(self, python: Path):
        self._python = python
        self._process: Any = None

    def __call__(
        self, frames: Iterable[np.ndarray], *, still: bool = False
    ) -> np.ndarray:
        """Frames [H,W,3] uint8 of one size -> key points [F,133,3].

        Args:
          still: no frame tells of the next one.
        Raises:
          UserError: the detector failed.
        """
        if self._process is None:
            self._start()
        try:
            self._send(frames, still)
            (count,) = struct.unpack("<i", self._receive(4))
            data = self._receive(count * COUNT * 3 * 4)
        except BaseException as error:
            # Half a clip has been sent: it has to start afresh for the next one.
            last = self._stopped()
            if isinstance(error, BrokenPipeError | EOFError):
                raise UserError(f"The offline detector failed: {last}.") from error
            raise
        return np.frombuffer(data, "<f4").reshape(count, COUNT, 3).astype(np.float32)

    def _start(self) -> None:
        self._errors = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            [str(self._python), str(Path(__file__).with_name("offline_worker.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
        )

    def _stopped(self) -> str:
        """Ends the process; its last words."""
        self._process.kill()
        self._process.communicate()
        self._process = None
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace").strip().splitlines()
        return said[-1] if said else "no message"

    def _send(self, frames: Iterable[np.ndarray], still: bool) -> None:
        pipe, size = self._process.stdin, None
        for frame in frames:
            if size is None:
                size = frame.shape[:2]
                pipe.write(struct.pack("<iii", *size, still))
            pipe.write(b"\1" + np.ascontiguousarray(frame).tobytes())
        pipe.write(b"\0")
        pipe.flush()

    def _receive(self, count: int) -> bytes:
        data = self._process.stdout.read(count)
        if len(data) < count:
            raise EOFError
        return data


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
    parser.add_argument("--input", type=Path)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args(argv)
    if args.setup:
        setup(args.environment)
    elif args.input and args.output:
        files.write(args.output, track(args.input, args.environment))
    else:
        parser.error("give --setup, or --input and --output")


if __name__ == "__main__":
    main(sys.argv[1:])
