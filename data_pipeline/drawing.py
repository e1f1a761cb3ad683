"""Pose pictures of whole clips."""

import functools
import threading
from collections.abc import Sequence

import cv2
import numpy as np

from onetoall_jax.pose.draw import Drawer, Style
from onetoall_jax.pose.keypoints import Pose, to_pose


def draw_poses(
    keypoints: np.ndarray,
    height: int,
    width: int,
    canvas_side: int,
    style: Style | None = None,
) -> np.ndarray:
    """Pictures [F,H,W,3] uint8 of one person's key points [F,133,3] in pixels."""
    poses = [to_pose(k, height, width) for k in keypoints]
    return draw_made(poses, height, width, canvas_side, style or Style())


def draw_made(
    poses: Sequence[Pose], height: int, width: int, canvas_side: int, style: Style
) -> np.ndarray:
    """Pictures [F,H,W,3] uint8 of poses that are ready to draw."""
    draw = _drawer(height, width, canvas_side, threading.get_ident())
    return np.stack([draw(pose, style) for pose in poses])


@functools.lru_cache(maxsize=4)
def _drawer(height: int, width: int, canvas_side: int, thread: int) -> Drawer:
    """A drawer draws on one canvas, so no two threads may share one."""
    cv2.setNumThreads(1)  # callers are processes of their own, one for each core
    return Drawer(height, width, canvas_side)
