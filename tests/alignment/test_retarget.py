"""Alignment against sums of the released functions, and every option both ways."""

import dataclasses

import numpy as np
import pytest

from onetoall_jax.alignment import anchor, move, retarget
from onetoall_jax.alignment.person import Person, from_keypoints
from onetoall_jax.alignment.retarget import RetargetConfig
from onetoall_jax.errors import UserError

SIZE = (1280, 720)
RELEASED, HALF_SURE = RetargetConfig(), RetargetConfig(sure=0.5)
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


def changed(whole: Person, points, score: float) -> Person:
    """The same person with another score of some body points."""
    body = whole.body.copy()
    body[points, 2] = score
    return whole._replace(body=body)


def towards_driving(config=HALF_SURE, driving=DRIVING):
    target = anchor.moved(driving[0], REFERENCE, config.sure)
    return retarget.to_driving(driving, target, 0, config)


def towards_reference(config=RELEASED, at=0, driving=DRIVING):
    return retarget.to_reference(driving, REFERENCE, at, SIZE, SIZE, config)


def test_the_anchor_is_the_released_one():
    assert anchor.choose(REFERENCE, DRIVING) == 2


@pytest.mark.parametrize(("sure", "scale"), [(0.9, 0.60385567), (0.5, 0.7774776)])
def test_scale(sure, scale):
    assert anchor.scale(DRIVING[0], REFERENCE, sure) == pytest.approx(scale, abs=1e-6)


def test_without_hips_the_shoulders_and_without_shoulders_the_ears_give_the_scale():
    a, r = DRIVING[0].body[:, :2], REFERENCE.body[:, :2]

    def quotient(i, j):
        return np.linalg.norm(a[i] - a[j]) / np.linalg.norm(r[i] - r[j])

    no_hips = changed(REFERENCE, [8], 0.1)
    assert anchor.scale(DRIVING[0], no_hips, 0.5) == pytest.approx(quotient(2, 5))
    no_shoulders = changed(REFERENCE, [2, 16, 17], 0.1)
    assert anchor.scale(DRIVING[0], no_shoulders, 0.5) == pytest.approx(
        quotient(16, 17), rel=1e-5
    )


def test_a_score_at_the_threshold_is_sure_in_the_recorded_float_type():
    body = REFERENCE.body.copy()
    body[:, 2] = np.float32(0.9)  # a little less than 0.9 in float64
    at = REFERENCE._replace(body=body)
    assert anchor.known(at, at).all()
    assert not anchor.known(at, changed(at, [3], 0.8999))[3]


def test_the_moved_reference_has_its_neck_on_the_other_and_the_scale():
    moved = anchor.moved(DRIVING[0], REFERENCE, 0.5)
    np.testing.assert_allclose(moved.body[1, :2], DRIVING[0].body[1, :2], atol=1e-6)
    reach = [np.linalg.norm(p.body[10, :2] - p.body[1, :2]) for p in (moved, REFERENCE)]
    assert reach[0] / reach[1] == pytest.approx(0.7774776, rel=1e-5)
    assert {points.dtype for points in moved} == {np.dtype(np.float32)}


def test_towards_the_driving_person():
    got = towards_driving()
    want = [
        (17.238167, 44.411476, 58.532051),
        (17.143359, 44.330482, 56.573964),
        (17.280804, 44.522991, 52.759934),
    ]
    np.testing.assert_allclose(sums(got, 18), want, atol=2e-5)


def test_towards_the_reference():
    got = towards_reference()
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

    got = towards_reference(driving=DRIVING[:1] * 2)
    for a, b in ((8, 9), (9, 10)):  # the longer of both sides counts, so at least
        assert share(got[1], a, b) >= 0.97 * share(REFERENCE, a, b)


def test_sideways_moves_frame_0_alone_in_the_release_or_all_or_none():
    none, first, all_ = (
        [
            p.body[:, :2]
            for p in towards_reference(RetargetConfig(shifted_frames=which), at=2)
        ]
        for which in ("none", "first", "all")
    )
    by = first[0] - none[0]
    assert abs(by[1, 0]) > 1e-3 and np.abs(by[:, 1]).max() < 1e-9
    np.testing.assert_array_equal(first[1], none[1])
    np.testing.assert_array_equal(all_[0], first[0])
    for meant, still in zip(all_, none, strict=True):
        np.testing.assert_allclose(meant - still, by, atol=1e-6)


def test_frames_to_shift_are_named():
    with pytest.raises(UserError, match="'last'; it takes 'first', 'all', 'none'"):
        RetargetConfig(shifted_frames="last")


def test_three_quarters_of_a_body_stand_by_the_neck_and_do_not_shift():
    driving = [changed(p, [10], 0.1) for p in DRIVING]
    got = towards_reference(at=2, driving=driving)
    still = towards_reference(RetargetConfig(shifted_frames="none"), 2, driving)
    np.testing.assert_array_equal(got[0].body, still[0].body)
    np.testing.assert_allclose(
        got[2].body[1, :2], REFERENCE.body[1, :2], atol=1 / min(SIZE)
    )


def test_feet_on_the_ground_compares_feet_with_feet():
    def lower_foot(p):
        return max(p.body[[10, 19], 1].mean(), p.body[[13, 18], 1].mean())

    (meant,) = towards_reference(RetargetConfig(foot_on_ground=True), 0, DRIVING[:1])
    (released,) = towards_reference(driving=DRIVING[:1])
    assert lower_foot(meant) == pytest.approx(lower_foot(REFERENCE), abs=0.01)
    ankle = released.body[[10, 13], 1].max()
    assert ankle == pytest.approx(lower_foot(REFERENCE), abs=0.01)


