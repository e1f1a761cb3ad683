"""A procedural person: limbs by joint angles, clothes, and exact whole-body points."""

import dataclasses
import functools
import math

import cv2
import numpy as np

from onetoall_jax.pose.keypoints import COUNT

_SUPERSAMPLE = 3
_SHIFT = 4  # sub-pixel bits of OpenCV's drawing
_UNIT = _SUPERSAMPLE << _SHIFT


@dataclasses.dataclass(frozen=True)
class Character:
    """Proportions in units of the figure's height, colours as RGB."""

    height: float
    shoulders: float
    hips: float
    head: float
    thickness: float
    skin: tuple[int, int, int]
    hair: tuple[int, int, int]
    shirt: tuple[int, int, int]
    sleeves: tuple[int, int, int]
    trousers: tuple[int, int, int]
    shoes: tuple[int, int, int]
    long_hair: bool


def character(rng: np.random.Generator) -> Character:
    """A random person; clothes contrast in brightness more often than not."""

    def colour(low: int = 20, high: int = 240) -> tuple[int, int, int]:
        r, g, b = (int(v) for v in rng.integers(low, high, 3))
        return r, g, b

    tone = rng.uniform(0.35, 1.0)
    skin = tuple(int(tone * v) for v in (245, 205, 175))
    shirt = colour()
    return Character(
        height=rng.uniform(0.72, 0.9),
        shoulders=rng.uniform(0.20, 0.27),
        hips=rng.uniform(0.13, 0.18),
        head=rng.uniform(0.065, 0.085),
        thickness=rng.uniform(0.055, 0.08),
        skin=skin,  # type: ignore[arg-type]
        hair=colour(10, 160),
        shirt=shirt,
        sleeves=shirt if rng.random() < 0.7 else skin,  # type: ignore[arg-type]
        trousers=colour(),
        shoes=colour(10, 120),
        long_hair=bool(rng.random() < 0.4),
    )


@dataclasses.dataclass(frozen=True)
class Motion:
    """Joint angles over time: base + swing * sin(2 pi (rate * t + phase)).

    Angles in radians from straight down, positive to the picture's right; order: upper
    arm and forearm of the picture's left, of its right, thigh and shin likewise.
    Travel, sway and bounce are in units of the figure's height.
    """

    base: np.ndarray
    swing: np.ndarray
    rate: float
    phase: np.ndarray
    travel: float
    sway: float
    bounce: float
    lean: float


def motion(rng: np.random.Generator) -> Motion:
    """One of walking, waving, dancing, squatting, with random sizes."""
    kind = rng.choice(["walk", "wave", "dance", "squat"])
    base = np.array([-0.25, 0.1, 0.25, -0.1, -0.08, 0.0, 0.08, 0.0])
    swing = np.zeros(8)
    phase = np.zeros(8)
    if kind == "walk":
        swing[:] = (0.5, 0.3, 0.5, 0.3, 0.35, 0.35, 0.35, 0.35)
        phase[:] = (0, 0.1, 0, 0.1, 0.5, 0.65, 0.5, 0.65)
    elif kind == "wave":
        arm = 2 * int(rng.integers(2))
        side = -1 if arm == 0 else 1
        base[arm : arm + 2] = side * rng.uniform(1.7, 2.4), side * rng.uniform(2.2, 3.0)
        swing[arm : arm + 2] = rng.uniform(0.2, 0.5), rng.uniform(0.5, 0.9)
    elif kind == "dance":
        base[:4] = rng.uniform(-2.2, 2.2, 4)
        base[0], base[2] = -abs(base[0]), abs(base[2])
        swing[:4] = rng.uniform(0.4, 1.1, 4)
        swing[4:] = rng.uniform(0.05, 0.3, 4)
        phase[:] = rng.uniform(0, 1, 8)
    else:
        base[4:] += (-0.35, 0.35, 0.35, -0.35)
        swing[4:] = (0.3, 0.35, -0.3, -0.35)
        base[:4] = (-1.2, -1.5, 1.2, 1.5)
        swing[:4] = rng.uniform(0.2, 0.5, 4)
    return Motion(
        base + rng.normal(0, 0.08, 8),
        swing * rng.uniform(0.8, 1.3),
        rate=rng.uniform(0.5, 1.1),
        phase=phase + rng.uniform(),
        travel=rng.uniform(0, 0.12),
        sway=rng.uniform(0, 0.05),
        bounce=rng.uniform(0, 0.02),
        lean=rng.normal(0, 0.05),
    )


@dataclasses.dataclass(frozen=True)
class Joints:
    """Points in pixels; pairs are (picture's left, picture's right)."""

    head: np.ndarray
    neck: np.ndarray
    shoulders: np.ndarray
    elbows: np.ndarray
    wrists: np.ndarray
    hips: np.ndarray
    knees: np.ndarray
    ankles: np.ndarray
    scale: float  # the figure's height in pixels


