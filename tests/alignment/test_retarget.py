"""Alignment against sums of the released functions, and every option both ways."""

import dataclasses

import numpy as np
import pytest

from onetoall_jax.alignment import anchor, move, retarget
from onetoall_jax.alignment.person import Person, from_keypoints
from onetoall_jax.alignment.retarget import RetargetConfig

SIZE = (1280, 720)
BASE = np.array([
    (.5, .2), (.5, .3), (.42, .3), (.38, .42), (.36, .52), (.58, .3), (.62, .42),
    (.64, .52), (.45, .55), (.44, .7), (.43, .85), (.55, .55), (.56, .7), (.57, .85),
    (.48, .18), (.52, .18), (.46, .19), (.54, .19), (.58, .88), (.42, .88),
])  # fmt: skip


def person(seed: int) -> Person:
    """The person that the recorded sums were made with."""
    r = np.random.RandomState(seed)
    body = BASE + r.uniform(-0.02, 0.02, (20, 2))
    body = np.concatenate([body, r.uniform(0.55, 1, (20, 1))], axis=1)

    def cloud(low, high, count, least):
        points = r.uniform(low, high, (count, 2))
        return np.concatenate([points, r.uniform(least, 1, (count, 1))], axis=1)

    face = cloud([0.45, 0.15], [0.55, 0.25], 69, 0.5)
    left = cloud([0.62, 0.52], [0.68, 0.58], 21, 0.3)
    right = cloud([0.32, 0.52], [0.38, 0.58], 21, 0.3)
    return Person(body, face[1:], np.stack([right, left]))


def shrunk(whole: Person) -> Person:
    def part(points):
        made = points.copy()
        made[..., :2] = 0.5 + 0.7 * (made[..., :2] - 0.5)
        return made

    return Person(*(part(p) for p in whole))


REFERENCE = person(7)
DRIVING = [shrunk(person(seed)) for seed in (1, 2, 3)]


def sums(people, points):
    return [
        (p.body[:points, :2].sum(), p.hands[..., :2].sum(), p.face[:, :2].sum())
        for p in people
    ]


def moved(sure):
    place = move.Placement(
        anchor.scale(DRIVING[0], REFERENCE, sure),
        REFERENCE.body[1, :2],
        DRIVING[0].body[1, :2],
    )
    return move.move(REFERENCE, place)


def test_the_anchor_is_the_released_one():
    assert anchor.choose(REFERENCE, DRIVING) == 2


@pytest.mark.parametrize(("sure", "scale"), [(0.9, 0.60385567), (0.5, 0.7774776)])
def test_scale(sure, scale):
    assert anchor.scale(DRIVING[0], REFERENCE, sure) == pytest.approx(scale, abs=1e-6)


def test_towards_the_driving_person():
    got = retarget.to_driving(DRIVING, moved(0.5), 0, RetargetConfig(sure=0.5))
    want = [
        (17.238167, 44.411476, 58.532051),
        (17.143359, 44.330482, 56.573964),
        (17.280804, 44.522991, 52.759934),
    ]
    np.testing.assert_allclose(sums(got, 18), want, atol=2e-5)


def test_towards_the_reference():
    got = retarget.to_reference(DRIVING, REFERENCE, 0, SIZE, SIZE)
    want = [
        (18.16078, 36.94375, 49.32479),
        (18.04969, 35.79549, 47.00004),
        (18.18632, 35.23073, 42.05346),
    ]
    np.testing.assert_allclose(sums(got, 20), want, atol=1e-4)
    joints = got[0].body[[0, 1, 4, 10], :2]
    want = [(0.49474, 0.12704), (0.47522, 0.22448), (0.36108, 0.47912),
            (0.44839, 0.86928)]  # fmt: skip
    np.testing.assert_allclose(joints, want, atol=1e-5)


def test_bones_take_the_reference_s_proportions():
    """Limb over torso is the reference's in every frame, whatever the driver's was."""
    size = np.array(SIZE[::-1])

    def share(p, a, b):
        q = p.body[:, :2] * size
        return np.linalg.norm(q[a] - q[b]) / np.linalg.norm(q[1] - q[8])

    got = retarget.to_reference(DRIVING[:1] * 2, REFERENCE, 0, SIZE, SIZE)
    for a, b in ((8, 9), (9, 10)):  # the longer of both sides counts, so at least
        assert share(got[1], a, b) >= 0.97 * share(REFERENCE, a, b)


