import dataclasses
import itertools
import re

import numpy as np
import pytest

from data_pipeline import builder, drawing, loader, synthetic
from data_pipeline.plan import Plan
from data_pipeline.settings import AugmentConfig, Resolution
from onetoall_jax import batch
from onetoall_jax.errors import UserError
from onetoall_jax.pose.draw import Style
from tests.data_pipeline.sets import GEOMETRY, settings


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
    return settings(root, resolutions=(Resolution("tiny", image_share=0.3),))


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


def test_batches_can_be_shared_between_processes(config):
    odd = dataclasses.replace(config, resolutions=(Resolution("tiny"),))
    for b in take(odd, 3):
        assert all(array.flags.c_contiguous for array in b.values())


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
    fresh = drawing.draw_poses(row.keypoints, 48, 32, 64)
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


def test_hands_count_as_regions_unless_switched_off(config):
    plain = AugmentConfig.none()
    heads = dataclasses.replace(plain, hand_regions=False)
    both, without = (
        np.stack([b["region_u8"].sum() for b in take(c, 8)])
        for c in (dataclasses.replace(config, augment=a) for a in (plain, heads))
    )
    assert (without <= both).all() and 0 < without.sum() < both.sum()


def test_held_out_batches_never_change(config):
    test = dataclasses.replace(config, split="test", batch=2)
    first = list(loader.evaluation_batches(test, GEOMETRY, 3, 2))
    assert [b["row"].tolist() for b in first] == [[0, 1], [2]]
    assert {batch.check(b, GEOMETRY).num_frames for b in first} == {5}
    assert_same(first, list(loader.evaluation_batches(test, GEOMETRY, 3, 2)))
    assert all(b["pose_u8"].any() and not b["reference_mask_u8"].any() for b in first)


def test_clips_too_short_to_evaluate_are_refused(config):
    long = dataclasses.replace(config, num_frames=17)
    with pytest.raises(UserError, match="lower data.num_frames"):
        next(loader.evaluation_batches(long, GEOMETRY, 3, 2))


def test_hosts_that_cannot_share_a_batch_are_refused(config):
    with pytest.raises(UserError, match="multiple"):
        take(config, 1, host=0, hosts=3)


def test_rows_come_back_as_they_were_made(config):
    made = synthetic.SyntheticConfig(num_frames=12, canvas_side=64)
    rows = builder.Rows(config.root, "train")
    for row in (0, 5, 13):
        clip = synthetic.make_clip(made, "train", row)
        np.testing.assert_array_equal(rows.read(row, range(12)).frames, clip.frames)
        np.testing.assert_array_equal(rows.read(row, [3]).keypoints[0],
                                      clip.keypoints[3])  # fmt: skip


def test_footage_is_stored_as_jpeg_and_comes_back_close(tmp_path, config):
    clip = synthetic.make_clip(synthetic.SyntheticConfig(48, 32, 3), "test", 0)
    boxes = [[], [(1.0, 2.0, 9.0, 8.0)], []]
    footage = dataclasses.replace(
        clip, frames=clip.frames.repeat(4, 1).repeat(4, 2), poses=None,
        lossless=False, text_boxes=boxes,
    )  # fmt: skip
    builder.write(tmp_path / "set", {"train": [footage]})
    back = builder.Rows(tmp_path / "set", "train").read(0, [2, 1])
    assert back.poses is None and back.text_boxes == [[], [[1.0, 2.0, 9.0, 8.0]]]
    error = np.abs(back.frames.astype(int) - footage.frames[[2, 1]])
    assert 0 < error.mean() < 4


def test_without_poses_all_else_stays(config):
    bare = dataclasses.replace(config.augment, without_poses=True)
    plain = take(config, 6)
    for a, b in zip(plain, take(dataclasses.replace(config, augment=bare), 6),
                    strict=True):  # fmt: skip
        for name in batch.FIELDS:
            if "pose" in name:
                assert b[name].shape == a[name].shape and not b[name].any()
            else:
                np.testing.assert_array_equal(a[name], b[name], err_msg=name)
    assert any(a["pose_u8"].any() for a in plain)


def test_pictures_of_drawings_have_no_face_points(config, tmp_path):
    """A picture and a clip of one person each, both told to be drawn."""
    made = synthetic.SyntheticConfig(num_frames=5, canvas_side=0)
    clip = synthetic.make_clip(made, "train", 0)
    words = {"drawn": "A cartoon of a woman", "plain": "A woman"}
    poses = {}
    for name, caption in words.items():
        told = dataclasses.replace(clip, caption=caption)
        still = dataclasses.replace(
            told, frames=told.frames[:1], keypoints=told.keypoints[:1]
        )
        builder.write(tmp_path / name, {"train": [told, still]})
        mine = settings(tmp_path / name, batch=1, augment=AugmentConfig(*[0.0] * 7))
        for b in take(mine, 2):
            poses[name, b["pose_u8"].shape[1]] = b["pose_u8"]
    np.testing.assert_array_equal(poses["drawn", 5], poses["plain", 5])
    bare = drawing.draw_poses(clip.keypoints[:1], 48, 32, 64, Style(face=False))
    np.testing.assert_array_equal(poses["drawn", 1][0], bare)
    assert (poses["plain", 1][0] != bare).any()
    none = AugmentConfig(*[0.0] * 7, cartoon_words=())
    mine = settings(tmp_path / "drawn", batch=1, augment=none)
    (b,) = (b for b in take(mine, 2) if b["pose_u8"].shape[1] == 1)
    np.testing.assert_array_equal(b["pose_u8"], poses["plain", 1])


def test_the_first_frame_can_be_the_reference(config):
    first = AugmentConfig(0, 0, 0, 0, 0, 0, 0, reference_first=1.0)
    for b in take(dataclasses.replace(config, augment=first), 4):
        np.testing.assert_array_equal(b["reference_u8"], b["frames_u8"][:, 0])


def test_a_missing_set_names_the_command_that_makes_one(tmp_path):
    with pytest.raises(UserError, match="data_pipeline.synthetic --output"):
        builder.Rows(tmp_path / "none", "train")


def test_a_batch_larger_than_the_set_is_refused(config):
    with pytest.raises(UserError, match="lower data.batch"):
        take(dataclasses.replace(config, batch=400), 1)


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_damage_is_named_in_one_sentence(config, tmp_path, workers):
    r = np.random.default_rng(0)
    made = synthetic.SyntheticConfig(num_frames=6, canvas_side=0)

    def noisy():  # so that rows are far apart in the file
        for i in range(12):
            clip = synthetic.make_clip(made, "train", i)
            frames = r.integers(0, 256, clip.frames.shape, np.uint8)
            yield dataclasses.replace(clip, frames=frames)

    root = tmp_path / "set"
    builder.write(root, {"train": noisy()})
    (file,) = root.rglob("*.array_record*")
    whole = file.read_bytes()

    def problem(content):
        file.write_bytes(content)
        mine = dataclasses.replace(config, root=str(root), batch=1, workers=workers)
        with pytest.raises(UserError) as found:
            take(mine, 12)
        return str(found.value)

    middle = len(whole) // 2
    hole = whole[:middle] + bytes(5000) + whole[middle + 5000 :]
    assert re.fullmatch(r"Row \d+ of .* is damaged: restore .* checkpoint\.",
                        problem(hole))  # fmt: skip
    assert "cannot be read" in problem(whole[:middle])
    file.unlink()
    with pytest.raises(UserError, match=f"{file.name} is missing"):
        builder.Rows(root, "train")
