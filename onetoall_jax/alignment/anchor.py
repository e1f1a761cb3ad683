"""Which driving frame the reference is compared with, and how far apart they stand."""

import math
from collections.abc import Sequence

import numpy as np

from onetoall_jax.alignment.move import Placement, move
from onetoall_jax.alignment.person import Person

_ARMS_AND_LEGS = (
    ((2, 3), (5, 6)),
    ((3, 4), (6, 7)),
    ((8, 9), (11, 12)),
    ((9, 10), (12, 13)),
)
_NECK = 1
_TINY = 1e-6
_SYMMETRIC = 1.5  # largest quotient of left and right
_TILT = math.radians(30)
SURE = 0.9  # score from which a joint is compared


def choose(reference: Person, driving: Sequence[Person]) -> int:
    """Frame of the driving clip that is most like the reference.

    Frames with the most limbs of like proportions on both sides come first, among them
    upright ones, among them the one whose shoulders and head point as the reference's.

    Source: section 5 of the released preprocessing page.
    """
    r = _points(reference)

    def rank(i: int) -> tuple[int, bool, float, int]:
        c = _points(driving[i])
        return -_symmetric(c, r), not _upright(c), _turned(c, r), i

    return min(range(len(driving)), key=rank)


def _points(person: Person) -> np.ndarray:
    # The release compares float32 points; a frame may win by the last bit.
    return person.body[:, :2].astype(np.float32)


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


def known(one: Person, other: Person, sure: float = SURE) -> np.ndarray:
    """[20] bool: the body points that both surely show."""
    # In float32 as recorded: a score of 0.9 counts as sure.
    least = np.minimum(one.body[:, 2], other.body[:, 2]).astype(np.float32)
    return least >= np.float32(sure)


def place(target: Person, reference: Person, sure: float = SURE) -> Placement:
    """How to move the reference so that it stands as `target` does.

    Returns:
      Scale and necks, float32: the release has no finer numbers here.
    Source: section 4 of the released preprocessing page.
    """
    factor = scale(target, reference, sure)
    return Placement(factor, _points(reference)[_NECK], _points(target)[_NECK])


def moved(target: Person, reference: Person, sure: float = SURE) -> Person:
    """The reference where `place` puts it, in float32 throughout as in the release."""
    single = Person(*(points.astype(np.float32) for points in reference))
    return move(single, place(target, reference, sure))


def scale(target: Person, reference: Person, sure: float = SURE) -> np.float32:
    """How much larger `target` is than the reference, in units of their frames.

    The mean of shoulder width and torso height where both are surely seen, else the
    distance of the shoulders, else that of the ears whatever their scores.

    Source: section 4 of the released preprocessing page.
    """
    a, r = _points(target), _points(reference)
    surely = known(target, reference, sure)

    def seen(*points: int) -> bool:
        return bool(surely[list(points)].all())

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
