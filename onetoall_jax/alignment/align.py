"""Reference and driving clip brought together: whose place, whose proportions.

Source: sections 1, 4 and 6 of the released preprocessing page.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from onetoall_jax.alignment import anchor, fit, retarget
from onetoall_jax.alignment.move import Placement
from onetoall_jax.alignment.person import Person, from_clip, from_keypoints
from onetoall_jax.alignment.retarget import RetargetConfig
from onetoall_jax.errors import UserError

_SHOULDERS = [2, 5]
_SEEN = 0.5


class Mode(NamedTuple):
    """One way of bringing them together.

    Attributes:
      moves: the reference is moved onto the driving person, and what it then lacks is
        invented; else it stays as it is.
      retargets: the driving poses take the reference's proportions.
    """

    moves: bool
    retargets: bool


MODES = {
    "reference": Mode(False, False),
    "reference-retarget": Mode(False, True),
    "driving": Mode(True, False),
    "driving-retarget": Mode(True, True),
}
AUTO = "auto"


@dataclasses.dataclass(frozen=True)
class AlignConfig:
    """How a reference and a driving clip are brought together.

    Attributes:
      mode: a name in MODES, or "auto".
      anchor: driving frame that the reference is compared with; -1 looks for the one
        most like it, as the paper does.
      retarget: proportions.
    """

    mode: str = AUTO
    anchor: int = 0
    retarget: RetargetConfig = RetargetConfig()


class Aligned(NamedTuple):
    """Both, in the frame of the reference picture.

    Attributes:
      reference: the person in the picture, before any move.
      placement: the move of the picture, or None.
      driving: one person a frame.
      mode: name in MODES; reason: why, in a few words.
    """

    reference: Person
    placement: Placement | None
    driving: list[Person]
    mode: str
    reason: str


def align(
    reference_points: np.ndarray,
    size: tuple[int, int],
    driving_points: Sequence[np.ndarray] | np.ndarray,
    driving_size: tuple[int, int],
    config: AlignConfig = AlignConfig(),  # noqa: B008
) -> Aligned:
    """Aligns a driving clip with a reference.

    Args:
      reference_points: [133,3] in pixels of the picture; size: its height and width.
      driving_points: [F,133,3] in pixels of the driving frames; driving_size: theirs.
    Raises:
      UserError: an unknown mode, or an anchor that the clip does not have.
    """
    if config.mode not in (AUTO, *MODES):
        raise UserError(
            f"There is no alignment {config.mode!r}: choose from {[AUTO, *MODES]}."
        )
    if not -1 <= config.anchor < len(driving_points):
        raise UserError(
            f"The driving clip has {len(driving_points)} frames, no frame "
            f"{config.anchor} to be the anchor."
        )
    reference = from_keypoints(reference_points, *size)
    fitted = [fit.fit_points(k, driving_size, size) for k in driving_points]
    driving = from_clip(fitted, *size)
    at = config.anchor if config.anchor >= 0 else anchor.choose(reference, driving)
    mode, reason = config.mode, "asked for"
    if mode == AUTO:
        mode, reason = choose(reference, driving[at])
    placement = None
    if MODES[mode].moves:
        placement = anchor.place(driving[at], reference)
    if MODES[mode].retargets:
        driving = _retargeted(driving, reference, placement, at, size, config.retarget)
    return Aligned(reference, placement, driving, mode, reason)


def _retargeted(
    driving: list[Person],
    reference: Person,
    placement: Placement | None,
    at: int,
    size: tuple[int, int],
    config: RetargetConfig,
) -> list[Person]:
    if placement is None:
        return retarget.to_reference(driving, reference, at, size, size, config)
    moved = anchor.moved(driving[at], reference)
    return retarget.to_driving(driving, moved, at, config)


def choose(reference: Person, driving: Person) -> tuple[str, str]:
    """(mode, why) for two people, by what of the body each of them shows."""
    for who, person in (("reference", reference), ("driving clip", driving)):
        if (person.body[_SHOULDERS, 2] < _SEEN).any():
            return "reference", f"the {who} shows no shoulders to measure by"
    ours, theirs = retarget.shown(reference.body), retarget.shown(driving.body)
    if ours < theirs:
        return (
            "driving-retarget",
            f"the driving clip shows {_PARTS[theirs]}, the reference only "
            f"{_PARTS[ours]}, so it is moved there and the rest invented",
        )
    return (
        "reference-retarget",
        f"the reference shows {_PARTS[ours]}, as much as the driving clip",
    )


_PARTS = {
    retarget.HALF: "the upper body",
    retarget.THREE_QUARTERS: "the body down to the hips",
    retarget.FULL: "the whole body",
}
