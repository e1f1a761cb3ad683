import dataclasses
import itertools

import numpy as np
import pytest

from data_pipeline import builder, loader, preview, synthetic
from data_pipeline.plan import Plan
from data_pipeline.settings import AugmentConfig, Resolution
from onetoall_jax import media
from tests.data_pipeline.sets import GEOMETRY, settings, write_pool


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    root = tmp_path_factory.mktemp("set")
    made = synthetic.SyntheticConfig(num_frames=12, canvas_side=0)
    builder.write(root / "data", {"train": synthetic.clips(made, "train", 8, 1)})
    return settings(
        root / "data",
        resolutions=(Resolution("tiny", image_share=0.4),),
        batch=2,
        canvas_side=128,
        pose_pool=write_pool(root / "data", 8),
        augment=AugmentConfig(change_pose=0.7),
    )


def test_every_size_is_shown_with_its_choices(config, tmp_path, capsys):
    preview.write(config, GEOMETRY, tmp_path, batches=3, clips=2)
    sheets = sorted(p.stem for p in tmp_path.glob("step_*.png"))
    videos = sorted(p.stem for p in tmp_path.glob("step_*.mp4"))
    assert sheets == videos and len(sheets) == 3
    assert (tmp_path / "sizes.png").is_file()
    told = capsys.readouterr().out
    assert "2 sizes of batches (1 of videos, 1 of pictures)" in told
    assert "5 x 48x32: frames" in told and "1 x 48x32: frame " in told
    assert len(list(media.Video(tmp_path / f"{sheets[0]}.mp4").frames())) in (1, 5)


def test_what_is_shown_is_what_the_model_gets(config):
    load = loader.Load(config, GEOMETRY, 0, 1)
    steps = Plan(config, load.sizes)
    batches = itertools.islice(loader.build(config, GEOMETRY), 2)
    for step, batch in enumerate(batches):
        plan = steps[step]
        samples = [load.sample(plan, int(row)) for row in plan.rows]
        made = loader.collate(samples, plan.rows, GEOMETRY)
        for name, value in batch.items():
            np.testing.assert_array_equal(made[name], value)
        seen = preview.shown(made, samples, [None, None], plan.bucket, GEOMETRY)
        for i, clip in enumerate(seen):
            np.testing.assert_array_equal(clip.clips["pose"], batch["pose_u8"][i])
            np.testing.assert_array_equal(clip.clips["frames"], batch["frames_u8"][i])


def test_a_changed_head_leaves_the_body_as_it_is(config):
    plain = dataclasses.replace(AugmentConfig.none(), change_pose=1.0)
    changed, own = (
        loader.Load(dataclasses.replace(config, augment=a), GEOMETRY, 0, 1)
        for a in (plain, AugmentConfig.none())
    )
    steps = Plan(config, changed.sizes)
    moved = 0
    for step in range(6):
        for row in steps[step].rows.tolist():
            a, b = (load.sample(steps[step], row) for load in (changed, own))
            points = builder.Rows(config.root, "train").read(row, range(12)).keypoints
            shoulders = points[:, 5:7, 1].min()  # nothing of the head lies below
            low = int(shoulders) + 3
            np.testing.assert_array_equal(a.poses[:, low:], b.poses[:, low:])
            np.testing.assert_array_equal(a.reference_pose, b.reference_pose)
            np.testing.assert_array_equal(a.frames, b.frames)
            moved += not np.array_equal(a.poses, b.poses)
    assert moved >= 6


def test_tints_and_times_by_hand():
    picture = np.full((1, 2, 3), 100, np.uint8)
    made = preview.tinted(picture, np.array([[0, 1]]), (255, 0, 0))
    assert made.tolist() == [[[100, 100, 100], [177, 50, 50]]]
    latent = np.array([0, 1, 0])[:, None, None]
    frames = preview.at_frames(latent, GEOMETRY, 9)
    assert frames.shape == (9, 8, 8)
    assert frames[:, 0, 0].tolist() == [0, 1, 1, 1, 1, 0, 0, 0, 0]
