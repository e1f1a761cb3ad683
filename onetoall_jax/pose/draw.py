"""Draws poses byte for byte as the released code does, but only where they are."""

import dataclasses
import math

import cv2
import numpy as np

from onetoall_jax.pose.keypoints import VISIBLE, Pose

CANVAS_SIDE = 2160  # short side of the canvas that published weights were trained with

_COLOURS = (
    (255, 0, 0), (255, 85, 0), (255, 170, 0), (255, 255, 0), (170, 255, 0),
    (85, 255, 0), (0, 255, 0), (0, 255, 85), (0, 255, 170), (0, 255, 255),
    (0, 170, 255), (0, 85, 255), (0, 0, 255), (85, 0, 255), (170, 0, 255),
    (255, 0, 255), (255, 0, 170), (255, 0, 85),
)  # fmt: skip
_LIMBS = (
    (1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10), (1, 11),
    (11, 12), (12, 13), (1, 0), (0, 14), (14, 16), (0, 15), (15, 17),
)  # fmt: skip
_HAND_EDGES = tuple(
    (0 if j == 0 else 4 * finger + j, 4 * finger + j + 1)
    for finger in range(5)
    for j in range(4)
)
_HEAD = (0, 14, 15, 16, 17)
_WEAK_LIMB = 0.35  # of limbs with an endless end: lighter heads use it
_LIGHT_FACE = 0.35
_DIM = (np.arange(256) * 0.6).astype(np.uint8)
# Canvas long side below which a stick factor holds.
_FACTORS = ((512, 1.0), (1080, 1.5), (2160, 2.0), (3240, 2.5), (4320, 3.5), (5400, 4.5))


@dataclasses.dataclass(frozen=True)
class Style:
    """How a pose is drawn.

    Attributes:
      face: draw face points (jaw and nose ridge never are).
      light_head: head joints black, their limbs dim.
      light_face: face points dim.
    """

    face: bool = True
    light_head: bool = False
    light_face: bool = False


def _factor(long_side: int) -> float:
    return next((f for limit, f in _FACTORS if long_side < limit), 4.0)


def _hue(e: int, n: int) -> tuple[float, float, float]:
    """Fully saturated colour e of n around the circle, 0..1 each."""
    h = e / n * 6.0
    i = int(h)
    f = h - i
    up, down = f, 1.0 - f
    return (
        (1.0, up, 0.0),
        (down, 1.0, 0.0),
        (0.0, 1.0, up),
        (0.0, down, 1.0),
        (up, 0.0, 1.0),
        (1.0, 0.0, down),
    )[i % 6]


_HAND_COLOURS = tuple(_hue(e, len(_HAND_EDGES)) for e in range(len(_HAND_EDGES)))
# Jaw and nose are never drawn.
_FACE_POINTS = (*range(17, 27), *range(36, 68))


