"""Regions of a clip: heads, hands and on-screen text, on the latent grid."""

from collections.abc import Sequence

import numpy as np

from onetoall_jax.geometry import Geometry
from onetoall_jax.pose.keypoints import to_pose

_SURE = 0.8  # mean score from which a face or hand is believed
Box = tuple[int, int, int, int]


def _bounds(points: np.ndarray, height: int, width: int) -> Box:
    """Box in pixels of points relative to the frame.

    Weak points lie at (-1, -1) and count, as in the release: one of them in a face or
    hand that is sure as a whole stretches the box to the upper left corner.
    """
    points = points * (width, height)
    low, high = points.min(axis=0), points.max(axis=0)
    return int(low[0]), int(low[1]), int(high[0]), int(high[1])


def _widen(box: Box, share: float, height: int, width: int) -> Box:
    x1, y1, x2, y2 = box
    dx, dy = share * (x2 - x1), share * (y2 - y1)
    return (
        int(max(0, x1 - dx)),
        int(max(0, y1 - dy)),
        int(min(width, x2 + dx)),
        int(min(height, y2 + dy)),
    )


def head_box(keypoints: np.ndarray, height: int, width: int) -> Box | None:
    """Box of the face, raised by two fifths for the hair; None below _SURE.

    Source: section 7 of the released data page.
    """
    pose = to_pose(keypoints, height, width)
    if pose.face_score.mean() < _SURE:
        return None
    x1, y1, x2, y2 = _bounds(pose.face, height, width)
    raised = (x1, max(0, y1 - int(0.4 * (y2 - y1))), x2, y2)
    return _widen(raised, 0.1, height, width)


def hand_boxes(keypoints: np.ndarray, height: int, width: int) -> list[Box] | None:
    """Boxes of both hands; None if either is unsure, as in the release."""
    pose = to_pose(keypoints, height, width)
    if (pose.hands_score.mean(axis=1) < _SURE).any():
        return None
    boxes = (_bounds(hand, height, width) for hand in pose.hands)
    return [_widen(box, 0.2, height, width) for box in boxes]


def _fill(mask: np.ndarray, box: Box) -> None:
    x1, y1, x2, y2 = box
    # Beyond the left or upper edge x2 or y2 is negative and counts from the far side,
    # as in the release.
    mask[y1:y2, x1:x2] = 1


def _latent_frames(num_frames: int, stride: int) -> list[list[int]]:
    """Frames of each latent frame: 0 | 1..4 | 5..8 ..."""
    groups: list[list[int]] = [[] for _ in range(1 + (num_frames - 1) // stride)]
    for i in range(num_frames):
        groups[(i + stride - 1) // stride].append(i)
    return groups


def heads(keypoints: np.ndarray, height: int, width: int, temporal: int) -> np.ndarray:
    """Mask [f,H,W] uint8 of the heads of each latent frame.

    One frame in which the face is unsure clears its whole latent frame.
    """

    def boxes(points: np.ndarray) -> list[Box] | None:
        box = head_box(points, height, width)
        return None if box is None else [box]

    return _union([boxes(k) for k in keypoints], height, width, temporal)


def hands(keypoints: np.ndarray, height: int, width: int, temporal: int) -> np.ndarray:
    """Mask [f,H,W] uint8 of the hands, cleared as that of the heads."""
    boxes = [hand_boxes(k, height, width) for k in keypoints]
    return _union(boxes, height, width, temporal)


def _union(
    boxes: Sequence[Sequence[Box] | None], height: int, width: int, temporal: int
) -> np.ndarray:
    groups = _latent_frames(len(boxes), temporal)
    mask = np.zeros((len(groups), height, width), np.uint8)
    for t, frames in enumerate(groups):
        found = [boxes[i] for i in frames]
        if any(group is None for group in found):
            continue
        for group in found:
            for box in group or ():
                _fill(mask[t], box)
    return mask


def keep(
    text_boxes: Sequence[Sequence[Sequence[float]]],
    num_frames: int,
    height: int,
    width: int,
    temporal: int,
) -> np.ndarray:
    """[f,H,W] uint8, 0 where any frame of a latent frame shows text.

    Boxes grow by a tenth of their long side and two fifths of the short one, at most
    20 pixels.
    """
    mask = np.ones((1 + (num_frames - 1) // temporal, height, width), np.uint8)
    for t, frames in enumerate(_latent_frames(num_frames, temporal)):
        for i in frames:
            for x1, y1, x2, y2 in text_boxes[i] if text_boxes else ():
                x1, y1, x2, y2 = int(x1), int(y1), int(x2), int(y2)
                w, h = x2 - x1, y2 - y1
                dx, dy = (0.1 * w, 0.4 * h) if w > h else (0.4 * w, 0.1 * h)
                dx, dy = min(dx, 20), min(dy, 20)
                top, left = int(max(0, y1 - dy)), int(max(0, x1 - dx))
                bottom, right = int(min(height, y2 + dy)), int(min(width, x2 + dx))
                mask[t, top:bottom, left:right] = 0
    return mask


def to_latent(mask: np.ndarray, geometry: Geometry) -> np.ndarray:
    """[f,H,W] -> [f,h,w]: the pixel at the corner of each latent pixel."""
    return np.ascontiguousarray(mask[:, :: geometry.spatial, :: geometry.spatial])