def test_only_frame_0_is_shifted_and_the_option_stops_it():
    got = retarget.to_reference(DRIVING, REFERENCE, 2, SIZE, SIZE)
    still = retarget.to_reference(
        DRIVING, REFERENCE, 2, SIZE, SIZE, RetargetConfig(first_frame_shift=False)
    )
    assert abs(got[0].body[1, 0] - still[0].body[1, 0]) > 1e-3
    np.testing.assert_array_equal(got[1].body, still[1].body)


def test_feet_on_the_ground_compares_feet_with_feet():
    config = RetargetConfig(foot_on_ground=True)
    got = retarget.to_reference(DRIVING[:1], REFERENCE, 0, SIZE, SIZE, config)
    feet = [max(p.body[[10, 19], 1].mean(), p.body[[13, 18], 1].mean())
            for p in (got[0], REFERENCE)]  # fmt: skip
    assert feet[0] == pytest.approx(feet[1], abs=0.01)


def test_hands_follow_the_other_arm_in_the_release_only():
    target = moved(0.5)
    both = [
        retarget.to_driving(
            DRIVING, target, 0, RetargetConfig(sure=0.5, same_side_hands=s)
        )
        for s in (False, True)
    ]
    wrists = (4, 7)  # of the right and the left hand
    for released, meant in zip(*both, strict=True):
        np.testing.assert_array_equal(released.body, meant.body)
    before, after = DRIVING[0], both[1][0]
    for hand, wrist in enumerate(wrists):
        by_hand = after.hands[hand, 0, :2] - before.hands[hand, 0, :2]
        by_wrist = after.body[wrist, :2] - before.body[wrist, :2]
        np.testing.assert_allclose(by_hand, by_wrist - by_torso(before, after, wrist),
                                   atol=1e-9)  # fmt: skip
        other = both[0][0].hands[1 - hand, 0, :2] - before.hands[1 - hand, 0, :2]
        np.testing.assert_allclose(other, by_hand, atol=1e-9)


def by_torso(before, after, wrist):
    """What moves an arm but no hand: nothing here, since the neck stays."""
    neck = after.body[1, :2] - before.body[1, :2]
    assert np.abs(neck).max() == 0
    return neck


def test_weak_hand_points_are_dropped():
    weak = DRIVING[0]._replace(hands=DRIVING[0].hands.copy())
    weak.hands[0, 5, 2] = 0.39
    (got,) = retarget.to_reference([weak], REFERENCE, 0, SIZE, SIZE)
    dropped = got.hands[1, 5]  # the left hand comes first now
    assert dropped.tolist() == [0, 0, 0]
    config = RetargetConfig(hand_threshold=0.0)
    (got,) = retarget.to_reference([weak], REFERENCE, 0, SIZE, SIZE, config)
    assert got.hands[1, 5, 2] == 0.39


def test_an_unsure_joint_leaves_its_bone_and_all_later_ones_alone():
    shy = REFERENCE._replace(body=REFERENCE.body.copy())
    shy.body[[3, 6], 2] = 0.1
    ratios = retarget.proportions(shy, DRIVING[0], sure=0.5)
    assert ratios[(1, 2)] != 1.0
    assert {b: r for b, r in ratios.items() if b not in ((1, 2), (1, 5), (0, 1))
            and b[0] not in (0, 14, 15)} == dict.fromkeys(
        [(2, 3), (5, 6), (1, 8), (1, 11), (3, 4), (6, 7), (8, 9), (11, 12), (9, 10),
         (12, 13)], 1.0)  # fmt: skip


def test_missing_is_what_the_moved_picture_does_not_cover():
    place = move.Placement(np.float32(0.5), np.array([0.5, 0.5]), np.array([0.5, 0.5]))
    mask = move.missing(8, 8, place)
    assert set(np.unique(mask)) == {0, 255}
    assert mask[0, 0] == 255 and mask[4, 4] == 0
    assert 0.2 < (mask == 0).mean() < 0.35


def test_from_keypoints_puts_the_right_hand_first():
    keypoints = np.zeros((133, 3), np.float32)
    keypoints[:, 2] = 1
    keypoints[112:, 0] = 36.0
    made = from_keypoints(keypoints, 64, 72)
    assert made.hands[0, 0, 0] == 0.5 and made.hands[1, 0, 0] == 0
    assert made.pose.body.shape == (18, 2)
    defaults = dataclasses.asdict(RetargetConfig())
    assert defaults["sure"] == 0.9
