"""Limbs by name: what two people show of them, and how their proportions compare."""

import statistics
from collections.abc import Mapping

import numpy as np

from onetoall_jax.alignment.person import Person

SEEN = 0.5  # score from which a joint counts as shown
LIMBS: Mapping[tuple[int, int], str] = {
    (1, 0): "neck",
    (1, 2): "right shoulder",
    (1, 5): "left shoulder",
    (2, 3): "right upper arm",
    (5, 6): "left upper arm",
    (3, 4): "right forearm",
    (6, 7): "left forearm",
    (1, 8): "right side of the trunk",
    (1, 11): "left side of the trunk",
    (8, 9): "right thigh",
    (11, 12): "left thigh",
    (9, 10): "right shin",
    (12, 13): "left shin",
}
JOINTS = (
    "nose", "neck", "right shoulder", "right elbow", "right wrist", "left shoulder",
    "left elbow", "left wrist", "right hip", "right knee", "right ankle", "left hip",
    "left knee", "left ankle", "right eye", "left eye", "right ear", "left ear",
)  # fmt: skip
_TINY = 1e-6


def inside(body: np.ndarray) -> np.ndarray:
    """[...,n] bool: points of bodies [...,n,3] that are shown and lie in the frame."""
    at, score = body[..., :2], body[..., 2]
    return (score >= SEEN) & (at >= 0).all(axis=-1) & (at <= 1).all(axis=-1)


def ratios(
    reference: Person, other: Person, size: tuple[int, int]
) -> dict[tuple[int, int], float]:
    """Length in `other` over length in the reference, of every limb that both show.

    Args:
      size: (height, width) of the frame that both are relative to.
    """
    both = inside(reference.body) & inside(other.body)
    a, b = (p.body[:, :2] * (size[1], size[0]) for p in (reference, other))
    made = {}
    for i, j in LIMBS:
        own = np.linalg.norm(a[i] - a[j])
        if both[i] and both[j] and own > _TINY:
            made[i, j] = float(np.linalg.norm(b[i] - b[j]) / own)
    return made


def unlike(
    reference: Person, other: Person, size: tuple[int, int], tolerance: float
) -> dict[str, float]:
    """Limbs whose share of the body differs, and how many times as long they are.

    The median limb stands for the size of the body; fewer than two limbs say nothing.

    Args:
      tolerance: relative difference that counts as none.
    """
    lengths = ratios(reference, other, size)
    if len(lengths) < 2:
        return {}
    middle = statistics.median(lengths.values())
    found = {LIMBS[limb]: length / middle for limb, length in lengths.items()}
    return {name: r for name, r in found.items() if abs(r - 1) > tolerance}
