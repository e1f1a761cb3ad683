"""Moves the reference onto the driving person: scaled about its neck, then shifted."""

from typing import NamedTuple

import cv2
import numpy as np

from onetoall_jax.alignment.person import Person


class Placement(NamedTuple):
    """Scale about the reference's neck, then a shift to the anchor's.

    Attributes:
      scale: a factor; start, end: the two necks [2], relative to the frame.
    """

    scale: np.float32
    start: np.ndarray
    end: np.ndarray

    def matrix(self, height: int, width: int) -> np.ndarray:
        """[2,3] float32 of the move in pixels.

        Every term is rounded to float32 in the released order: another order moves
        single pixels.
        """
        s, one = np.float32(self.scale), np.float32(1)
        size = np.array((width, height), np.float32)
        x0, y0 = self.start.astype(np.float32) * size
        xa, ya = self.end.astype(np.float32) * size
        return np.array(
            [[s, 0, (one - s) * x0 + (xa - x0)], [0, s, (one - s) * y0 + (ya - y0)]],
            np.float32,
        )


def warp(pictures: np.ndarray, placement: Placement) -> np.ndarray:
    """A picture [H,W,3] moved, black where nothing comes from."""
    height, width = pictures.shape[:2]
    matrix = placement.matrix(height, width)
    return cv2.warpAffine(pictures, matrix, (width, height), flags=cv2.INTER_LINEAR)


def missing(height: int, width: int, placement: Placement) -> np.ndarray:
    """[H,W] uint8: 255 where the moved picture has nothing."""
    return cv2.warpAffine(
        np.zeros((height, width), np.uint8),
        placement.matrix(height, width),
        (width, height),
        flags=cv2.INTER_NEAREST,
        borderValue=255,
    )


def move(person: Person, placement: Placement) -> Person:
    """The person's points moved as the picture is."""

    def moved(points: np.ndarray) -> np.ndarray:
        made = points.copy()
        centred = points[..., :2] - placement.start
        made[..., :2] = placement.start + float(placement.scale) * centred
        made[..., :2] += placement.end - placement.start
        return made

    return Person(*(moved(points) for points in person))
