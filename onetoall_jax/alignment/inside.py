"""Keeps joints in the frame that retargeting would push out of it."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from onetoall_jax.alignment import limbs
from onetoall_jax.alignment.person import DRAWN, Person

_MARGIN = 0.005  # of the frame, so that rounding does not push a joint out again


class Shift(NamedTuple):
    """A whole clip made smaller about the frame's origin, then moved.

    Attributes:
      scale: at most 1; by: [2], in units of the frame.
      joints: names of those that would have left the frame.
    """

    scale: float
    by: np.ndarray
    joints: tuple[str, ...]

    def points(self, points: np.ndarray) -> np.ndarray:
        """[...,3] moved; scores stay."""
        made = points.copy()
        made[..., :2] = self.scale * points[..., :2] + self.by
        return made

    def person(self, person: Person) -> Person:
        """A person moved."""
        return Person(*(self.points(points) for points in person))


def keep(before: Sequence[Person], after: Sequence[Person]) -> Shift | None:
    """The least move after which every joint inside `before` is inside again.

    None where none has left. The clip is made smaller only if its joints reach further
    than a frame; the same move serves all frames, so that the person does not jump.
    """
    was = np.stack([limbs.inside(p.body[:DRAWN]) for p in before])
    points = np.stack([p.body[:DRAWN, :2] for p in after])
    left = was & ((points < 0) | (points > 1)).any(axis=-1)
    if not left.any():
        return None
    low, high = points[was].min(axis=0), points[was].max(axis=0)
    room = 1 - 2 * _MARGIN
    scale = min(1.0, float((room / np.maximum(high - low, 1e-9)).min()))
    # About the middle of what is shown, so that shrinking alone moves nothing.
    by = (1 - scale) * (low + high) / 2
    low, high = scale * low + by, scale * high + by
    by = by + np.maximum(_MARGIN - low, 0) - np.maximum(high - (1 - _MARGIN), 0)
    names = [limbs.JOINTS[j] for j in np.flatnonzero(left.any(axis=0))]
    return Shift(scale, by, tuple(names))
