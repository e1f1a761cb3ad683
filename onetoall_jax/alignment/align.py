"""Reference and driving clip brought together: whose place, whose proportions.

Source: sections 1, 4 and 6 of the released preprocessing page.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from onetoall_jax.alignment import anchor, fit, limbs, retarget, signals
from onetoall_jax.alignment import inside as insides
from onetoall_jax.alignment.move import Placement
from onetoall_jax.alignment.person import DRAWN, Person, from_clip, from_keypoints
from onetoall_jax.alignment.retarget import RetargetConfig
from onetoall_jax.alignment.signals import Signals
from onetoall_jax.errors import UserError

_SHOULDERS = [2, 5]
_SAME = 0.03  # relative difference of proportions that nobody sees


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
CROP, PAD = "crop", "pad"
FRAMES = (AUTO, CROP, PAD)


@dataclasses.dataclass(frozen=True)
class AlignConfig:
    """How a reference and a driving clip are brought together.

    Attributes:
      mode: a name in MODES, or "auto".
      anchor: driving frame that the reference is compared with; -1 looks for the one
        most like it, as the paper does.
      retarget: proportions; the release's slips are mended unless it says otherwise,
        `RetargetConfig()` has them all.
      keep_inside: retargeted poses are moved, and made smaller if they must, so that no
        joint leaves the frame in which the driving clip has it; the release lets it.
      frame: how driving frames of another shape than the picture come into its frame:
        "crop" cuts them as released, "pad" fits them in whole, "auto" does so where a
        joint would be cut off.
      face, head: how they are drawn, "full", "light" or "auto", the face also "none";
        see `signals.choose`.
    """

    mode: str = AUTO
    anchor: int = 0
    retarget: RetargetConfig = retarget.MENDED
    keep_inside: bool = True
    frame: str = AUTO
    face: str = signals.AUTO
    head: str = signals.AUTO


# Its own examples draw the face lighter, the head as it is.
RELEASED = AlignConfig(
    retarget=RetargetConfig(),
    keep_inside=False,
    frame=CROP,
    face=signals.LIGHT,
    head=signals.FULL,
)


class Aligned(NamedTuple):
    """Both, in the frame of the reference picture.

    Attributes:
      reference: the person in the picture, before any move.
      placement: the move of the picture, or None.
      driving: one person a frame.
      mode: name in MODES; reason: why, in a few words.
      signals: how the driving poses are drawn, and why.
      warnings: what a person may want to look at, a sentence each.
    """

    reference: Person
    placement: Placement | None
    driving: list[Person]
    mode: str
    reason: str
    signals: Signals
    warnings: tuple[str, ...] = ()


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
      UserError: an unknown mode or word, or an anchor that the clip does not have.
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
    driving, told = _framed(driving_points, driving_size, size, config.frame)
    at = config.anchor if config.anchor >= 0 else anchor.choose(reference, driving)
    mode, reason = config.mode, "asked for"
    if mode == AUTO:
        mode, reason = choose(reference, driving[at])
    placement = None
    if MODES[mode].moves:
        placement = anchor.place(driving[at], reference)
    retargets = MODES[mode].retargets
    drawn = signals.choose(
        config.face, config.head, reference, driving[at], size, retargeted=retargets
    )
    warnings = told
    if retargets:
        before = driving
        driving = _retargeted(driving, reference, placement, at, size, config.retarget)
        shift = insides.keep(before, driving) if config.keep_inside else None
        if shift is not None:
            driving = [shift.person(person) for person in driving]
            placement = None if placement is None else _shifted(placement, shift)
            warnings += (_said(shift),)
        warnings += _unlike(reference, driving[at], size)
    return Aligned(reference, placement, driving, mode, reason, drawn, warnings)


def _framed(
    points: Sequence[np.ndarray] | np.ndarray,
    before: tuple[int, int],
    after: tuple[int, int],
    frame: str,
) -> tuple[list[Person], tuple[str, ...]]:
    """(driving people in the picture's frame, what to tell of it)."""
    if frame not in FRAMES:
        raise UserError(f"alignment.frame={frame!r}: choose from {list(FRAMES)}.")
    cropped = from_clip([fit.fit_points(k, before, after) for k in points], *after)
    padded = from_clip([fit.pad_points(k, before, after) for k in points], *after)
    if frame != AUTO:
        return (cropped if frame == CROP else padded), ()
    cut = limbs.inside(np.stack([p.body[:DRAWN] for p in padded]))
    cut &= ~limbs.inside(np.stack([p.body[:DRAWN] for p in cropped]))
    if not cut.any():
        return cropped, ()
    names = ", ".join(limbs.JOINTS[j] for j in np.flatnonzero(cut.any(axis=0)))
    return padded, (
        "the driving frames are fitted into the picture's shape whole, since cropping "
        f"would cut off: {names}",
    )


def _unlike(reference: Person, made: Person, size: tuple[int, int]) -> tuple[str, ...]:
    return tuple(
        f"the {name} comes out {ratio:.2f} times as long as the reference has it: "
        "look at the key points of both"
        for name, ratio in limbs.unlike(reference, made, size, _SAME).items()
    )


def _shifted(placement: Placement, shift: insides.Shift) -> Placement:
    """The picture goes where the poses go."""
    end = shift.scale * placement.end + shift.by
    scale = placement.scale * shift.scale
    return Placement(np.float32(scale), placement.start, end.astype(np.float32))


def _said(shift: insides.Shift) -> str:
    smaller = f"drawn at {shift.scale:.0%} of its size and " if shift.scale < 1 else ""
    x, y = shift.by
    return (
        f"the person is {smaller}moved by {x:+.2f}, {y:+.2f} of the frame, or these "
        f"would leave it: {', '.join(shift.joints)}"
    )


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
    return retarget.to_driving(driving, moved, at, config, size)


def choose(reference: Person, driving: Person) -> tuple[str, str]:
    """(mode, why) for two people, by what of the body each of them shows."""
    for who, person in (("reference", reference), ("driving clip", driving)):
        if (person.body[_SHOULDERS, 2] < limbs.SEEN).any():
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
