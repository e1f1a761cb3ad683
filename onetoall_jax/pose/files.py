"""Key points on disk, one person a frame.

Our own .npz; read only: the JSON folders of OpenPose and the .npy files of the release.
"""

import json
import os
import re
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from onetoall_jax.errors import UserError
from onetoall_jax.pose import pickled
from onetoall_jax.pose.keypoints import BODY, COUNT, FACE, FEET, LEFT_HAND, RIGHT_HAND

# COCO's 17 body points among the 18 drawn ones, which the neck is one of.
_OF_DRAWN = (0, 15, 14, 17, 16, 5, 2, 6, 3, 7, 4, 11, 8, 12, 9, 13, 10)


# What numpy raises on a damaged archive.
DAMAGED = (
    OSError, ValueError, KeyError, TypeError, EOFError, OverflowError, SyntaxError,
    NotImplementedError, RuntimeError, zipfile.BadZipFile, zlib.error, struct.error,
    tokenize.TokenError,
)  # fmt: skip


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
    except DAMAGED as error:
        raise UserError(
            f"{path} is no key point file: it needs the arrays keypoints, size and fps."
        ) from error
    if points.ndim != 3 or points.shape[1:] != (COUNT, 3) or not len(points):
        raise UserError(
            f"{path} holds key points of shape {points.shape}, not (frames, 133, 3)."
        )
    if points.dtype.kind != "f" or min(height, width) < 1:
        raise UserError(
            f"{path} holds key points of type {points.dtype} for frames of "
            f"{height}x{width}: make it anew."
        )
    return Track(points, height, width, fps)


# --- OpenPose ------------------------------------------------------------------------

_OPENPOSE_NAME = re.compile(r"(.+)_(\d{12})_keypoints\.json")
_MIDDLE_HIP = 8  # of BODY_25, which has the 18 points with it between, then the feet


def read_openpose(
    folder: Path, height: int, width: int, fps: float, clip: str | None = None
) -> Track:
    """A clip that OpenPose wrote, one `<clip>_<12 digits>_keypoints.json` a frame.

    Bodies of 18 or 25 points. Of several people the one with the highest sum of body
    scores is taken, frame by frame; the neck is not kept, for ours lies between the
    shoulders. A missing point, and a frame without people, has score 0.

    Args:
      height, width, fps: of the frames, which the files do not tell.
      clip: its name, where the folder holds several.
    Raises:
      UserError: no such files, several clips, missing frames, or other contents.
    """
    frames = [_openpose_frame(p) for p in _openpose_files(Path(folder), clip)]
    return Track(np.stack(frames), height, width, fps)


def _openpose_files(folder: Path, clip: str | None) -> list[Path]:
    named = [
        (_OPENPOSE_NAME.fullmatch(p.name), p) for p in sorted(folder.glob("*.json"))
    ]
    found = [(m[1], int(m[2]), p) for m, p in named if m]
    clips = sorted({name for name, _, _ in found if clip in (None, name)})
    if not clips:
        raise UserError(
            f"{folder} holds no files {clip or '<clip>'}_<12 digits>_keypoints.json."
        )
    if len(clips) > 1:
        raise UserError(f"{folder} holds several clips, {clips}: name one of them.")
    frames = {number: p for name, number, p in found if name == clips[0]}
    absent = sorted(set(range(min(frames), max(frames))) - set(frames))
    if absent:
        raise UserError(
            f"{folder} lacks {len(absent)} frames of {clips[0]}, the first of them "
            f"{absent[0]}: OpenPose writes one file for every frame."
        )
    return [frames[number] for number in sorted(frames)]


def _openpose_frame(path: Path) -> np.ndarray:
    try:
        people = json.loads(path.read_text())["people"]
        found = [_openpose_person(person) for person in people]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is no OpenPose file: {error!r}.") from error
    if not found:
        return np.zeros((COUNT, 3), np.float32)
    return max(found, key=lambda person: float(person[BODY, 2].sum()))


