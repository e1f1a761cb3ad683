"""Heads and faces that are built differently are drawn lighter."""

import numpy as np
import pytest
from bodies import SIZE, keypoints

from onetoall_jax.alignment import align, signals
from onetoall_jax.alignment.align import AlignConfig
from onetoall_jax.alignment.person import from_keypoints
from onetoall_jax.errors import UserError

FACE = slice(23, 91)


def person(kind="average", wider=1.0, turned=0.0, face=True):
    points = keypoints(kind, "whole")
    middle = points[FACE, :2].mean(axis=0)
    z = (points[FACE, :2] - middle) * (wider, 1)
    c, s = np.cos(turned), np.sin(turned)
    points[FACE, :2] = middle + 1.3 * z @ np.array([[c, s], [-s, c]])
    points[FACE, 2] = face
    return points


def styled(reference, driving, mode="reference-retarget", **config):
    made = align.align(reference, SIZE, [driving], SIZE, AlignConfig(mode, **config))
    style = made.signals.style
    return style.face, style.light_face, style.light_head, made.signals.reasons


def test_a_face_like_the_reference_s_is_drawn_in_full():
    assert styled(person(), person(turned=0.3, wider=1.05)) == (True, False, False, ())


def test_a_face_of_another_build_is_drawn_lighter():
    shown, face, head, reasons = styled(person(), person(wider=1.2))
    assert (shown, face, head) == (True, True, False)
    assert "built differently (by 9%" in reasons[0]


def test_the_distance_is_that_of_the_formula():
    a, b = (from_keypoints(p, *SIZE) for p in (person(), person(wider=1.2)))
    drawn = [*range(17, 27), *range(36, 68)]
    z, w = (p.face[drawn, :2] * SIZE[::-1] for p in (a, b))
    z, w = z - z.mean(axis=0), w - w.mean(axis=0)
    # Least squares for a turn and a scale, c and s, that bring w to z.
    design = np.concatenate([w, np.stack([-w[:, 1], w[:, 0]], -1)]).reshape(2, -1).T
    _, left, *_ = np.linalg.lstsq(design, z.reshape(-1), rcond=None)
    expected = np.sqrt(left[0] / np.square(z).sum())
    assert signals.face_distance(a, b, SIZE) == pytest.approx(expected, rel=1e-6)


def test_a_reference_without_a_human_face_has_head_and_face_lighter():
    *style, reasons = styled(person(face=False), person())
    assert style == [True, True, True]
    assert len(reasons) == 2 and all("no face points" in r for r in reasons)
    # A driving clip that shows none either has nothing to draw lighter.
    assert styled(person(face=False), person(face=False))[1:3] == (False, False)


def test_bones_of_the_head_that_stay_as_they_are_are_drawn_lighter():
    *style, reasons = styled(person(), person("child"), "reference")
    assert style == [True, False, True]
    assert "nose to neck 1.87 times the reference's" in reasons[0]
    assert not styled(person(), person("child"))[2]


def test_words_say_otherwise():
    child = person("child", wider=1.3)
    assert styled(person(), child, face="full", head="light")[:3] == (True, False, True)
    assert not styled(person(), child, face="none")[0]
    released = align.RELEASED
    assert (released.face, released.head) == ("light", "full")
    with pytest.raises(UserError, match="alignment.head='none': choose from"):
        styled(person(), child, head="none")
