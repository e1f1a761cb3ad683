"""Which alignment is chosen, and what it does to pictures and poses."""

import dataclasses

import numpy as np
import pytest

from data_pipeline import figure
from onetoall_jax.alignment import align, fit
from onetoall_jax.alignment.align import AlignConfig
from onetoall_jax.alignment.person import from_keypoints
from onetoall_jax.errors import UserError
from onetoall_jax.geometry import Geometry
from onetoall_jax.pipelines import prepare_pair
from onetoall_jax.pose.draw import CANVAS_SIDE
from onetoall_jax.pose.files import Track

SIZE = (192, 128)


def keypoints(seed: int, count: int, feet: float = 0.96, scale: float = 0.8):
    """A procedural person; feet below 1 are in the picture. [count,133,3]."""
    rng = np.random.default_rng(seed)
    who, how = figure.character(rng), figure.motion(rng)
    height, width = SIZE
    return np.stack([
        figure.keypoints(who, figure.joints(
            who, how, i / 8, 0.5 * width, feet * height, scale * height))
        for i in range(count)
    ])  # fmt: skip


WHOLE, HALF = {"feet": 0.96, "scale": 0.8}, {"feet": 1.7, "scale": 1.5}


@pytest.mark.parametrize(
    ("reference", "driving", "mode"),
    [
        (WHOLE, WHOLE, "reference-retarget"),
        (WHOLE, HALF, "reference-retarget"),
        (HALF, HALF, "reference-retarget"),
        (HALF, WHOLE, "driving-retarget"),
    ],
)
def test_what_both_show_decides(reference, driving, mode):
    made = align.align(
        keypoints(1, 1, **reference)[0], SIZE, keypoints(2, 3, **driving), SIZE
    )
    assert made.mode == mode
    assert (made.placement is not None) == mode.startswith("driving")
    assert len(made.driving) == 3


def test_without_shoulders_poses_stay_as_they_are():
    face_only = keypoints(1, 1)[0]
    face_only[:23, 2] = 0.1
    driving = keypoints(2, 2)
    made = align.align(face_only, SIZE, driving, SIZE)
    assert made.mode == "reference" and "no shoulders" in made.reason
    nose = driving[0, 0, :2] / SIZE[::-1]
    np.testing.assert_allclose(made.driving[0].body[0, :2], nose, atol=1e-5)


def test_an_unknown_mode_and_a_missing_anchor_are_refused():
    for config, message in (
        (AlignConfig("best"), "no alignment 'best'"),
        (AlignConfig(anchor=5), "no frame 5"),
    ):
        with pytest.raises(UserError, match=message):
            align.align(keypoints(1, 1)[0], SIZE, keypoints(2, 2), SIZE, config)


def prepared(mode: str, canvas_side: int, reference=HALF, driving=WHOLE, **config):
    picture = np.random.default_rng(0).integers(30, 255, (*SIZE, 3)).astype(np.uint8)
    made = prepare_pair.prepare(
        picture,
        Track(keypoints(1, 1, **reference), *SIZE, 8.0),
        Track(keypoints(2, 3, **driving), *SIZE, 8.0),
        Geometry(),
        canvas_side=canvas_side,
        size=(96, 64),
        cap=384,
        config=AlignConfig(mode, **config),
    )
    return made._replace(poses=np.asarray(made.poses))


def test_a_reference_that_stays_is_whole():
    made = prepared("reference", 256)
    assert not made.mask.any()
    assert made.reference.shape == (96, 64, 3) and made.poses.shape == (3, 96, 64, 3)
    assert made.notes[0] == "alignment reference: asked for"


def test_a_moved_reference_is_black_where_the_mask_says_missing():
    made = prepared("driving", 256)
    gone = made.mask > 0.99
    assert 0.3 < gone.mean() < 0.9
    assert made.reference[gone].max() <= 40 and made.reference[~gone].mean() > 80


def test_small_and_released_drawing_put_people_in_the_same_place():
    """Two ways to the same picture: joints fall on the same pixels, about."""
    small, large = (prepared("driving-retarget", c) for c in (256, CANVAS_SIDE))
    np.testing.assert_array_equal(small.mask, large.mask)
    for name in ("reference_pose", "poses"):
        lit = [getattr(p, name).max(axis=-1) > 40 for p in (small, large)]
        for a, b in zip(*(x.reshape(-1, 96, 64) for x in lit), strict=True):
            centres = [np.argwhere(x).mean(axis=0) for x in (a, b)]
            np.testing.assert_allclose(*centres, atol=2.5)


def test_a_face_is_drawn_as_strongly_as_is_asked_for():
    full, light, none = (
        prepared("reference-retarget", CANVAS_SIDE, WHOLE, WHOLE, face=word).poses
        for word in ("full", "light", "none")
    )
    # Only face points are white.
    assert int(full.min(axis=-1).max()) > 2 * int(light.min(axis=-1).max()) > 0
    assert (light != none).any() and not (full == light).all()


def test_toes_that_a_source_does_not_have_are_not_at_the_origin():
    """MediaPipe has no small toes, OpenPose's 18 points none at all."""
    points = keypoints(1, 1)[0]
    both = from_keypoints(points, *SIZE).body
    for absent in ((18, 21), (17, 18, 20, 21)):
        points[list(absent)] = 0
        body = from_keypoints(points, *SIZE).body
        np.testing.assert_allclose(body[18:, :2], both[18:, :2], atol=0.05)
    np.testing.assert_array_equal(body[18:, :2], body[[13, 10], :2])
    assert (body[18:, 2] == 0).all() and (both[18:, 2] > 0).all()


@pytest.mark.parametrize("mode", ["driving", "driving-retarget", "reference-retarget"])
def test_a_tall_clip_keeps_its_head_in_a_wide_picture(mode):
    """What the driving frame shows stays in the frame, whatever the picture's shape."""
    wide, clip = (120, 200), keypoints(2, 3)
    picture = keypoints(1, 1)[0] * (200 / SIZE[1], 120 / SIZE[0], 1)
    made = {
        frame: align.align(picture, wide, clip, SIZE, AlignConfig(mode, frame=frame))
        for frame in ("auto", "crop", "pad")
    }
    nose = {k: v.driving[0].body[0] for k, v in made.items()}
    np.testing.assert_array_equal(nose["auto"], nose["pad"])
    assert (nose["auto"][:2] > 0).all() and (nose["auto"][:2] < 1).all()
    assert "cropping would cut off: nose" in made["auto"].warnings[0]
    if mode == "driving":
        assert nose["crop"][1] < 0
        at = clip[0, 0, 1] / SIZE[0], 0.5 + (clip[0, 0, 0] - 64) * 120 / 192 / 200
        np.testing.assert_allclose(nose["pad"][1::-1], at, atol=1e-5)
    # One shape needs neither.
    same = align.align(clip[0], SIZE, clip, SIZE)
    assert not any("cropping" in w for w in same.warnings)
    with pytest.raises(UserError, match="alignment.frame='wide'"):
        align.align(clip[0], SIZE, clip, SIZE, AlignConfig(frame="wide"))


def test_points_relative_to_the_frame_follow_the_crop():
    points = np.array([[0.5, 0.5, 1.0], [0.25, 0.1, 1.0]])
    made = fit.refit(points, (100, 200), (50, 50))
    np.testing.assert_allclose(made, [[0.5, 0.5, 1.0], [0.0, 0.1, 1.0]])
    assert dataclasses.asdict(AlignConfig())["mode"] == "auto"
