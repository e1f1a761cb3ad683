"""Key points to points to draw, and the drawn pictures."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from onetoall_jax.alignment.person import from_keypoints
from onetoall_jax.pose.draw import Drawer, Style
from onetoall_jax.pose.keypoints import Pose, to_pose
from tools.parity.case import Case

CEILING = {"*": {"max_abs": 8, "share": 0.0005}}
_STYLES = {
    "plain": Style(),
    "without_face": Style(face=False),
    "face_change": Style(light_face=True),
    "head_change": Style(light_head=True),
    "face_change+head_change": Style(light_head=True, light_face=True),
    "changed": Style(light_head=True, light_face=True),
}


def run(case: Case, dtype: Any) -> Iterator[tuple[str, np.ndarray]]:
    """Every picture of the case, from its key points.

    Raises:
      ValueError: the points to draw differ from the recorded ones.
    """
    for name, golden in case.outputs.items():
        _, number, style = re.fullmatch(
            r"(images|image)(_\d+)?(?:_(.+))?", name
        ).groups()  # type: ignore[union-attr]
        number = number or ""
        keypoints = case.inputs[f"kp133{number}"]
        frames = golden[None] if golden.ndim == 3 else golden
        people = keypoints[None] if keypoints.ndim == 2 else keypoints
        height, width = frames.shape[1:3]
        drawer = Drawer(height, width)
        pictures = []
        for i, person in enumerate(people):
            if _route(case, number) == "training":
                pose = to_pose(person, height, width)
            else:
                pose = from_keypoints(person, height, width).pose
            _check(pose, case, f"p{number.lstrip('_')}", i, keypoints.ndim == 3)
            pictures.append(drawer(pose, _STYLES[style or "plain"]))
        yield name, np.stack(pictures) if golden.ndim == 4 else pictures[0]


def _route(case: Case, number: str) -> str:
    if "sub" in case.config:
        return case.config["sub"][int(number.lstrip("_"))]["route"]
    return case.config.get("route", "inference")


def _check(pose: Pose, case: Case, prefix: str, i: int, many: bool) -> None:
    def recorded(name: str) -> np.ndarray:
        value = case.inputs[f"{prefix}/{name}"]
        return value[i] if many else value

    pairs = (
        (pose.body, recorded("candidate")),
        (pose.body_visible, recorded("subset")[0] >= 0),
        (pose.body_score, recorded("score")[0]),
        (pose.hands, recorded("hands")),
        (pose.hands_score, recorded("hands_score")),
        (pose.face, recorded("faces")[0]),
        (pose.face_score, recorded("faces_score")[0]),
    )
    for ours, theirs in pairs:
        if not np.allclose(ours, theirs, atol=1e-6):
            raise ValueError(f"{case.path.name}: {prefix} differs from the recorded")


def recorded_form(
    prefix: str, poses: Sequence[Pose], *, single: bool = False
) -> Iterator[tuple[str, np.ndarray]]:
    """Poses as cases record them; of a clip, or (`single`) of the one frame given."""
    joints = np.arange(18)
    arrays = {
        "candidate": [p.body for p in poses],
        "score": [p.body_score[None] for p in poses],
        "subset": [np.where(p.body_visible, joints, -1)[None] for p in poses],
        "hands": [p.hands for p in poses],
        "hands_score": [p.hands_score for p in poses],
        "faces": [p.face[None] for p in poses],
        "faces_score": [p.face_score[None] for p in poses],
    }
    for name, values in arrays.items():
        yield prefix + name, values[0] if single else np.stack(values)
