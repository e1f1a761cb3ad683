import re

import jax.numpy as jnp
import numpy as np
import pytest

from onetoall_jax import trees
from onetoall_jax.errors import UserError
from onetoall_jax.models import onetoall
from onetoall_jax.models.settings import ModelConfig
from onetoall_jax.training import stages

TINY = ModelConfig(
    num_layers=3, num_heads=1, head_dim=12, mlp_dim=16, text_dim=8, reference_layers=1
)


def test_stage_one_trains_the_reference_path_only():
    names = trees.flatten(onetoall.abstract(TINY))
    trained = set(filter(trees.matches(stages.patterns("stage1")), names))
    stacks = "dit/(lead_)?blocks/attention/"
    dit = {re.sub(f"^{stacks}", "", n) for n in trained if "dit" in n}
    assert {n.split("/")[0] for n in dit} == {
        "reference_key",
        "reference_value",
        "reference_key_norm",
        "out",
    }
    assert {n for n in names if n.startswith("reference_extractor/")} <= trained


def test_an_unknown_set_is_answered_with_the_known_ones():
    with pytest.raises(UserError, match="stage2_and_modulation"):
        stages.patterns("stage4")


def test_a_base_from_scratch_starts_with_open_gates_and_a_silent_head():
    r = np.random.default_rng(0)
    old = {
        name: jnp.asarray(r.normal(size=leaf.shape).astype(np.float32))
        for name, leaf in trees.flatten(onetoall.abstract(TINY)).items()
    }
    made = trees.flatten(stages.from_scratch(trees.unflatten(old)))
    table = np.asarray(made["dit/blocks/modulation"])
    np.testing.assert_array_equal(table[:, :, 3], [[0, 0, 1, 0, 0, 1]] * len(table))
    for name in ("projection/kernel", "projection/bias", "modulation"):
        assert not np.any(made[f"dit/head/{name}"])
    half = "dit/blocks/mlp/out/kernel"
    np.testing.assert_allclose(made[half], 0.5 * old[half])
    same = "dit/blocks/attention/query/kernel"
    np.testing.assert_array_equal(made[same], old[same])
