import hashlib

import numpy as np
import pytest

from onetoall_jax.alignment.person import from_keypoints
from onetoall_jax.pose.draw import Drawer, Style
from onetoall_jax.pose.keypoints import Pose, to_pose

# Recorded from the released code: sha256 (first 16 digits) of the bytes, pixel sum.
RECORDED = {
    (512, 512): (
        ("76594001b0b4934b", 1975229),
        ("c7da75ec25b46483", 1899811),
        ("df0851c2d6c99793", 1889115),
    ),
    (672, 384): (
        ("994e750aa13124b7", 1905621),
        ("13718a943066e0fd", 1825809),
        ("9adc1a51b8b5aca3", 1808381),
    ),
    (1280, 720): (
        ("2720bb7bb6b5a323", 6768915),
        ("afeec56982ea71d5", 6492229),
        ("a4200951a0ad0c7e", 6429260),
    ),
    (720, 1280): (
        ("bb56260142185880", 7770273),
        ("d359ecb9fa82d615", 7486397),
        ("97f3dbf4c99d03df", 7461443),
    ),
    (100, 400): (
        ("f5752782a4b1d75c", 321318),
        ("f9730e9bc5e12164", 314863),
        ("ab81e9828ab918bb", 312679),
    ),
}
STYLES = (Style(), Style(face=False), Style(light_head=True, light_face=True))


def random_pose(seed):
    r = np.random.RandomState(seed)
    body, score = r.uniform(0.1, 0.9, (18, 2)), r.uniform(0.2, 1, (1, 18))[0]
    face, face_score = r.uniform(0.3, 0.6, (1, 68, 2))[0], r.uniform(0.2, 1, (1, 68))[0]
    hands, hands_score = r.uniform(0.2, 0.8, (2, 21, 2)), r.uniform(0.2, 1, (2, 21))
    return Pose(body, score, score > 0.3, hands, hands_score, face, face_score)


@pytest.mark.parametrize("size", RECORDED, ids=str)
def test_drawing_equals_the_release_byte_for_byte(size):
    drawer = Drawer(*size)
    for style, (digest, total) in zip(STYLES, RECORDED[size], strict=True):
        picture = drawer(random_pose(0), style)
        assert int(picture.sum()) == total
        assert hashlib.sha256(picture.tobytes()).hexdigest()[:16] == digest


class Dimmed(Drawer):
    """Draws limbs bright and dims the canvas after them, as the release does."""

    def _limbs(self, *points):
        super()._limbs(*points, shades=np.arange(256))
        self._canvas[:] = (self._canvas * 0.6).astype(np.uint8)


@pytest.mark.parametrize("size", [(96, 64), (270, 480)], ids=str)
def test_limbs_have_the_colour_that_dimming_leaves(size):
    """Whole, small, partly outside, and with scores above 1."""
    ours, dimmed = Drawer(*size, 540), Dimmed(*size, 540)
    for seed in range(6):
        pose, scale = random_pose(seed), 1.0 if seed == 0 else 0.4
        moved = {
            name: getattr(pose, name) * scale + (seed % 3) * 0.4 - 0.2
            for name in ("body", "hands", "face")
        }
        scores = pose.body_score * (1.7 if seed % 2 else 1.0)
        pose = pose._replace(**moved, body_score=scores)
        style = STYLES[seed % 3]
        np.testing.assert_array_equal(ours(pose, style), dimmed(pose, style))


def test_a_reused_canvas_leaves_nothing_behind():
    drawer = Drawer(96, 64, canvas_side=256)
    first = drawer(random_pose(1))
    drawer(random_pose(2), Style(light_head=True))
    np.testing.assert_array_equal(drawer(random_pose(1)), first)


def test_training_hides_weak_points_and_makes_the_neck_from_the_shoulders():
    points = np.ones((133, 3)) * (32, 48, 0.9)
    points[5], points[6] = (10, 20, 0.8), (30, 24, 0.5)
    points[91, 2] = 0.2
    points[9, 2] = 0.1  # left wrist
    pose = to_pose(points, 96, 64)
    np.testing.assert_allclose(pose.body[1], (20 / 64, 22 / 96))
    assert pose.body_score[1] == 1 and not pose.body_visible[7]
    np.testing.assert_array_equal(pose.hands[0, 0], (-1, -1))
    np.testing.assert_allclose(pose.hands[1, 0], (0.5, 0.5))


def test_inference_puts_the_right_hand_first_and_keeps_weak_points():
    points = np.zeros((133, 3))
    points[112:] = (32, 24, 0.1)
    points[9] = (1, 2, 0.1)
    pose = from_keypoints(points, 96, 64).pose
    np.testing.assert_allclose(pose.hands[0, 3], (0.5, 0.25))
    assert pose.body_visible[7] and not pose.body_visible[0]
