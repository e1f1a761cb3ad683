"""One person's points relative to the frame, as alignment compares and moves them."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from onetoall_jax.pose.keypoints import (
    COUNT,
    FACE,
    LEFT_HAND,
    RIGHT_HAND,
    Pose,
    pose_of,
)

# The 18 drawn body points, then left and right toe; each the mean of two entries.
_PAIR_A = (0, 6, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3, 17, 20)
_PAIR_B = (0, 5, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3, 18, 21)
DRAWN = 18
# (place among the 20, big and small toe, ankle) of the left and the right foot.
_FEET = ((18, 17, 18, 15), (19, 20, 21, 16))


class Person(NamedTuple):
    """Points x, y (0..1 inside the frame) and score, float64.

    Attributes:
      body: [20,3], the drawn 18 in their order, then left and right toe.
      face: [68,3]; hands: [2,21,3] in the order in which they are drawn.
    """

    body: np.ndarray
    face: np.ndarray
    hands: np.ndarray

    @property
    def pose(self) -> Pose:
        """As drawn: every body point with a positive score."""
        body = self.body[:DRAWN]
        return pose_of(body, body[:, 2] > 0, self.hands, self.face)


def from_keypoints(keypoints: np.ndarray, height: int, width: int) -> Person:
    """A person of [133,3] points in pixels; the right hand is drawn first.

    A toe that is not there (score 0) lies where the other one of its foot does, without
    either at the ankle.

    Source: section 3 of the released preprocessing page.
    """
    if keypoints.shape != (COUNT, 3):
        raise ValueError(f"key points are {keypoints.shape}, not ({COUNT}, 3)")
    points = keypoints.astype(np.float32) / np.array((width, height, 1), np.float32)
    body = (points[list(_PAIR_A)] + points[list(_PAIR_B)]) / 2
    for place, big, small, ankle in _FEET:
        # Not every source of key points has toes: absent ones lie at the origin.
        there = [toe for toe in (big, small) if points[toe, 2] > 0]
        if len(there) < 2:
            body[place, :2] = points[there[0] if there else ankle, :2]
    hands = np.stack([points[RIGHT_HAND], points[LEFT_HAND]])
    return Person(*(p.astype(np.float64) for p in (body, points[FACE], hands)))


def from_clip(
    keypoints: Sequence[np.ndarray] | np.ndarray, height: int, width: int
) -> list[Person]:
    """People of all frames; a body that lies off the frame repeats the one before."""
    made: list[Person] = []
    for points in keypoints:
        found = from_keypoints(points, height, width)
        if made and found.body[:, :2].min(axis=1).max() < 0:
            found = found._replace(body=made[-1].body)
        made.append(found)
    return made
