"""Synthetic people of known bone lengths, standing and moving, cut by a frame."""

import dataclasses

import numpy as np

SIZE = (320, 240)


@dataclasses.dataclass(frozen=True)
class Body:
    """Lengths in units of an average person's height."""

    head: float = 0.075
    neck: float = 0.09
    shoulders: float = 0.24
    trunk: float = 0.31
    hips: float = 0.15
    upper_arm: float = 0.165
    forearm: float = 0.15
    thigh: float = 0.245
    shin: float = 0.23


BODIES = {
    "average": Body(),
    "child": Body(head=0.12, neck=0.14, shoulders=0.2, trunk=0.3, upper_arm=0.11,
                  forearm=0.1, thigh=0.14, shin=0.13),
    "broad": Body(shoulders=0.34, hips=0.22, neck=0.07),
    "lanky": Body(shoulders=0.2, trunk=0.26, upper_arm=0.2, forearm=0.19, thigh=0.3,
                  shin=0.29),
}  # fmt: skip
# Framing -> (height of an average person, where the shoulders stand), in frames.
FRAMINGS = {"whole": (0.78, 0.25), "hips": (1.5, 0.4), "shoulders": (1.9, 0.75)}


def _turned(vector, angle):
    c, s = np.cos(angle), np.sin(angle)
    return np.array([c * vector[0] - s * vector[1], s * vector[0] + c * vector[1]])


def keypoints(kind: str, framing: str, seconds: float | None = None) -> np.ndarray:
    """[133,3] pixels of a person that stands still, or dances at that time.

    Limbs turn in the picture's plane, so their lengths stay. Points outside the frame
    have a low score, as detectors give them.
    """
    b = BODIES[kind]
    scale, line = FRAMINGS[framing]
    wave = (lambda k: 0.0) if seconds is None else (lambda k: np.sin(k + 2 * seconds))
    lean = 0.08 * wave(0)
    points = np.ones((133, 3))

    def put(index, xy):
        points[index, :2] = xy

    neck = np.zeros(2)
    for i, (side, offset) in enumerate(((1, 0), (-1, 1))):  # our right is their left
        shoulder = neck + _turned((side * b.shoulders / 2, 0), lean)
        hip = neck + _turned((side * b.hips / 2, b.trunk), lean)
        arm = -side * (0.35 + 0.5 * (1 + wave(1 + i)) * (seconds is not None))
        elbow = shoulder + _turned((0, b.upper_arm), arm)
        wrist = elbow + _turned((0, b.forearm), arm * (1.2 + 0.4 * wave(2 + i)))
        leg = -side * (0.1 + 0.12 * (1 + wave(3 + i)))
        knee = hip + _turned((0, b.thigh), leg)
        ankle = knee + _turned((0, b.shin), 0.3 * leg)
        for index, xy in ((5, shoulder), (7, elbow), (9, wrist), (11, hip),
                          (13, knee), (15, ankle)):  # fmt: skip
            put(index + offset, xy)
        for k in range(3):
            put(17 + 3 * offset + k, ankle + (side * 0.01 * (k + 1), 0.03))
        hand = 91 + 21 * offset
        for k in range(21):
            put(hand + k, wrist + _turned((0.002 * (k % 5 - 2), 0.003 * k), arm))
        for index, x, y in ((1, 0.38, -0.22), (3, 0.95, -0.1)):
            at = neck + _turned((side * x * b.head, y * b.head - b.neck), lean)
            put(index + offset, at)
    put(0, neck + _turned((0, -b.neck), lean))
    angles = np.linspace(0, 2 * np.pi, 68, endpoint=False)
    ring = b.head * np.stack([0.8 * np.cos(angles), 0.9 * np.sin(angles)], -1)
    points[23:91, :2] = ring + points[0, :2]
    height, width = SIZE
    points[:, :2] = points[:, :2] * scale * height + (width / 2, line * height)
    out = (points[:, :2] < 0).any(1) | (points[:, :2] >= (width, height)).any(1)
    points[out, 2] = 0.1
    return points
