"""Every configuration builds into the settings that the rooms read."""

import dataclasses
from pathlib import Path

import pytest

from configs import sizes, stage0, stage1, stage2, stage3
from data_pipeline.settings import DataConfig, stage_defaults
from onetoall_jax import config, trees
from onetoall_jax.errors import UserError
from onetoall_jax.models import onetoall
from onetoall_jax.models.attention import Blocks
from onetoall_jax.pipelines import settings

ROOT = Path(__file__).resolve().parent.parent
STAGES = (stage0, stage1, stage2, stage3)
BUILT = [(k, s) for k in range(4) for s in sizes.NAMES if k or s == "tiny"]


def assert_no_chance_above(released, ours):
    """Thousands of clips instead of millions: most must teach the task itself."""
    for name, chance in dataclasses.asdict(ours).items():
        above = getattr(released, name)
        assert chance == above or 0 <= chance <= above


@pytest.mark.parametrize(("stage", "size"), BUILT)
def test_a_configuration_builds(stage, size):
    made = settings.build(STAGES[stage].get_config(size).to_dict())
    data = config.build(DataConfig, made.data, "config.data")
    if size == "tiny":
        assert_no_chance_above(stage_defaults(stage), data.augment)
    else:
        assert data.augment == stage_defaults(stage)
    assert bool(made.model.reference_layers) == (stage > 0)
    assert bool(made.model.pose_layers) == (stage > 1)
    released = {"1_3b": 2_210_576_224, "14b": 18_782_035_296}
    if stage > 1 and size in released:
        assert trees.num_elements(onetoall.abstract(made.model)) == released[size]


def test_a_misspelled_setting_names_the_nearest_one():
    values = stage2.get_config("tiny").to_dict()
    values["training"]["lerning_rate"] = 1.0
    values["training"]["optimizer"].pop("learning_rate")
    with pytest.raises(UserError, match="'lerning_rate'"):
        settings.build(values)
    values = stage2.get_config("tiny").to_dict()
    values["model"]["num_layer"] = 3
    with pytest.raises(UserError, match="did you mean 'num_layers'"):
        settings.build(values)


def test_the_release_recipe_sets_every_slip():
    values = {**stage2.get_config("1_3b").to_dict(), "recipe": "release"}
    made = settings.build(values)
    training, augment = made.training, made.data["augment"]
    assert augment["change_every_frame"] and augment["released_pictures"]
    assert training.shared_draws and training.round_sigma
    assert training.reference_noise.double_exponential
    assert training.optimizer.clip_norm == 0


def test_a_configuration_is_read_by_file_and_argument():
    made = config.read(f"{ROOT / 'configs/stage2.py'}:tiny")
    assert made.to_dict() == stage2.get_config("tiny").to_dict()
    with pytest.raises(UserError, match="there is no file configs/stage9.py"):
        config.read("configs/stage9.py:tiny")
    with pytest.raises(UserError, match="size 'huge': known are tiny"):
        config.read(f"{ROOT / 'configs/stage2.py'}:huge")


def test_every_block_size_of_attention_is_a_setting():
    values = stage2.get_config("1_3b")
    assert values.attention.blocks.to_dict() == dataclasses.asdict(Blocks())
    values.attention.blocks.keys_compute = 512
    assert settings.build(values.to_dict()).attention.blocks.keys_compute == 512