def joints(
    who: Character, how: Motion, seconds: float, centre_x: float, feet_y: float,
    scale: float,
) -> Joints:  # fmt: skip
    """Where the joints are `seconds` into the motion.

    Args:
      centre_x, feet_y: where the figure stands, in pixels.
      scale: its height in pixels when standing straight.
    """
    wave = np.sin(2 * np.pi * (how.rate * seconds + how.phase))
    angle = how.base + how.swing * wave
    down = np.stack([np.sin(angle), np.cos(angle)], axis=-1)
    thighs, shins = 0.245 * down[[4, 6]], 0.23 * down[[5, 7]]
    beat = 2 * np.pi * how.rate * seconds
    leg = (thighs + shins)[:, 1].max()
    walked = how.travel * math.sin(0.5 * beat)
    pelvis = np.array(
        [
            walked + how.sway * math.sin(beat),
            -0.035 - leg - how.bounce * abs(math.sin(beat)),
        ]
    )
    turn = how.lean + 0.5 * how.sway * math.sin(beat)
    up = np.array([math.sin(turn), -math.cos(turn)])
    neck = pelvis + 0.31 * up
    half = np.array([[-0.5, 0.0], [0.5, 0.0]])
    shoulders = neck + who.shoulders * half + (0, 0.02)
    hips = pelvis + who.hips * half
    elbows = shoulders + 0.165 * down[[0, 2]]
    wrists = elbows + 0.15 * down[[1, 3]]
    knees = hips + thighs

    def place(points: np.ndarray) -> np.ndarray:
        return points * scale + (centre_x, feet_y)

    head = neck + (0.03 + who.head) * up
    return Joints(
        head=place(head),
        neck=place(neck),
        shoulders=place(shoulders),
        elbows=place(elbows),
        wrists=place(wrists),
        hips=place(hips),
        knees=place(knees),
        ankles=place(knees + shins),
        scale=scale,
    )


@functools.cache
def _unit_face() -> np.ndarray:
    """68 face points on a head of radius 1 at the origin, in the usual order."""

    def arc(n: int, start: float, stop: float, rx: float, ry: float) -> np.ndarray:
        a = np.linspace(start, stop, n)
        return np.stack([rx * np.cos(a), ry * np.sin(a)], axis=-1)

    def ring(x: float, y: float, rx: float, ry: float, n: int, first: float):
        a = first + np.arange(n) * 2 * np.pi / n
        return np.stack([x + rx * np.cos(a), y + ry * np.sin(a)], axis=-1)

    jaw = arc(17, np.pi * 1.05, -np.pi * 0.05, 0.85, 0.95)
    brow_l = np.stack([np.linspace(-0.65, -0.2, 5), np.full(5, -0.42)], axis=-1)
    brow_r = brow_l[::-1] * (-1, 1)
    ridge = np.stack([np.zeros(4), np.linspace(-0.25, 0.1, 4)], axis=-1)
    base = np.stack([np.linspace(-0.15, 0.15, 5), np.full(5, 0.2)], axis=-1)
    eye_l = ring(-0.38, -0.22, 0.14, 0.07, 6, np.pi)
    eye_r = ring(0.38, -0.22, 0.14, 0.07, 6, np.pi)
    mouth = ring(0, 0.5, 0.3, 0.12, 12, np.pi)
    inner = ring(0, 0.5, 0.2, 0.05, 8, np.pi)
    parts = (jaw, brow_l, brow_r, ridge, base, eye_l, eye_r, mouth, inner)
    return np.concatenate(parts)


_FINGERS = np.array([(-0.7, 0.7), (-0.3, 1), (0.0, 1.05), (0.25, 1), (0.5, 0.85)])
_JOINTS_ALONG = np.array((0.4, 0.65, 0.85, 1.0))


def _hand(wrist: np.ndarray, elbow: np.ndarray, size: float) -> np.ndarray:
    """21 points: wrist, then four along each of five spread fingers."""
    x, y = wrist - elbow
    angle = math.atan2(y, x) + _FINGERS[:, 0]
    tips = size * _FINGERS[:, 1:] * np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    fingers = wrist + _JOINTS_ALONG[:, None] * tips[:, None]
    return np.concatenate([wrist[None], fingers.reshape(20, 2)])