def _openpose_person(person: Mapping[str, list[float]]) -> np.ndarray:
    made = np.zeros((COUNT, 3), np.float32)
    body = _openpose_part(person, "pose", (18, 25))
    if len(body) == 25:
        made[FEET] = body[19:]
        body = np.delete(body[:19], _MIDDLE_HIP, axis=0)
    if len(body):
        made[BODY] = body[list(_OF_DRAWN)]
    parts = (
        (FACE, "face", 70),
        (LEFT_HAND, "hand_left", 21),
        (RIGHT_HAND, "hand_right", 21),
    )
    for place, name, count in parts:
        points = _openpose_part(person, name, (count,))
        if len(points):
            made[place] = points[: place.stop - place.start]
    made[~made[:, :2].any(axis=1), 2] = 0
    return made


def _openpose_part(
    person: Mapping[str, list[float]], name: str, counts: tuple[int, ...]
) -> np.ndarray:
    """[n,3] with n one of `counts`, or 0 where the part is absent."""
    points = np.array(person.get(f"{name}_keypoints_2d", []), np.float32)
    if points.size not in (0, *(3 * n for n in counts)):
        raise ValueError(f"{name} has {points.size} numbers")
    if not np.isfinite(points).all():
        raise ValueError(f"{name} has numbers that are not finite")
    points = points.reshape(-1, 3)
    points[:, 2] = np.clip(points[:, 2], 0, 1)  # hands pass 1 by a little
    return points


# --- The release's .npy --------------------------------------------------------------


def read_release(path: Path, height: int, width: int, fps: float = 1.0) -> Track:
    """A pose file of the released data: drawn points, or 134 raw ones (person 0).

    Drawn points have no feet (score 0), and their weak face and hand points lie off
    the frame, where the release put them.

    Args:
      height, width, fps: of the frames, from the list that names the file.
    Returns:
      A track whose key points are float64.
    Raises:
      UserError: no such file, other contents, or a pickle of more than numbers.
    Source: section 1 of the released data page.
    """
    try:
        with open(path, "rb") as file:
            entries = pickled.read(file)
        frames = [_release_frame(entry, height, width) for entry in entries]
    except FileNotFoundError as error:
        raise UserError(f"There is no pose file {path}.") from error
    except pickled.RefusedError as error:
        raise UserError(f"{path} {error}: give a pose file of the release.") from error
    except (OSError, KeyError, IndexError, TypeError, ValueError) as error:
        raise UserError(f"{path} is no pose file of the release: {error!r}.") from error
    return Track(np.stack(frames), height, width, fps)


def _release_frame(entry: Mapping[str, Any], height: int, width: int) -> np.ndarray:
    if "bodies" not in entry:
        return _release_raw(entry)
    bodies, hands, sure = entry["bodies"], entry["hands"], entry["hands_score"]
    body = _scored(bodies["candidate"], bodies["score"], 18)
    made = np.zeros((COUNT, 3))
    made[BODY] = body[list(_OF_DRAWN)]
    made[FACE] = _scored(entry["faces"], entry["faces_score"], 68)
    made[LEFT_HAND] = _scored(hands[:1], sure[:1], 21)
    made[RIGHT_HAND] = _scored(hands[1:], sure[1:], 21)
    return made * (width, height, 1)


def _release_raw(entry: Mapping[str, Any]) -> np.ndarray:
    whole = _scored(entry["candidate"][0], entry["score"][0], COUNT + 1)
    return np.concatenate([whole[list(_OF_DRAWN)], whole[BODY.stop + 1 :]])


def _scored(points: np.ndarray, scores: np.ndarray, count: int) -> np.ndarray:
    """[count,3] of points and scores of any leading axes."""
    whole = np.empty((count, 3))
    whole[:, :2] = np.reshape(points, (count, 2))
    whole[:, 2] = np.reshape(scores, count)
    return whole
