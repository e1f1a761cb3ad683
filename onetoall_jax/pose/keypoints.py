"""Key points in the COCO-WholeBody layout, and the points that are drawn from them.

An array [..., 133, 3] holds x, y in pixels and a score for 17 body points, 6 feet,
68 face, 21 left-hand and 21 right-hand points.
"""

from typing import NamedTuple

import numpy as np

BODY, FEET = slice(0, 17), slice(17, 23)
FACE, LEFT_HAND, RIGHT_HAND = slice(23, 91), slice(91, 112), slice(112, 133)
COUNT = 133
VISIBLE = 0.3  # score from which a point counts in training

# Drawn body: nose, neck, right arm, left arm, right leg, left leg, eyes, ears.
# COCO's number for each; the neck (None there) is made from the shoulders.
_FROM_COCO = (0, 17, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3)


class Pose(NamedTuple):
    """One person as drawn; coordinates relative to the frame (0..1 inside).

    Attributes:
      body: [18,2]; body_score: [18]; body_visible: [18] bool.
      hands: [2,21,2]; hands_score: [2,21]. Training draws left before right, inference
        right before left, which shows where they overlap.
      face: [68,2]; face_score: [68].
    """

    body: np.ndarray
    body_score: np.ndarray
    body_visible: np.ndarray
    hands: np.ndarray
    hands_score: np.ndarray
    face: np.ndarray
    face_score: np.ndarray


def to_pose(keypoints: np.ndarray, height: float, width: float) -> Pose:
    """Points to draw from one person's key points, as in training.

    Body points below VISIBLE are hidden, weak hand and face points moved out of the
    frame. At inference `alignment.person` draws all points with a positive score.

    Args:
      keypoints: [133,3], pixels of a frame of `height` x `width`.
    Raises:
      ValueError: another shape.
    Source: sections 1 of the data page and 7 of the preprocessing page.
    """
    if keypoints.shape != (COUNT, 3):
        raise ValueError(f"key points are {keypoints.shape}, not ({COUNT}, 3)")
    points = keypoints.astype(np.float64) / (width, height, 1)
    neck = points[[5, 6]].mean(axis=0)
    neck[2] = float((points[[5, 6], 2] > VISIBLE).all())
    body = np.concatenate([points[:17], neck[None]])[list(_FROM_COCO)]
    hidden = points[:, 2] < VISIBLE
    points[hidden, :2] = -1
    hands = np.stack([points[LEFT_HAND], points[RIGHT_HAND]])
    return pose_of(body, body[:, 2] > VISIBLE, hands, points[FACE])


def pose_of(
    body: np.ndarray, visible: np.ndarray, hands: np.ndarray, face: np.ndarray
) -> Pose:
    """Pose of points [...,3] whose last column is the score; visible: [18] bool."""
    return Pose(
        body[:, :2],
        body[:, 2],
        visible,
        hands[..., :2],
        hands[..., 2],
        face[:, :2],
        face[:, 2],
    )
