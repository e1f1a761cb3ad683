"""Small sets, their settings and a codec's stand-in, for the tests of this folder."""

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline import builder, synthetic
from data_pipeline.settings import DataConfig, Resolution
from onetoall_jax import media
from onetoall_jax.geometry import Geometry
from onetoall_jax.pose import files
from onetoall_jax.pose.files import Track

GEOMETRY = Geometry(4, 8, 48, (1, 1, 1))


class Corners:
    """Encodes to the corners of blocks of every fourth frame.

    Args:
      fails_after: so many batches it is interrupted.
    """

    geometry = Geometry(4, 8, 3, (1, 1, 1))
    clips, fingerprint = 2, "corners"

    def __init__(self, fails_after: int | None = None):
        self._left = fails_after

    def __call__(self, frames_u8: np.ndarray) -> np.ndarray:
        if self._left is not None:
            self._left -= 1
            if self._left < 0:
                raise KeyboardInterrupt
        return (frames_u8[:, ::4, ::8, ::8] / 128 - 1).astype(np.float32)


def settings(root: Path, **more: Any) -> DataConfig:
    """Of a set, read in this process."""
    config = DataConfig(
        root=str(root),
        resolutions=(Resolution("tiny"),),
        num_frames=5,
        batch=4,
        workers=0,
        canvas_side=64,
    )
    return dataclasses.replace(config, **more)


def write_pool(root: Path, count: int) -> str:
    """Pool of the first people of a set; -> its file, beside the set."""
    rows = builder.Rows(root, "train")
    points = np.stack([rows.read(i, [0]).keypoints[0] for i in range(count)])
    size = np.stack([rows.sizes.height[:count], rows.sizes.width[:count]], axis=1)
    path = root.with_name("pool.npz")
    np.savez(path, keypoints=points, size=size)
    return str(path)


def write_footage(
    folder: Path, height: int, width: int, frames: int, count: int
) -> None:
    """Videos with their key points beside them, and a file that is none."""
    folder.mkdir(exist_ok=True)
    config = synthetic.SyntheticConfig(height, width, frames, canvas_side=0)
    for i in range(count):
        clip = synthetic.make_clip(config, "train", i)
        media.write_video(folder / f"{i:02d}.mp4", clip.frames, clip.fps)
        track = Track(clip.keypoints, height, width, clip.fps)
        files.write(folder / f"{i:02d}.npz", track)
    (folder / "damaged.mp4").write_bytes(b"no video")


def digest(folder: str | Path) -> dict[str, str]:
    """Hash of every file below a folder, by name."""
    found = sorted(p for p in Path(folder).rglob("*") if p.is_file())
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in found
    }