def test_hands_follow_the_other_arm_in_the_release_only():
    released = towards_driving()
    meant = towards_driving(RetargetConfig(sure=0.5, same_side_hands=True))
    for i, before in enumerate(DRIVING):
        np.testing.assert_array_equal(released[i].body, meant[i].body)
        for hand, wrist in enumerate((4, 7)):  # right, left
            by_wrist = meant[i].body[wrist, :2] - before.body[wrist, :2]
            by_hand = meant[i].hands[hand, :, :2] - before.hands[hand, :, :2]
            np.testing.assert_allclose(by_hand, by_wrist + 0 * by_hand, atol=1e-6)
            other = 1 - hand
            by_other = released[i].hands[other, :, :2] - before.hands[other, :, :2]
            np.testing.assert_allclose(by_other, by_wrist + 0 * by_other, atol=1e-6)


@pytest.mark.parametrize(
    ("parent", "children"), [(14, [16]), (15, [17]), (8, [9, 10]), (11, [12, 13])]
)
def test_whole_chains_take_ears_and_legs_along(parent, children):
    """With one bone's ratio changed, what hangs on it moves only where meant."""
    stem = {14: (0, 14), 15: (0, 15), 8: (1, 8), 11: (1, 11)}[parent]
    target = anchor.moved(DRIVING[0], DRIVING[0], 0.5)
    body = target.body.copy()
    body[[parent, *children], :2] += 0.2 * (body[parent, :2] - body[stem[0], :2])
    target = target._replace(body=body)

    def steps(config):
        (got,) = retarget.to_driving(DRIVING[:1], target, 0, config)
        return (
            got.body[[parent, *children], :2] - DRIVING[0].body[[parent, *children], :2]
        )

    released = steps(RetargetConfig(sure=0.5))
    meant = steps(RetargetConfig(sure=0.5, whole_chains=True))
    assert np.linalg.norm(released[0]) > 1e-3
    np.testing.assert_allclose(released[1:], 0, atol=1e-6)
    np.testing.assert_allclose(meant - meant[0], 0, atol=1e-6)


def test_even_sides_gives_eyes_ears_and_hips_one_ratio_too():
    target = anchor.moved(DRIVING[0], REFERENCE, 0.5)
    pairs = [((0, 14), (0, 15)), ((14, 16), (15, 17)), ((1, 8), (1, 11))]
    released, meant = (
        retarget.proportions(
            target, DRIVING, 0, RetargetConfig(sure=0.5, even_sides=even)
        )
        for even in (False, True)
    )
    for one, other in pairs:
        assert released[one] != released[other]
        assert meant[one] == meant[other]
        assert meant[one] == pytest.approx((released[one] + released[other]) / 2)
    rest = set(released) - {bone for pair in pairs for bone in pair}
    assert all(released[bone] == meant[bone] for bone in rest)


def test_exchanged_hands_land_on_their_wrists_only_where_meant():
    """Points of both hands named the wrong way round."""
    swapped = DRIVING[0]._replace(hands=DRIVING[0].hands[::-1])
    (right,) = towards_reference(driving=DRIVING[:1])
    config = RetargetConfig(exchanged_by_own_root=True)
    (meant,) = towards_reference(config, driving=[swapped])
    (released,) = towards_reference(driving=[swapped])
    np.testing.assert_array_equal(meant.hands, right.hands)
    np.testing.assert_array_equal(released.hands[..., 2], right.hands[..., 2])
    # In the release each misses its wrist by the distance of the two roots.
    roots = DRIVING[0].hands[:, 0, :2]
    apart = roots[1] - roots[0]
    strong = right.hands[..., 2] > 0
    for hand, by in ((0, apart), (1, -apart)):
        off = (released.hands - right.hands)[hand, strong[hand], :2]
        np.testing.assert_allclose(off, by + 0 * off, atol=1.01 / min(SIZE))


def test_a_limb_of_no_length_spoils_nothing():
    body = DRIVING[0].body.copy()
    body[5] = body[2]  # a person seen from the side: both shoulders in one place
    body[1] = body[2]
    (got,) = towards_reference(driving=[DRIVING[0]._replace(body=body)])
    assert np.isfinite(got.body).all() and np.isfinite(got.hands).all()


def test_weak_hand_points_are_dropped():
    weak = DRIVING[0]._replace(hands=DRIVING[0].hands.copy())
    weak.hands[0, 5, 2] = 0.39
    (got,) = towards_reference(driving=[weak])
    dropped = got.hands[1, 5]  # the left hand comes first now
    assert dropped.tolist() == [0, 0, 0]
    (got,) = towards_reference(RetargetConfig(hand_threshold=0.0), driving=[weak])
    assert got.hands[1, 5, 2] == 0.39


def test_an_unsure_joint_leaves_its_bone_and_all_later_ones_alone():
    shy = changed(REFERENCE, [3, 6], 0.1)
    ratios = retarget.proportions(shy, DRIVING, 0, RetargetConfig(sure=0.5))
    measured = {(0, 1), (0, 14), (0, 15), (14, 16), (15, 17), (1, 2), (1, 5)}
    assert {bone for bone, ratio in ratios.items() if ratio != 1} == measured


def test_an_unsure_wrist_lends_the_forearm_the_upper_arm_s_ratio():
    shy = changed(REFERENCE, [4], 0.1)
    ratios = retarget.proportions(shy, DRIVING, 0, RetargetConfig(sure=0.5))
    assert ratios[(3, 4)] == ratios[(2, 3)] != 1
    assert ratios[(1, 8)] != 1 and ratios[(8, 9)] == 1


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
