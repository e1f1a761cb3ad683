import dataclasses
import itertools

import numpy as np
import pytest

from data_pipeline import builder, loader, synthetic
from data_pipeline.plan import Plan
from data_pipeline.settings import AugmentConfig, DataConfig, Resolution
from onetoall_jax import batch
from onetoall_jax.errors import UserError
from onetoall_jax.geometry import Geometry

GEOMETRY = Geometry(4, 8, 48, (1, 1, 1))


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    root = tmp_path_factory.mktemp("set") / "data"
    made = synthetic.SyntheticConfig(num_frames=12, canvas_side=64)
    builder.write(
        root,
        {
            "train": synthetic.clips(made, "train", 14, 1),
            "test": synthetic.clips(made, "test", 3, 1),
        },
    )
    return DataConfig(
        root=str(root),
        resolutions=(Resolution("tiny", image_share=0.3),),
        num_frames=5,
        batch=4,
        workers=0,
        canvas_side=64,
    )


def take(config, count, **kwargs):
    return list(itertools.islice(loader.build(config, GEOMETRY, **kwargs), count))


def assert_same(a, b):
    assert len(a) == len(b)
    for x, y in zip(a, b, strict=True):
        for name in batch.FIELDS:
            np.testing.assert_array_equal(x[name], y[name], err_msg=name)


def test_batches_keep_the_contract_and_mix_videos_and_pictures(config):
    shapes = {batch.check(b, GEOMETRY).num_frames for b in take(config, 8)}
    assert shapes == {1, 5}


def test_a_start_in_the_middle_gives_the_same_batches(config):
    assert_same(take(config, 9)[5:], take(config, 4, start_step=5))


def test_hosts_share_each_global_batch_between_them(config):
    whole = take(config, 6)
    halves = [take(config, 6, host=h, hosts=2) for h in range(2)]
    for step, b in enumerate(whole):
        for h in range(2):
            for name in batch.FIELDS:
                np.testing.assert_array_equal(b[name][h::2], halves[h][step][name])


@pytest.mark.slow
def test_workers_change_nothing(config):
    alone = take(config, 6)
    for workers in (1, 2):
        assert_same(alone, take(dataclasses.replace(config, workers=workers), 6))


def test_an_epoch_holds_each_row_at_most_once(config):
    plan = Plan(config, builder.Rows(config.root, "train").sizes)
    seen: dict[int, list[int]] = {}
    for step in range(20):
        item = plan[step]
        seen.setdefault(item.epoch, []).extend(item.rows.tolist())
    assert len(seen) > 2
    for rows in seen.values():
        assert len(rows) == len(set(rows))
    assert seen[0] != seen[1]


def test_stored_poses_equal_freshly_drawn_ones(config):
    row = builder.Rows(config.root, "train").read(0, [0, 5])
    fresh = synthetic.draw_poses(row.keypoints, 48, 32, 64)
    np.testing.assert_array_equal(row.poses, fresh)


def test_training_and_test_rows_are_different_people(config):
    train, test = (builder.Rows(config.root, s).read(0, [0]) for s in ("train", "test"))
    assert np.abs(train.frames.astype(int) - test.frames).mean() > 5


def test_dropping_everything_leaves_black_conditions(config):
    dark = dataclasses.replace(config, augment=AugmentConfig(drop_all=1.0))
    for b in take(dark, 3):
        names = ("pose_u8", "reference_u8", "reference_mask_u8", "reference_pose_u8")
        assert not any(b[name].any() for name in names)


def test_face_masks_hide_the_reference_but_not_the_clip(config):
    only = AugmentConfig(0, 0, mask_face=1.0, keep_reference=0, zoom=0, without_face=0)
    plain = take(dataclasses.replace(config, augment=AugmentConfig(*[0.0] * 7)), 8)
    hidden = take(dataclasses.replace(config, augment=only), 8)
    touched = 0
    for a, b in zip(plain, hidden, strict=True):
        np.testing.assert_array_equal(a["frames_u8"], b["frames_u8"])
        mask = b["reference_mask_u8"][..., None]
        np.testing.assert_array_equal(b["reference_u8"], a["reference_u8"] * (1 - mask))
        touched += int(mask.any())
    assert touched


def test_held_out_batches_never_change(config):
    test = dataclasses.replace(config, split="test", batch=2)
    first = list(loader.held_out(test, GEOMETRY, 3))
    assert [len(b["row"]) for b in first] == [2, 1]
    assert_same(first, list(loader.held_out(test, GEOMETRY, 3)))


def test_a_missing_set_names_the_command_that_makes_one(tmp_path):
    with pytest.raises(UserError, match="data_pipeline.synthetic --output"):
        builder.Rows(tmp_path / "none", "train")


def test_a_batch_larger_than_the_set_is_refused(config):
    with pytest.raises(UserError, match="lower data.batch"):
        take(dataclasses.replace(config, batch=400), 1)
