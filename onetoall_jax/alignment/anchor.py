"""Which driving frame the reference is compared with, and how far apart they stand."""

import math
from collections.abc import Sequence

import numpy as np

from onetoall_jax.alignment.person import Person

_ARMS_AND_LEGS = (
    ((2, 3), (5, 6)),
    ((3, 4), (6, 7)),
    ((8, 9), (11, 12)),
    ((9, 10), (12, 13)),
)
_TINY = 1e-6
_SYMMETRIC = 1.5  # largest quotient of left and right
_TILT = math.radians(30)


def choose(reference: Person, driving: Sequence[Person]) -> int:
    """Frame of the driving clip that is most like the reference.

    Frames with the most limbs of like proportions on both sides come first, among them
    upright ones, among them the one whose shoulders and head point as the reference's.

    Source: section 5 of the released preprocessing page.
    """
    r = reference.body[:, :2]

    def rank(i: int) -> tuple[int, bool, float, int]:
        c = driving[i].body[:, :2]
        return -_symmetric(c, r), not _upright(c), _turned(c, r), i

    return min(range(len(driving)), key=rank)


def _level(v: np.ndarray) -> float:
    return math.atan2(abs(v[1]), abs(v[0]) + 1e-9)


def _plumb(v: np.ndarray) -> float:
    return math.atan2(abs(v[0]), abs(v[1]) + 1e-9)


def _turned(c: np.ndarray, r: np.ndarray) -> float:
    shoulders = abs(_level(c[5] - c[2]) - _level(r[5] - r[2]))
    return shoulders + abs(_plumb(c[0] - c[1]) - _plumb(r[0] - r[1]))


def _symmetric(c: np.ndarray, r: np.ndarray) -> int:
    def ratio(a: int, b: int) -> float:
        own = float(np.linalg.norm(c[a] - c[b]))
        return 1.0 if own < _TINY else float(np.linalg.norm(r[a] - r[b])) / own

    count = 0
    for one, other in _ARMS_AND_LEGS:
        left, right = ratio(*one), ratio(*other)
        if left >= _TINY and right >= _TINY:
            count += 1 / _SYMMETRIC <= left / right <= _SYMMETRIC
    return count


def _upright(c: np.ndarray) -> bool:
    if not (c[[1, 2, 5, 8, 11]] > 0).all():
        return False
    torso = (c[8] + c[11]) / 2 - (c[2] + c[5]) / 2
    tilts = _plumb(torso), _level(c[2] - c[5]), _level(c[8] - c[11])
    return max(tilts) <= _TILT


def scale(target: Person, moved: Person, sure: float = 0.9) -> np.float32:
    """How much larger `target` is than `moved`, in units of their frames.

    The mean of shoulder width and torso height where both are surely seen, else the
    distance of the shoulders, else that of the ears whatever their scores.

    Source: section 4 of the released preprocessing page.
    """
    a, r = (p.body[:, :2].astype(np.float32) for p in (target, moved))

    def seen(*points: int) -> bool:
        scores = [p.body[list(points), 2] for p in (target, moved)]
        return bool(min(s.min() for s in scores) >= sure)

    def quotient(of_a: np.float32, of_r: np.float32) -> np.float32:
        return np.float32(1) if of_r <= _TINY else of_a / of_r

    def apart(p: np.ndarray, i: int, j: int) -> np.float32:
        return np.linalg.norm(p[i] - p[j])  # type: ignore[return-value]

    def torso(p: np.ndarray) -> np.float32:
        return abs((p[8, 1] + p[11, 1]) / 2 - (p[2, 1] + p[5, 1]) / 2)

    if seen(2, 5) and seen(8, 11):
        wide = quotient(abs(a[5, 0] - a[2, 0]), abs(r[5, 0] - r[2, 0]))
        return (wide + quotient(torso(a), torso(r))) / np.float32(2)
    i, j = (2, 5) if seen(2, 5) else (16, 17)
    return quotient(apart(a, i, j), apart(r, i, j))
