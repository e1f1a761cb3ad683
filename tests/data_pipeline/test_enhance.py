"""Changed heads against sums of the released functions, and what must stay."""

import dataclasses
import itertools

import numpy as np
import pytest

from data_pipeline import builder, enhance, loader, pools, synthetic
from data_pipeline.pools import Pool
from data_pipeline.settings import AugmentConfig
from onetoall_jax.errors import UserError
from onetoall_jax.geometry import Geometry
from onetoall_jax.pose.keypoints import Pose
from tests.data_pipeline.sets import settings

HEAD = [0, 14, 15, 16, 17]


def pose(seed: int) -> Pose:
    """The pose that the recorded sums were made with."""
    r = np.random.RandomState(seed)
    body, score = r.uniform(0.1, 0.9, (18, 2)), r.uniform(0.2, 1, (1, 18))
    face, face_score = r.uniform(0.3, 0.6, (1, 68, 2)), r.uniform(0.2, 1, (1, 68))
    hands, hands_score = r.uniform(0.2, 0.8, (2, 21, 2)), r.uniform(0.2, 1, (2, 21))
    return Pose(
        body, score[0], score[0] > 0.3, hands, hands_score, face[0], face_score[0]
    )


def draws(limb: float, face: float) -> enhance.Draws:
    return enhance.Draws(limb, face, 0.4, lambda: 0.75, lambda: 0.5)


ALIGNED = enhance.aligned(pose(1), pose(0))


def test_alignment():
    assert ALIGNED.body.sum() == pytest.approx(31.02304, abs=1e-4)
    np.testing.assert_allclose(ALIGNED.body[0], (1.009294, 0.964101), atol=1e-5)
    assert ALIGNED.face.sum() == pytest.approx(115.553678, abs=1e-4)


def test_bones_and_face():
    (made,), limb, face = enhance.changed([pose(0)], ALIGNED, draws(0, 0))
    assert limb and face
    assert made.body.sum() == pytest.approx(19.607294, abs=1e-4)
    want = {0: (0.521787, 0.726649), 14: (0.498104, 0.462704),
            15: (0.209966, 0.791419), 16: (0.424522, 0.634928),
            17: (-0.065292, 0.616029)}  # fmt: skip
    for joint, place in want.items():
        np.testing.assert_allclose(made.body[joint], place, atol=1e-5)
    assert made.face.sum() == pytest.approx(90.389338, abs=1e-4)
    np.testing.assert_allclose(made.face[0], (0.437397, 0.62043), atol=1e-5)
    np.testing.assert_allclose(made.face[36], (0.230826, 0.623383), atol=1e-5)


def test_a_bone_without_length_stays_and_asks_for_no_draw():
    flat = pose(0)._replace(body=np.zeros((18, 2)))
    asked = []
    drawn = enhance.Draws(0, 0.9, 0.4, lambda: 0.75, lambda: asked.append(1) or 0.5)
    (made,), limb, _ = enhance.changed([flat], ALIGNED, drawn)
    assert limb
    np.testing.assert_array_equal(made.body, flat.body)
    other = ALIGNED.face
    near = [np.linalg.norm(other[i] - other[j]) for i, j in ((36, 45), (33, 8))]
    own = [np.linalg.norm(flat.face[i] - flat.face[j]) for i, j in ((36, 45), (33, 8))]
    assert len(asked) == sum(0.9 < a / b < 1.1 for a, b in zip(near, own, strict=True))


def test_alignment_keeps_the_body_in_float32():
    assert ALIGNED.body.dtype == np.float32
    assert ALIGNED.face.dtype == ALIGNED.hands.dtype == np.float64


def test_the_face_alone():
    (made,), limb, face = enhance.changed([pose(0)], ALIGNED, draws(0.9, 0))
    assert face and not limb
    np.testing.assert_array_equal(made.body, pose(0).body)
    assert made.face.sum() == pytest.approx(87.857425, abs=1e-4)
    np.testing.assert_allclose(made.face[0], (0.454661, 0.565932), atol=1e-5)


def test_only_head_and_face_change():
    before = pose(0)
    (made,), *_ = enhance.changed([before], ALIGNED, draws(0, 0))
    rest = [j for j in range(18) if j not in HEAD]
    np.testing.assert_array_equal(made.body[rest], before.body[rest])
    np.testing.assert_array_equal(made.hands, before.hands)
    np.testing.assert_array_equal(made.body_score, before.body_score)


def test_a_clip_s_draws_are_one_unless_the_release_is_wanted():
    once, anew = (enhance.draw(0, 0, 3, every_frame=e) for e in (False, True))
    assert once.face_strength() == once.face_strength()
    assert anew.face_strength() != anew.face_strength()
    assert (once.limb, once.face) == (anew.limb, anew.face)
    many = [enhance.draw(0, 0, row) for row in range(20_000)]
    for chance, hits in (
        (0.4, [d.limb < 0.4 for d in many]),
        (0.5, [d.face_strength() < 0.75 for d in many]),
        (0.5, [d.strength < 0.4 for d in many]),
    ):
        sigma = (chance * (1 - chance) / len(many)) ** 0.5
        assert abs(np.mean(hits) - chance) < 4 * sigma


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    made = synthetic.SyntheticConfig(canvas_side=64)
    builder.write(root, {"train": list(synthetic.clips(made, "train", 6, 1))})
    return root


def test_a_pool_changes_the_driving_head_and_nothing_else(data, tmp_path):
    pool = pools.build(data)
    assert len(pool.size) == 6
    np.savez(tmp_path / "pool.npz", keypoints=pool.keypoints, size=pool.size)
    config = settings(data, num_frames=9, augment=AugmentConfig.none())
    changed = dataclasses.replace(
        config,
        pose_pool=str(tmp_path / "pool.npz"),
        augment=AugmentConfig(*[0.0] * 7, change_pose=1.0),
    )
    plain, other = (
        next(itertools.islice(loader.build(c, Geometry()), 1))
        for c in (config, changed)
    )
    for name in plain:
        same = np.array_equal(plain[name], other[name])
        assert same == (name != "pose_u8"), name
    rows = np.flatnonzero((plain["pose_u8"] != other["pose_u8"]).any((0, 1, 3, 4)))
    assert rows.max() < 30  # heads are in the upper half


def test_a_pool_prefers_the_clip_s_orientation():
    sizes = np.array([(10, 20), (20, 10), (10, 20)])
    pool = Pool(np.zeros((3, 133, 3)), sizes)
    assert {pool.pick(u, 30, 10) for u in (0.0, 0.5, 0.99)} == {1}
    assert {pool.pick(u, 10, 30) for u in (0.0, 0.5, 0.99)} == {0, 2}


def test_a_missing_pool_says_what_makes_it(tmp_path):
    with pytest.raises(UserError, match="data_pipeline.pools --data=DATA --output="):
        pools.read(tmp_path / "none.npz")
