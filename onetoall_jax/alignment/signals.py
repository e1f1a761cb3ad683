"""How strongly the head and the face of the driving poses are drawn.

Training draws a head or a face that is not built as the person's own lighter: the model
then takes place and motion from it, and its structure from the reference.

Source: sections 4 and 6 of the released data page, 1 of the preprocessing page.
"""

from typing import NamedTuple

import numpy as np

from onetoall_jax.alignment import limbs
from onetoall_jax.alignment.person import Person
from onetoall_jax.errors import UserError
from onetoall_jax.pose.draw import Style
from onetoall_jax.pose.keypoints import VISIBLE

AUTO, FULL, LIGHT, NONE = "auto", "full", "light", "none"
FACES, HEADS = (AUTO, FULL, LIGHT, NONE), (AUTO, FULL, LIGHT)
# Training takes proportions within a tenth of each other for the same. A face a tenth
# wider and no taller has this distance.
_ALIKE, _NEAR = 1.1, 0.05
_DRAWN_FACE = (*range(17, 27), *range(36, 68))
_SHOULDERS = (2, 5)
_HEAD = {
    "nose to neck": ((0, 1),),
    "nose to eyes": ((0, 14), (0, 15)),
    "eyes to ears": ((14, 16), (15, 17)),
}


class Signals(NamedTuple):
    """How driving poses are drawn; reasons: why, a sentence for each choice."""

    style: Style
    reasons: tuple[str, ...]


def choose(
    face: str,
    head: str,
    reference: Person,
    driving: Person,
    size: tuple[int, int],
    *,
    retargeted: bool,
) -> Signals:
    """How face and head are drawn for a reference and a driving frame.

    Args:
      face: one of FACES; head: one of HEADS. "auto" draws the face lighter where the
        two are not built alike, and the head where the reference shows no face to be
        alike, or where its bones differ and are left as they are.
      driving: before its proportions are changed.
      size: (height, width) of the frame that both are relative to.
      retargeted: the driving head gets the reference's bones.
    Raises:
      UserError: another word.
    """
    for name, word, known in (("face", face, FACES), ("head", head, HEADS)):
        if word not in known:
            raise UserError(f"alignment.{name}={word!r}: choose from {list(known)}.")
    reasons = []
    shown = _shows_face(driving)
    if face == AUTO:
        why = _face_unlike(reference, driving, size) if shown else ""
        face = LIGHT if why else FULL
        reasons += [f"the face is drawn lighter: {why}"] if why else []
    if head == AUTO:
        why = ""
        if shown and not _shows_face(reference):
            why = "no face points of the reference were found"
        elif not retargeted:
            why = _head_unlike(reference, driving, size)
        head = LIGHT if why else FULL
        reasons += [f"the head is drawn lighter: {why}"] if why else []
    style = Style(face=face != NONE, light_face=face == LIGHT, light_head=head == LIGHT)
    return Signals(style, tuple(reasons))


def _shows_face(person: Person) -> bool:
    return bool((person.face[list(_DRAWN_FACE), 2] >= VISIBLE).mean() > 0.5)


def face_distance(reference: Person, driving: Person, size: tuple[int, int]) -> float:
    """How differently two faces are built: 0 is alike, 1 has nothing in common.

    What is left of one after the other was moved, turned and scaled onto it, as a share
    of its size.
    """
    a, b = (_face(p, size) for p in (reference, driving))
    both = np.vdot(b, b).real * np.vdot(a, a).real
    if not both:
        return 1.0
    return float(np.sqrt(max(0.0, 1 - abs(np.vdot(b, a)) ** 2 / both)))


def _face(person: Person, size: tuple[int, int]) -> np.ndarray:
    """Drawn face points as complex numbers about their middle, in pixels."""
    points = person.face[list(_DRAWN_FACE), :2] * (size[1], size[0])
    z = points[:, 0] + 1j * points[:, 1]
    return z - z.mean()


def _face_unlike(reference: Person, driving: Person, size: tuple[int, int]) -> str:
    if not _shows_face(reference):
        return "no face points of the reference were found"
    distance = face_distance(reference, driving, size)
    if distance <= _NEAR:
        return ""
    return f"the two are built differently (by {distance:.0%} of their size)"


def _head_unlike(reference: Person, driving: Person, size: tuple[int, int]) -> str:
    """Bones of the head over the shoulders' width that differ, named."""
    ours, theirs = (_shares(p, size) for p in (reference, driving))
    named = [
        f"{name} {ratio:.2f} times the reference's"
        for name in _HEAD
        if name in ours and name in theirs
        for ratio in (theirs[name] / ours[name],)
        if not 1 / _ALIKE <= ratio <= _ALIKE
    ]
    return ", ".join(named)


def _shares(person: Person, size: tuple[int, int]) -> dict[str, float]:
    points = person.body[:, :2] * (size[1], size[0])
    there = limbs.inside(person.body)

    def length(a: int, b: int) -> float:
        return float(np.linalg.norm(points[a] - points[b]))

    wide = length(*_SHOULDERS)
    if not wide or not there[list(_SHOULDERS)].all():
        return {}
    made = {
        name: float(np.mean([length(*bone) for bone in bones])) / wide
        for name, bones in _HEAD.items()
        if there[[joint for bone in bones for joint in bone]].all()
    }
    return {name: share for name, share in made.items() if share}
