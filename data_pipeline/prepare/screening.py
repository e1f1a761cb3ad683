"""Which clips are good enough to train on, and why the others are not."""

import dataclasses

import numpy as np

from data_pipeline.prepare.survey import Survey
from onetoall_jax.pose.keypoints import BODY, FACE, LEFT_HAND, RIGHT_HAND, VISIBLE


@dataclasses.dataclass(frozen=True)
class ScreenConfig:
    """Thresholds; a clip that misses one is left out with the reason.

    Attributes:
      shot_change: how different neighbouring frames of a cut are, 0..1.
      longest, shortest: frames of a clip; a longer shot is cut into even parts.
      smallest_side: of the frames, in pixels.
      seen: share of frames in which a person was found.
      person_height: of the person's box, as a share of the frame's height.
      sharpness: variance of the Laplacian at 256 rows, median over the clip.
      duplicate_bits: clips whose fingerprints differ in at most so many bits of 64 are
        the same; -1 keeps all.
    """

    shot_change: float = 0.35
    longest: int = 240
    shortest: int = 9
    smallest_side: int = 32
    seen: float = 0.8
    person_height: float = 0.2
    sharpness: float = 10.0
    duplicate_bits: int = 2


@dataclasses.dataclass(frozen=True)
class Measures:
    """What is known of a clip; shares are of its frames.

    Attributes:
      seen: with a person; head, hands: with a face, with both hands.
      person_height: median height of the person's box over the frame's height.
      sharpness: median.
      fingerprint: see `survey.fingerprint`.
    """

    seen: float
    head: float
    hands: float
    person_height: float
    sharpness: float
    fingerprint: int


def measure(
    survey: Survey, keypoints: np.ndarray, first: int, end: int, fingerprint: int
) -> Measures:
    """Measures of frames first .. end - 1; keypoints [F,133,3] of the whole file."""
    points = keypoints[first:end]
    score = points[..., 2]
    visible = score[:, BODY] > VISIBLE
    seen = visible.any(axis=1)
    inside = np.clip(points[:, BODY, 1], 0, survey.height)  # detectors guess on
    y = np.where(visible, inside, np.nan)
    heights = [np.ptp(row[~np.isnan(row)]) for row in y if not np.isnan(row).all()]
    hands = np.minimum(score[:, LEFT_HAND].mean(1), score[:, RIGHT_HAND].mean(1))
    return Measures(
        seen=float(seen.mean()),
        head=float((score[:, FACE].mean(axis=1) > VISIBLE).mean()),
        hands=float((hands > VISIBLE).mean()),
        person_height=float(np.median(heights)) / survey.height if heights else 0.0,
        sharpness=float(np.median(survey.sharpness[first:end])),
        fingerprint=fingerprint,
    )


def reason(config: ScreenConfig, survey: Survey, found: Measures) -> str | None:
    """Why a clip is left out; None where it is kept. Duplicates are found later."""
    if min(survey.height, survey.width) < config.smallest_side:
        return "too small"
    if found.seen < config.seen:
        return "no person" if found.seen == 0 else "person often out of sight"
    if found.person_height < config.person_height:
        return "person too small"
    if found.sharpness < config.sharpness:
        return "blurred"
    return None