class Drawer:
    """Draws poses of one picture size on one reused canvas.

    Poses are drawn large and reduced bilinearly without antialiasing, thin dashes and
    all: published weights know them so. Limbs get the colour that dimming the canvas
    after them would leave, and only the box that a pose touches is cleared.

    Args:
      height, width: of the pictures.
      canvas_side: short side of the canvas; CANVAS_SIDE for published weights, less for
        small pictures, where a figure would break into dots.
    Source: section 4 of the released data page.
    """

    def __init__(self, height: int, width: int, canvas_side: int = CANVAS_SIDE):
        ratio = canvas_side / min(height, width)
        self._size = (width, height)
        self._height, self._width = int(height * ratio), int(width * ratio)
        self._canvas = np.zeros((self._height, self._width, 3), np.uint8)
        factor = _factor(max(self._height, self._width))
        self._stick, self._thin = int(3 * factor), int(2 * factor)
        self._box = _Box(self._height, self._width)

    def __call__(self, pose: Pose, style: Style = Style()) -> np.ndarray:  # noqa: B008
        """[height, width, 3] uint8, RGB."""
        score = pose.body_score.astype(np.float64).copy()
        if style.light_head:
            score[list(_HEAD)] = -2
        points = pose.body.astype(np.float64) * (self._width, self._height)
        self._limbs(points, score, pose.body_visible)
        self._joints(points, score, pose.body_visible)
        for hand, hand_score in zip(pose.hands, pose.hands_score, strict=True):
            self._hand(hand * (self._width, self._height), hand_score)
        if style.face:
            face = pose.face * (self._width, self._height)
            self._face(face, pose.face_score, style.light_face)
        picture = cv2.resize(self._canvas, self._size)
        self._box.blacken(self._canvas)
        return picture

    def _limbs(
        self,
        points: np.ndarray,
        score: np.ndarray,
        visible: np.ndarray,
        shades: np.ndarray = _DIM,
    ) -> None:
        for colour, (a, b) in zip(_COLOURS, _LIMBS, strict=False):
            if not (visible[a] and visible[b]):
                continue
            both = score[a] > 0 and score[b] > 0
            alpha = score[a] * score[b] if both else _WEAK_LIMB
            dx, dy = points[a] - points[b]
            centre = [int(c) for c in (points[a] + points[b]) / 2]
            length, angle = math.hypot(dx, dy), math.degrees(math.atan2(dy, dx))
            axes = (int(length / 2), self._stick)
            polygon = np.asarray(cv2.ellipse2Poly(centre, axes, int(angle), 0, 360, 1))
            shade = [int(shades[min(int(c * alpha), 255)]) for c in colour]
            cv2.fillConvexPoly(self._canvas, polygon, shade)
            left, top = polygon.min(axis=0).tolist()
            right, bottom = polygon.max(axis=0).tolist()
            self._box.add(left, top, right, bottom, 3)

    def _joints(
        self, points: np.ndarray, score: np.ndarray, visible: np.ndarray
    ) -> None:
        for j, (x, y) in enumerate(points.astype(np.int64).tolist()):
            if visible[j]:
                alpha = max(score[j], 0)
                self._dot(x, y, self._stick, [int(c * alpha) for c in _COLOURS[j]])

    def _hand(self, points: np.ndarray, score: np.ndarray) -> None:
        whole, scores = points.astype(np.int64).tolist(), score.tolist()
        drawn = [
            s >= VISIBLE and x > 0 and y > 0
            for (x, y), s in zip(whole, scores, strict=True)
        ]
        for e, (a, b) in enumerate(_HAND_EDGES):
            if not (drawn[a] and drawn[b]):
                continue
            strength = int(score[a] * score[b] * 255)
            colour = [c * strength for c in _HAND_COLOURS[e]]
            cv2.line(self._canvas, whole[a], whole[b], colour, thickness=self._thin)
            for end in (whole[a], whole[b]):
                x, y = end
                self._box.add(x, y, x, y, self._thin + 3)
        for (x, y), s, seen in zip(whole, scores, drawn, strict=True):
            if seen:
                self._dot(x, y, self._thin, (0, 0, int(255 * s)))

    def _face(self, points: np.ndarray, score: np.ndarray, light: bool) -> None:
        whole, scores = points.astype(np.int64).tolist(), score.tolist()
        for j in _FACE_POINTS:
            (x, y), s = whole[j], scores[j]
            if s < VISIBLE or x <= 0 or y <= 0:
                continue
            value = int(255 * s)
            if light:
                value = int(_LIGHT_FACE * value)
            self._dot(x, y, self._thin, (value,) * 3)

    def _dot(self, x: int, y: int, radius: int, colour) -> None:
        cv2.circle(self._canvas, (x, y), radius, colour, thickness=-1)
        self._box.add(x, y, x, y, radius + 3)


class _Box:
    """Union of everything drawn so far, clipped to the canvas."""

    def __init__(self, height: int, width: int):
        self._limits = (width, height)
        self.clear()

    def clear(self) -> None:
        self._left = self._top = 1 << 40
        self._right = self._bottom = -(1 << 40)

    def add(self, left: int, top: int, right: int, bottom: int, margin: int) -> None:
        """Points from (left, top) to (right, bottom), both inside, with a margin."""
        self._left = min(self._left, left - margin)
        self._top = min(self._top, top - margin)
        self._right = max(self._right, right + margin + 1)
        self._bottom = max(self._bottom, bottom + margin + 1)

    def blacken(self, canvas: np.ndarray) -> None:
        """Zeroes the canvas inside the box, and forgets the box."""
        width, height = self._limits
        left, top = max(0, self._left), max(0, self._top)
        right, bottom = min(width, self._right), min(height, self._bottom)
        if left < right and top < bottom:
            canvas[top:bottom, left:right] = 0
        self.clear()