def keypoints(who: Character, at: Joints) -> np.ndarray:
    """COCO-WholeBody points [133,3] of a figure that faces us (its left is our right).

    Every score is 1: nothing is guessed.
    """
    points = np.ones((COUNT, 3), np.float32)
    radius = who.head * at.scale
    eyes = at.head + radius * np.array([[0.38, -0.22], [-0.38, -0.22]])
    ears = at.head + radius * np.array([[0.95, -0.1], [-0.95, -0.1]])
    body = [at.head + (0, 0.1 * radius), *eyes, *ears]
    for pair in (at.shoulders, at.elbows, at.wrists, at.hips, at.knees, at.ankles):
        body += [pair[1], pair[0]]
    foot = 0.06 * at.scale
    feet = []
    for side, ankle in ((1, at.ankles[1]), (-1, at.ankles[0])):
        feet += [
            ankle + (side * 0.3 * foot, foot * 0.5),
            ankle + (side * 0.7 * foot, foot * 0.45),
            ankle + (-side * 0.2 * foot, foot * 0.3),
        ]
    size = 0.075 * at.scale
    left, right = (_hand(at.wrists[i], at.elbows[i], size) for i in (1, 0))
    points[:, :2] = np.concatenate(
        [body, feet, at.head + radius * _unit_face(), left, right]
    )
    return points


def _shaded(colour: tuple[int, int, int], share: float) -> tuple[int, int, int]:
    r, g, b = (int(v * share) for v in colour)
    return r, g, b


def paint(canvas: np.ndarray, who: Character, at: Joints) -> None:
    """Draws the figure on `canvas`, which is _SUPERSAMPLE times the picture's size."""

    def fixed(point: np.ndarray) -> tuple[int, int]:
        x, y = point.tolist()
        return round(x * _UNIT), round(y * _UNIT)

    def capsule(a: np.ndarray, b: np.ndarray, width: float, colour) -> None:
        thick = max(1, round(width * at.scale * _SUPERSAMPLE))
        cv2.line(canvas, fixed(a), fixed(b), colour, thick, cv2.LINE_AA, _SHIFT)

    def disc(centre: np.ndarray, radius: float, colour) -> None:
        size = round(radius * _UNIT)
        cv2.circle(canvas, fixed(centre), size, colour, -1, cv2.LINE_AA, _SHIFT)

    width = who.thickness
    radius = who.head * at.scale
    if who.long_hair:
        capsule(at.head, at.neck + (0, 0.05 * at.scale), 2.3 * who.head, who.hair)
    for i in (0, 1):
        cloth = _shaded(who.trousers, 0.82 if i else 1.0)
        capsule(at.hips[i], at.knees[i], 1.25 * width, cloth)
        capsule(at.knees[i], at.ankles[i], width, cloth)
        side = (0.03 if i else -0.03) * at.scale
        toe = at.ankles[i] + (side, 0.02 * at.scale)
        capsule(at.ankles[i], toe, 0.9 * width, who.shoes)
    corners = np.stack([at.shoulders[0], at.shoulders[1], at.hips[1], at.hips[0]])
    polygon = np.array([fixed(c) for c in corners], np.int32)
    cv2.fillConvexPoly(canvas, polygon, who.shirt, cv2.LINE_AA, _SHIFT)
    for a, b in ((0, 1), (1, 2), (2, 3), (3, 0)):
        capsule(corners[a], corners[b], 0.8 * width, who.shirt)
    capsule(at.neck, at.head, 0.8 * width, who.skin)
    disc(at.head, radius, who.skin)
    top = at.head - (0, 0.35 * radius)
    axes = [round(radius * s * _UNIT) for s in (1.02, 0.75)]
    cv2.ellipse(canvas, fixed(top), axes, 0, 180, 360, who.hair, -1, cv2.LINE_AA,
                _SHIFT)  # fmt: skip
    for x in (-0.38, 0.38):
        disc(at.head + (x * radius, -0.15 * radius), 0.13 * radius, (30, 25, 25))
    mouth = at.head + (0, 0.5 * radius)
    capsule(
        mouth - (0.25 * radius, 0), mouth + (0.25 * radius, 0), 0.012, (150, 60, 60)
    )
    for i in (0, 1):
        # Darker than the shirt: else an arm before the body cannot be seen.
        capsule(at.shoulders[i], at.elbows[i], width, _shaded(who.shirt, 0.8))
        lower = who.skin if who.sleeves == who.skin else _shaded(who.sleeves, 0.8)
        capsule(at.elbows[i], at.wrists[i], 0.85 * width, lower)
        along = at.wrists[i] - at.elbows[i]
        hand = at.wrists[i] + 0.2 * along
        capsule(at.wrists[i], hand, 0.8 * width, who.skin)


def render(background: np.ndarray, who: Character, at: Joints) -> np.ndarray:
    """The figure over a background [H,W,3] uint8, antialiased by area reduction."""
    height, width = background.shape[:2]
    large = cv2.resize(
        background,
        (width * _SUPERSAMPLE, height * _SUPERSAMPLE),
        interpolation=cv2.INTER_NEAREST,
    )
    paint(large, who, at)
    return cv2.resize(large, (width, height), interpolation=cv2.INTER_AREA)
