"""Adapters: nothing at first, the merged network later, the only thing that trains."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from onetoall_jax import axes, lora, trees
from onetoall_jax.errors import UserError
from onetoall_jax.lora import LoraConfig
from onetoall_jax.models import onetoall
from onetoall_jax.models.settings import ModelConfig
from onetoall_jax.pipelines import start
from onetoall_jax.training import stages

CFG = ModelConfig(
    num_layers=3, num_heads=2, head_dim=12, mlp_dim=20, in_channels=3, out_channels=3,
    text_dim=7, time_dim=8, reference_layers=1,
)  # fmt: skip
LORA = LoraConfig(rank=2, alpha=3.0)


def random(shape, seed):
    return 0.3 * np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.fixture(scope="module")
def whole():
    """Random base with random adapters, plain."""
    abstract = nn.meta.unbox(start.boxed(CFG, LORA))
    leaves = trees.flatten(abstract)
    made = {n: random(v.shape, i) for i, (n, v) in enumerate(leaves.items())}
    for name in made:
        if name.endswith(lora.SCALE):
            made[name] = np.full(leaves[name].shape, LORA.scale, np.float32)
    return trees.unflatten(made)


@pytest.fixture(scope="module")
def velocity():
    f = onetoall.functions(CFG)
    text, reference = random((1, 4, 7), 1), random((1, 1, 4, 4, 6), 2)
    latents, t = random((1, 2, 4, 4, 3), 3), jnp.array([300.0])

    @jax.jit
    def forward(params):
        given = f.conditions(params, text, reference)
        features = f.reference_features(params, reference, t)
        return f.velocity(params, latents, t, given, features)

    return forward


def test_fresh_adapters_change_nothing(whole, velocity):
    base = trees.split(whole, lora.ALL)[1]
    fresh = dict(trees.flatten(whole))
    for name in fresh:
        if name.endswith(lora.UP):
            fresh[name] = np.zeros_like(fresh[name])
    np.testing.assert_array_equal(velocity(trees.unflatten(fresh)), velocity(base))


def test_merged_equals_unmerged(whole, velocity):
    merged = lora.merge(whole)
    assert not trees.flatten(trees.split(merged, lora.ALL)[0])
    apart, together = velocity(whole), velocity(merged)
    error = np.linalg.norm(apart - together) / np.linalg.norm(apart)
    assert error < 1e-5
    changed = velocity(trees.split(whole, lora.ALL)[1]) - apart
    assert np.abs(changed).max() > 0.01


def test_a_merged_kernel_is_the_formula(whole):
    leaves = trees.flatten(whole)
    at = "dit/blocks/mlp/in"
    got = trees.flatten(lora.merge(whole))[f"{at}/kernel"][1]
    down, up = leaves[f"{at}/lora_down"][1], leaves[f"{at}/lora_up"][1]
    want = leaves[f"{at}/kernel"][1] + 1.5 * down @ up
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-7)


def test_fresh_adapters_start_at_zero_and_know_their_axes():
    init = jax.jit(lambda key: lora.extend(onetoall.init(CFG, key), LORA, key))
    boxed = init(jax.random.key(0))
    leaves = trees.flatten(boxed)
    at = "dit/blocks/attention/query"
    assert leaves[f"{at}/lora_down"].names == (axes.LAYERS, axes.PARAM_EMBED, None)
    assert leaves[f"{at}/lora_up"].names == (axes.LAYERS, None, axes.PARAM_HEADS)
    assert not np.asarray(leaves[f"{at}/lora_up"].unbox()).any()
    down = np.asarray(leaves[f"{at}/lora_down"].unbox())
    assert 0.9 / np.sqrt(24) < np.abs(down).max() <= 1 / np.sqrt(24)
    assert np.abs(down[0] - down[1]).max() > 0  # layers differ


def test_only_adapters_train(whole):
    trained, frozen = trees.split(whole, stages.patterns("lora"))
    names = set(trees.flatten(trained))
    assert len(names) == 2 * 2 * 10  # ten kernels of the first block, ten of the rest
    assert all(n.endswith((lora.DOWN, lora.UP)) for n in names)
    assert not any(n.endswith((lora.DOWN, lora.UP)) for n in trees.flatten(frozen))


def test_targets_choose_and_a_wrong_one_is_named():
    leaves = trees.flatten(start.boxed(CFG))
    one = dataclasses.replace(LORA, targets=("dit/blocks/mlp/in",))
    assert lora.kernels(leaves, one) == ["dit/blocks/mlp/in/kernel"]
    with pytest.raises(UserError, match="no layer is called 'dit/block/mlp'"):
        lora.kernels(leaves, dataclasses.replace(LORA, targets=("dit/block/mlp",)))
    with pytest.raises(UserError, match="is no matrix"):
        lora.kernels(
            leaves, dataclasses.replace(LORA, targets=("dit/patch_embedding",))
        )


def test_alpha_zero_counts_once():
    assert LoraConfig(rank=4).scale == 1.0
    assert LoraConfig(rank=4, alpha=8).scale == 2.0
