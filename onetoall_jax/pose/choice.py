"""Which of several people is meant, and where that person is in the next frame."""

import re
from collections.abc import Sequence

import numpy as np

from onetoall_jax.errors import UserError

ONLY, LARGEST = "only", "largest"
_RIVAL = 0.25  # of the largest one's area: smaller people are passers-by
_FOLLOWED = 0.1  # overlap from which a box is the person of the frame before


def check(person: str) -> None:
    """Raises UserError unless `person` is "only", "largest", a number or a box."""
    if person not in (ONLY, LARGEST) and not person.isdigit():
        _box(person)


def choose(person: str, boxes: np.ndarray, where: str) -> int:
    """Index of the person meant in the first frame that shows anybody.

    Args:
      person: "only" refuses a choice, "largest" takes the largest box, a number counts
        from the left, "x0,y0,x1,y1" (pixels) takes the box that overlaps it most.
      boxes: [n,4], n > 0, x0, y0, x1, y1 in pixels.
      where: the file, for messages.
    Raises:
      UserError: several people and no choice, or nobody there.
    """
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    order = np.argsort(boxes[:, 0])
    if person == ONLY:
        rivals = [i for i in order if areas[i] >= _RIVAL * areas.max()]
        if len(rivals) > 1:
            shown = "; ".join(
                f"{list(order).index(i)} at {','.join(str(round(v)) for v in boxes[i])}"
                for i in rivals
            )
            raise UserError(
                f"{where} shows {len(rivals)} people ({shown}): say which with "
                "--person=NUMBER, --person=x0,y0,x1,y1 or --person=largest."
            )
    if person in (ONLY, LARGEST):
        return int(areas.argmax())
    if person.isdigit():
        if int(person) >= len(boxes):
            raise UserError(
                f"{where} shows {len(boxes)} people, counted from 0 at the left: there "
                f"is no --person={person}."
            )
        return int(order[int(person)])
    shares = overlaps(_box(person), boxes)
    if shares.max() <= 0:
        raise UserError(f"{where} shows nobody in the box --person={person}.")
    return int(shares.argmax())


def follow(box: np.ndarray, boxes: np.ndarray) -> int | None:
    """Index of the box [n,4] that overlaps the last one most; None where none does."""
    if not len(boxes):
        return None
    shares = overlaps(box, boxes)
    return int(shares.argmax()) if shares.max() >= _FOLLOWED else None


def overlaps(box: Sequence[float] | np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Intersection over union of a box [4] with each of [n,4]."""
    one = np.asarray(box, np.float64)
    low, high = np.maximum(one[:2], boxes[:, :2]), np.minimum(one[2:], boxes[:, 2:])
    shared = np.maximum(high - low, 0).prod(axis=1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1) + (one[2:] - one[:2]).prod()
    return shared / np.maximum(areas - shared, 1e-9)


def around(points: np.ndarray, size: tuple[int, int], margin: float) -> np.ndarray:
    """[4]: the box of points [n,3] that were seen, wider by a share of its longer side.

    Args:
      size: height and width of the frame, which cuts the box.
    """
    seen = points[points[:, 2] > 0, :2]
    low, high = seen.min(axis=0), seen.max(axis=0)
    wider = margin * (high - low).max()
    limit = np.array(size[::-1], np.float64)
    corners = np.clip(low - wider, 0, limit), np.clip(high + wider, 0, limit)
    return np.concatenate(corners)


def _box(text: str) -> np.ndarray:
    numbers = re.fullmatch(r"(\d+),(\d+),(\d+),(\d+)", text.replace(" ", ""))
    if numbers is None:
        raise UserError(
            f"--person={text} is neither 'only', 'largest', a number nor a box "
            "x0,y0,x1,y1 in pixels."
        )
    box = np.array([int(v) for v in numbers.groups()], np.float64)
    if (box[2:] <= box[:2]).any():
        raise UserError(f"--person={text} is an empty box: write x0,y0,x1,y1.")
    return box
