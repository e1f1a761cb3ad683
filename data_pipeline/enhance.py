"""Face-region enhancement: a clip's head takes proportions of somebody else's.

So a model learns that a driving face need not be the reference's. Poses come from a
pool of key points; only what is drawn of head and face changes, and is then drawn
lighter.

Source: section 6 of the released data page.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from data_pipeline.settings import AugmentConfig
from onetoall_jax.pose.keypoints import Pose, to_pose

_SURE = 0.5
_TINY = 1e-6
_EYES = (slice(36, 42), slice(42, 48))
_BONES = ((0, 1), (0, 14), (0, 15), (14, 16), (15, 17))


@dataclasses.dataclass(frozen=True)
class Draws:
    """Random choices of one clip.

    Attributes:
      limb, face: in [0, 1); decide whether the head's bones and the face change.
      strength: in [0, 0.8], of the bones' change.
      face_strength: called for every frame, in [0.5, 1].
      push: called for every proportion near 1, in [0, 1); decides whether it stays.
    """

    limb: float
    face: float
    strength: float
    face_strength: Callable[[], float]
    push: Callable[[], float]


def draw(seed: int, epoch: int, row: int, *, every_frame: bool = False) -> Draws:
    """Choices of a row in an epoch.

    Args:
      every_frame: draw strength and pushes for each frame, as the release does by
        accident: faces then jitter. Else every frame of a clip gets the same.
    """
    rng = np.random.default_rng([seed, epoch, row, 2])
    limb, face, strength, face_strength, push = rng.random(5).tolist()
    if every_frame:
        return Draws(
            limb,
            face,
            0.8 * strength,
            lambda: float(rng.uniform(0.5, 1)),
            lambda: float(rng.random()),
        )
    return Draws(
        limb, face, 0.8 * strength, lambda: 0.5 + 0.5 * face_strength, lambda: push
    )


def pool_pose(keypoints: np.ndarray, height: int, width: int, aspect: float) -> Pose:
    """A pool's pose padded to the clip's aspect (height over width)."""
    padded_height, padded_width = float(height), float(width)
    if abs(height / width - aspect) >= 1e-6:
        if aspect > height / width:
            padded_height = width * aspect
        else:
            padded_width = height / aspect
    moved = keypoints.astype(np.float64)
    moved[:, 0] += (padded_width - width) / 2
    moved[:, 1] += (padded_height - height) / 2
    return to_pose(moved, padded_height, padded_width)


def aligned(pool: Pose, first: Pose) -> Pose:
    """The pool's pose scaled and moved onto the clip's first frame.

    The body is computed in float32 throughout, as released; face and hands are not.
    """
    p, d = pool.body.astype(np.float32), first.body.astype(np.float32)

    def seen(*joints: int) -> bool:
        scores = [pose.body_score[list(joints)] for pose in (pool, first)]
        return all((s >= _SURE).all() for s in scores)

    def quotient(of_d: np.floating, of_p: np.floating) -> np.floating:
        return np.float32(1) if of_p <= _TINY else of_d / of_p

    def torso(b: np.ndarray) -> np.floating:
        return abs((b[8, 1] + b[11, 1]) / 2 - (b[2, 1] + b[5, 1]) / 2)

    if seen(2, 5) and seen(8, 11):
        across = quotient(abs(d[5, 0] - d[2, 0]), abs(p[5, 0] - p[2, 0]))
        ratio = np.array([across, quotient(torso(d), torso(p))])
    else:
        i, j = (2, 5) if seen(2, 5) else (16, 17)
        far = [np.linalg.norm(b[i] - b[j]) for b in (d, p)]
        ratio = np.repeat(quotient(far[0], far[1]), 2)
    neck = p[1]

    def moved(points: np.ndarray) -> np.ndarray:
        return neck + (points - neck) * ratio + (d[1] - neck)

    return pool._replace(body=moved(p), hands=moved(pool.hands), face=moved(pool.face))


def changed(
    poses: Sequence[Pose],
    other: Pose,
    draws: Draws,
    chances: AugmentConfig = AugmentConfig(),  # noqa: B008
) -> tuple[list[Pose], bool, bool]:
    """(poses with the other's head, did bones change, did the face change).

    Args:
      other: of `aligned`.
    """
    limb, face = draws.limb < chances.change_bones, draws.face < chances.change_face
    keep, ratios = chances.keep_alike, {}
    if limb:
        ratios = _bone_ratios(other.body, poses[0].body, draws, keep)
    made = []
    for pose in poses:
        body = _with_bones(pose.body, ratios)
        points = pose.face
        if limb or face:
            points = _with_face(pose.face, other.face, body[0], draws, keep)
        made.append(pose._replace(body=body, face=points))
    return made, limb, face


def _pushed(t: float, draws: Draws, keep: float) -> float:
    """A proportion near 1 is hardly a change, so most are moved away from it."""
    if not 0.9 < t < 1.1 or draws.push() <= keep:
        return t
    return max(1.1, 1.2 * t) if t >= 1 else min(0.9, t / 1.2)


def _bone_ratios(
    other: np.ndarray, own: np.ndarray, draws: Draws, keep: float
) -> dict[tuple[int, int], float]:
    made = {}
    for i, j in _BONES:
        theirs, ours = (float(np.linalg.norm(b[i] - b[j])) for b in (other, own))
        if min(theirs, ours) <= _TINY:
            made[i, j] = 1.0  # nothing to compare, and no draw
            continue
        t = _pushed(min(max(theirs / ours, 0.5), 2.0), draws, keep)
        made[i, j] = (1 - draws.strength) + draws.strength * t
    return made


def _with_bones(body: np.ndarray, ratios: dict[tuple[int, int], float]) -> np.ndarray:
    if not ratios:
        return body
    c = body.copy()
    for (i, j), inner, outer, joints in (
        ((0, 1), 1, 0, (0, 14, 15, 16, 17)),
        ((0, 14), 0, 14, (14, 16)),
        ((0, 15), 0, 15, (15, 17)),
        ((14, 16), 14, 16, (16,)),
        ((15, 17), 15, 17, (17,)),
    ):
        c[list(joints)] += (c[inner] - c[outer]) * (1 - ratios[i, j])
    return c


def _anchors(face: np.ndarray) -> np.ndarray:
    """Eyes, tip of the nose and corners of the mouth, [5,2]."""
    return np.stack([*(face[e].mean(axis=0) for e in _EYES), *face[[30, 48, 54]]])


def _with_face(
    own: np.ndarray, other: np.ndarray, nose: np.ndarray, draws: Draws, keep: float
) -> np.ndarray:
    def stretch(i: int, j: int) -> float:
        ours = float(np.linalg.norm(own[i] - own[j]))
        return (
            float(np.linalg.norm(other[i] - other[j])) / ours if ours > _TINY else 1.0
        )

    strength = draws.face_strength()
    across, down = stretch(36, 45), stretch(33, 8)
    scale = np.array([_pushed(across, draws, keep), _pushed(down, draws, keep)])
    middle = _anchors(own).mean(axis=0)
    made = middle + (own - middle) * ((1 - strength) + strength * scale)
    made = made + (nose - made[30])
    made[:17] = _affine(_ordered(_anchors(other)), _ordered(_anchors(made)), other[:17])
    return made


def _ordered(anchors: np.ndarray) -> np.ndarray:
    """The same with the eye on the picture's left first."""
    return anchors if anchors[0, 0] <= anchors[1, 0] else anchors[[1, 0, 2, 3, 4]]


def _affine(before: np.ndarray, after: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points under the affine map that takes `before` to `after` best."""
    whole = np.concatenate([before, np.ones((len(before), 1))], axis=1)
    matrix = np.linalg.lstsq(whole, after, rcond=None)[0]
    return np.concatenate([points, np.ones((len(points), 1))], axis=1) @ matrix
