"""Where key points come from: a file, or the offline detector.

    python -m onetoall_jax.pose.detect --setup
    python -m onetoall_jax.pose.detect --input=dance.mp4 --output=dance.npz

The first command makes the detector's own environment (MediaPipe, about 1 GB), once.
MediaPipe finds one person a frame; it has no small toes, so these points get score 0.
"""

import argparse
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

import numpy as np

from onetoall_jax import errors, media
from onetoall_jax.errors import UserError
from onetoall_jax.pose import files
from onetoall_jax.pose.files import Track

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
    found = _detect(source, environment.expanduser())
    seen = np.asarray((found.keypoints[:, :17, 2] > _SURE).any(axis=1))
    if not seen.any():
        raise NoPersonError(
            f"No person was found in {source}: give key points from a file (.npz)."
        )
    if not seen.all():
        print(f"{source.name}: {int((~seen).sum())} of {len(seen)} frames had no "
              "person and repeat a neighbour's pose", file=sys.stderr)  # fmt: skip
    return found._replace(keypoints=found.keypoints[_nearest(seen)])


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


def _nearest(seen: np.ndarray) -> np.ndarray:
    """For each frame the last seen one, or the first."""
    index = np.where(seen, np.arange(len(seen)), -1)
    filled = np.maximum.accumulate(index)
    return np.where(filled < 0, np.argmax(seen), filled)


def _detect(source: Path, environment: Path) -> Track:
    python = environment / "bin" / "python"
    if not python.exists():
        raise UserError(
            f"Key points of {source.name} need a detector: install the offline one by "
            "`python -m onetoall_jax.pose.detect --setup`, or give an .npz file."
        )
    worker = Path(__file__).with_name("offline_worker.py")
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "found.npz"
        run = subprocess.run(
            [str(python), str(worker), str(source), str(target)],
            capture_output=True,
            text=True,
            check=False,
        )
        if run.returncode:
            last = (run.stderr.strip().splitlines() or ["no message"])[-1]
            raise UserError(f"The detector failed on {source}: {last}.")
        return files.read(target)


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
