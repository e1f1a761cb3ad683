"""Key points on disk: our .npz, one person a frame."""

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from onetoall_jax.errors import UserError
from onetoall_jax.pose.keypoints import COUNT


class Track(NamedTuple):
    """One person through a clip.

    Attributes:
      keypoints: [F,133,3], pixels and scores.
      height, width: of the frames, in pixels.
      fps: frames a second.
    """

    keypoints: np.ndarray
    height: int
    width: int
    fps: float


def write(path: Path, track: Track) -> None:
    """Writes `track`; the file appears when it is complete."""
    beside = path.with_name(path.name + ".part")
    with open(beside, "wb") as file:
        np.savez_compressed(
            file,
            keypoints=track.keypoints.astype(np.float32),
            size=np.array([track.height, track.width]),
            fps=np.float32(track.fps),
        )
    os.replace(beside, path)


def read(path: Path) -> Track:
    """Reads what `write` wrote.

    Raises:
      UserError: no such file, or other contents.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            points = stored["keypoints"]
            height, width = (int(v) for v in stored["size"])
            fps = float(stored["fps"])
    except FileNotFoundError as error:
        raise UserError(f"There is no key point file {path}.") from error
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"{path} is no key point file: it needs the arrays keypoints, size and fps."
        ) from error
    if points.ndim != 3 or points.shape[1:] != (COUNT, 3) or not len(points):
        raise UserError(
            f"{path} holds key points of shape {points.shape}, not (frames, 133, 3)."
        )
    return Track(points, height, width, fps)
