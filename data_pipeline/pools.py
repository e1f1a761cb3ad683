"""Pools of key points for face-region enhancement.

    python -m data_pipeline.pools --data=runs/data --output=runs/pool.npz

takes one frame of every clip whose face and shoulders are surely seen. The released
pools, tables of pose files, are read by `--released=DIR`.
"""

import argparse
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from data_pipeline.builder import Rows
from data_pipeline.importers import footage
from onetoall_jax import errors
from onetoall_jax.errors import UserError
from onetoall_jax.pose.files import DAMAGED, read_release
from onetoall_jax.pose.keypoints import COUNT, FACE

_SURE = 0.8
_SHOULDERS = [5, 6]


class Pool(NamedTuple):
    """Key points of many people.

    Attributes:
      keypoints: [n,133,3] in pixels; size: [n,2], height and width of their frames.
    """

    keypoints: np.ndarray
    size: np.ndarray

    def pick(self, u: float, height: int, width: int) -> int:
        """Entry for a uniform u in [0, 1), if possible of the clip's orientation."""
        tall = self.size[:, 0] >= self.size[:, 1]
        fitting = np.flatnonzero(tall == (height >= width))
        chosen = fitting if fitting.size else np.arange(len(self.size))
        return int(chosen[int(u * len(chosen))])


def read(path: str | Path) -> Pool:
    """Reads what `build` wrote.

    Raises:
      UserError: no such file, or no pool.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            pool = Pool(stored["keypoints"], stored["size"])
    except FileNotFoundError as error:
        raise UserError(
            f"There is no pose pool {path}: make it with "
            f"`python -m data_pipeline.pools --data=DATA --output={path}`."
        ) from error
    except DAMAGED as error:
        raise UserError(f"{path} is no pose pool.") from error
    if pool.keypoints.shape[1:] != (COUNT, 3) or len(pool.keypoints) != len(pool.size):
        raise UserError(f"{path} is no pose pool: {pool.keypoints.shape}.")
    return pool


def build(root: Path, split: str = "train") -> Pool:
    """The middle frame of every clip with a surely seen face and shoulders.

    Raises:
      UserError: there is none.
    """
    rows = Rows(root, split)
    keypoints, sizes = [], []
    for row in tqdm(range(len(rows)), "clips"):
        points = rows.read(row, [rows.num_frames(row) // 2]).keypoints[0]
        face = points[FACE, 2].mean() >= _SURE
        if face and (points[_SHOULDERS, 2] >= _SURE).all():
            keypoints.append(points)
            sizes.append((rows.sizes.height[row], rows.sizes.width[row]))
    if not keypoints:
        raise UserError(f"No clip of {root} shows a face and shoulders surely enough.")
    return Pool(np.stack(keypoints).astype(np.float32), np.array(sizes))


def build_released(folder: Path) -> Pool:
    """All poses of the released tables in a folder, raw key points of person 0.

    Raises:
      UserError: no such table, or a pose file that is damaged or not there.
    """
    keypoints, sizes = [], []
    for table in sorted(folder.glob("*.csv")):
        columns = footage.columns(table)
        if not {"pose_path", "height", "width"} <= columns or "path" in columns:
            continue
        for row in tqdm(list(footage.rows(table)), table.name):
            raw = os.path.splitext(row["pose_path"])[0] + "_raw.npy"
            track = read_release(footage.there(folder, raw) or Path(raw), 1, 1)
            keypoints.append(track.keypoints[0])
            sizes.append(_size(row, table))
    if not keypoints:
        raise UserError(
            f"{folder} holds no table of poses, with columns pose_path, height, width."
        )
    return Pool(np.stack(keypoints).astype(np.float32), np.array(sizes))


def _size(row: Mapping[str, str], table: Path) -> list[int]:
    try:
        size = [int(float(row[name])) for name in ("height", "width")]
    except (ValueError, OverflowError, TypeError):
        size = [0]
    if min(size) < 1:
        raise UserError(f"{table} gives no height and width of {row['pose_path']}.")
    return size


@errors.reported
def main(argv: list[str]) -> None:
    """Writes a pool."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--data", type=Path)
    source.add_argument("--released", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args(argv)
    pool = build(args.data) if args.data else build_released(args.released)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    beside = args.output.with_name(args.output.name + ".part")
    with open(beside, "wb") as file:
        np.savez_compressed(file, keypoints=pool.keypoints, size=pool.size)
    os.replace(beside, args.output)
    print(f"{len(pool.size)} people in {args.output}")


if __name__ == "__main__":
    main(sys.argv[1:])
