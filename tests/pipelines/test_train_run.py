import json

import jax
import numpy as np
import pytest

from configs import stage0, stage1, stage2, stage3
from onetoall_jax.batch import BatchShape
from onetoall_jax.errors import UserError
from onetoall_jax.pipelines import settings as run_settings
from onetoall_jax.pipelines import train

STAGES = {0: stage0, 1: stage1, 2: stage2, 3: stage3}


def config(stage=0, **training):
    c = STAGES[stage].get_config("tiny")
    c.model.update(dict(num_layers=1, num_heads=1, mlp_dim=16, text_dim=8))
    c.codec.block.channels = c.model.in_channels = c.model.out_channels = 4
    c.mesh.fsdp = 8
    c.training.update(dict(compilation_cache="", remat="none", **training))
    return c


def batches(geometry, start=0):
    shapes = BatchShape(8, 5, 16, 24).shapes(geometry)
    while True:
        r = np.random.default_rng(start)
        made = {n: r.integers(0, 2, s).astype(t) for n, (s, t) in shapes.items()}
        yield {n: v * 255 if n == "frames_u8" else v for n, v in made.items()}
        start += 1


def trained(c, workdir):
    run = train.assemble(run_settings.build(c.to_dict()), workdir)
    return run(batches(run.geometry, run.first_step))


def log(workdir):
    return [json.loads(line) for line in (workdir / "log.jsonl").open()]


def test_a_run_that_stopped_goes_on_as_if_it_had_not(tmp_path):
    def steps(count):
        c = config(steps=count, checkpoint_every=2)
        c.training.optimizer.decay_from = 1.0
        c.training.optimizer.warmup_steps = 1
        c.training.compilation_cache = str(tmp_path / "cache")
        return c

    whole = trained(steps(4), tmp_path / "unbroken")
    trained(steps(2), tmp_path / "broken")
    again = trained(steps(4), tmp_path / "broken")
    assert log(tmp_path / "broken") == log(tmp_path / "unbroken")
    assert again.key == whole.key
    for a, b in zip(_numbers(whole), _numbers(again), strict=True):
        np.testing.assert_array_equal(a, b)


def _numbers(state):
    return jax.tree.leaves(state.replace(key=None))


def test_a_missing_start_says_what_makes_it(tmp_path):
    c = config(1)
    c.init_from = str(tmp_path / "nothing")
    with pytest.raises(UserError, match=r"does not exist.*configs/stage0.py:tiny"):
        train.assemble(run_settings.build(c.to_dict()), tmp_path / "run")
    assert not (tmp_path / "run" / "settings.json").exists()


def test_a_batch_that_does_not_divide_is_refused():
    settings = run_settings.build(config().to_dict())
    mesh = train.meshes.build(settings.mesh)
    with pytest.raises(UserError, match="6 clips cannot be split over 8 devices"):
        train.place({"frames_u8": np.zeros((6, 1, 8, 8, 3), np.uint8)}, mesh)


@pytest.mark.parametrize("size", ["tiny", "1_3b", "14b"])
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_every_config_builds(stage, size):
    from data_pipeline.settings import DataConfig
    from onetoall_jax import config as builder

    made = run_settings.build(STAGES[stage].get_config(size).to_dict())
    builder.build(DataConfig, made.data)
    assert (made.model.pose_layers > 0) == (stage > 1)
    assert made.name == f"stage{stage}_{size}"


def test_stage_zero_has_the_tiny_size_only():
    run_settings.build(stage0.get_config("tiny").to_dict())
    with pytest.raises(ValueError, match="14b starts at stage 1"):
        stage0.get_config("14b")
    with pytest.raises(ValueError, match="tiny, 1_3b, 14b"):
        stage1.get_config("7b")


def test_the_release_recipe_sets_every_option_its_way():
    c = stage2.get_config("1_3b")
    c.recipe = "release"
    made = run_settings.build(c.to_dict()).training
    assert made.shared_draws and made.round_sigma
    assert made.reference_noise.double_exponential
    assert made.optimizer.clip_norm == 0.0
    c.recipe = "released"
    with pytest.raises(UserError, match="'default', 'release'"):
        run_settings.build(c.to_dict())
