"""Anchor choice, and both ways of aligning with their pictures."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from onetoall_jax.alignment import anchor, fit, move, retarget
from onetoall_jax.alignment.person import Person, from_clip, from_keypoints
from onetoall_jax.pose.draw import Drawer, Style
from tools.parity.case import Case

# Points follow the release's float types. Warped pictures differ between versions of
# OpenCV: by up to 5 a value, 0.07 in the mean.
_WARPED = ("image_input", "pose_input")
_MOST_RUNS = 32
CEILING = {"*": {"max_abs": 3e-6}} | {
    f"s{i}/{name}": {"max_abs": 15, "mean_abs": 0.25}
    for i in range(_MOST_RUNS)
    for name in _WARPED
}


def run(case: Case, dtype: Any) -> Iterator[tuple[str, np.ndarray]]:
    """Chosen frames, or poses and pictures of every run in the case."""
    if "anchor_index" in case.outputs:
        yield "anchor_index", _chosen(case)
        return
    for sub in case.config["sub"]:
        yield from _aligned(case, sub)


def _chosen(case: Case) -> np.ndarray:
    size = case.config["height"], case.config["width"]
    chosen = []
    for g in range(case.config["groups"]):
        reference = from_keypoints(case.inputs[f"g{g}/ref_kp133"], *size)
        driving = from_clip(case.inputs[f"g{g}/drv_kp133"], *size)
        chosen.append(anchor.choose(reference, driving))
    return np.array(chosen)


def _aligned(case: Case, sub: dict[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
    name = f"s{sub['i']}/"
    picture = case.inputs[name + "ref_image"]
    size = height, width = picture.shape[:2]
    reference = from_keypoints(case.inputs[name + "ref_kp133"], *size)
    driving = from_clip(case.inputs[name + "drv_kp133"], *size)
    drawer = Drawer(height, width)
    shown = drawer(reference.pose, Style(face=False))
    mask = np.zeros(size, np.uint8)
    at = sub["anchor_idx"]
    if sub["alignmode"] == "pose":
        place = anchor.place(driving[at], reference)
        picture, shown = move.warp(picture, place), move.warp(shown, place)
        mask = move.missing(height, width, place)
        if sub["do_align"]:
            moved = anchor.moved(driving[at], reference)
            driving = retarget.to_driving(driving, moved, at)
    elif sub["do_align"]:
        driving = retarget.to_reference(driving, reference, at, size, size)
    yield from _outputs(case, name, sub, picture, shown, mask, driving, drawer)


def _outputs(
    case: Case,
    name: str,
    sub: dict[str, Any],
    picture: np.ndarray,
    shown: np.ndarray,
    mask: np.ndarray,
    driving: list[Person],
    drawer: Drawer,
) -> Iterator[tuple[str, np.ndarray]]:
    out = case.config["out_hw"]

    def fitted(x: np.ndarray) -> np.ndarray:
        return fit.sample_fit(x, *out)

    style = Style(
        face=not sub["without_face"],
        light_head=sub["head_change"],
        light_face=sub["face_change"],
    )
    yield name + "image_input", fitted(picture)
    yield name + "pose_input", fitted(shown)
    yield name + "mask_input", np.stack([fitted(mask)] * 3, axis=-1)
    yield (
        name + "pose_images",
        np.stack([fitted(drawer(p.pose, style)) for p in driving]),
    )
    points = len(case.outputs[name + "p/candidate"][0])
    body = np.stack([p.body[:points] for p in driving])
    yield name + "p/candidate", body[..., :2]
    yield name + "p/score", body[:, None, :, 2]
    numbers = np.broadcast_to(np.arange(points), body.shape[:2])
    yield name + "p/subset", np.where(body[..., 2] > 0, numbers, -1)[:, None]
    hands = np.stack([p.hands for p in driving])
    yield name + "p/hands", hands[..., :2]
    yield name + "p/hands_score", hands[..., 2]
    faces = np.stack([p.face for p in driving])[:, None]
    yield name + "p/faces", faces[..., :2]
    yield name + "p/faces_score", faces[..., 2]
