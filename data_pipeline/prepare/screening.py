"""Which clips are good enough to train on, and why the others are not."""

import dataclasses

import numpy as np

from data_pipeline.prepare.survey import Survey
from onetoall_jax.errors import UserError
from onetoall_jax.pose.keypoints import BODY, FACE, LEFT_HAND, RIGHT_HAND, VISIBLE


@dataclasses.dataclass(frozen=True)
class ScreenConfig:
    """Thresholds; a clip that misses one is left out with the reason.

    Attributes:
      shot_change: how different neighbouring frames of a cut are, 0..1.
      longest, shortest: frames of a clip; a longer shot is cut into even parts.
      smallest_side: of the frames, in pixels.
      widest: long side over short side of the frames.
      seen: share of frames in which a person was found.
      alone: share of frames with no more than one person, where they were counted.
      person_height: of the person's box, as a share of the frame's height.
      sharpness: variance of the Laplacian at 256 rows, median over the clip.
      text: share of the frame that text covers, mean over the clip.
      duplicate_bits, duplicate_colour: two clips are the same if their marks differ in
        at most so many bits of 64, and by so much of 255 in colour; -1 keeps all.
    """

    shot_change: float = 0.35
    longest: int = 240
    shortest: int = 9
    smallest_side: int = 32
    widest: float = 5.0
    seen: float = 0.8
    alone: float = 0.8
    person_height: float = 0.2
    sharpness: float = 10.0
    text: float = 0.5
    duplicate_bits: int = 2
    duplicate_colour: int = 8

    def __post_init__(self) -> None:
        # A row of one frame is a picture, one of two is a pair of pictures.
        if not 3 <= self.shortest <= self.longest:
            raise UserError(
                f"Clips of {self.shortest} to {self.longest} frames cannot be made: "
                "--shortest must be 3 or more, --longest no less."
            )


@dataclasses.dataclass(frozen=True)
class Measures:
    """What is known of a clip; shares are of its frames.

    Attributes:
      seen: with a person; head, hands: with a face, with both hands.
      alone: with no more than one person; None where nobody counted.
      person_height: median height of the person's box over the frame's height.
      sharpness: median.
      text: share of the frame that text covers, mean; None where nobody looked.
    """

    seen: float
    head: float
    hands: float
    alone: float | None
    person_height: float
    sharpness: float
    text: float | None


def measure(
    survey: Survey,
    keypoints: np.ndarray,
    people: np.ndarray,
    text: list[list[list[float]]] | None,
    first: int,
    end: int,
) -> Measures:
    """Measures of frames first .. end - 1.

    Args:
      keypoints: [F,133,3] of the whole file; people: [F], found in each frame, -1 where
        nobody counted; text: boxes of each frame, or None.
    """
    points, found = keypoints[first:end], people[first:end]
    score = points[..., 2]
    visible = score[:, BODY] > VISIBLE
    seen = visible.any(axis=1) & (found != 0)
    inside = np.clip(points[:, BODY, 1], 0, survey.height)  # detectors guess on
    y = np.where(visible, inside, np.nan)
    heights = [np.ptp(row[~np.isnan(row)]) for row in y if not np.isnan(row).all()]
    hands = np.minimum(score[:, LEFT_HAND].mean(1), score[:, RIGHT_HAND].mean(1))
    covered = None
    if text is not None:
        area = survey.height * survey.width
        shares = [_area(boxes) / area for boxes in text[first:end]]
        covered = float(np.mean(np.minimum(shares, 1.0)))
    return Measures(
        seen=float(seen.mean()),
        head=float((score[:, FACE].mean(axis=1) > VISIBLE).mean()),
        hands=float((hands > VISIBLE).mean()),
        alone=float((found <= 1).mean()) if (found >= 0).all() else None,
        person_height=float(np.median(heights)) / survey.height if heights else 0.0,
        sharpness=float(np.median(survey.sharpness[first:end])),
        text=covered,
    )


def _area(boxes: list[list[float]]) -> float:
    return sum(abs((x2 - x1) * (y2 - y1)) for x1, y1, x2, y2 in boxes)


def reason(config: ScreenConfig, survey: Survey, found: Measures) -> str | None:
    """Why a clip is left out; None where it is kept. Duplicates are found later."""
    short, long = sorted((survey.height, survey.width))
    if short < config.smallest_side:
        return "too small"
    if long > config.widest * short:
        return "too narrow"
    if found.seen < config.seen:
        return "no person" if found.seen == 0 else "person often out of sight"
    if found.alone is not None and found.alone < config.alone:
        return "several people"
    if found.person_height < config.person_height:
        return "person too small"
    if found.sharpness < config.sharpness:
        return "blurred"
    if found.text is not None and found.text > config.text:
        return "covered with text"
    return None
