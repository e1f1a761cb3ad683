import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from onetoall_jax.errors import UserError
from onetoall_jax.training import optimizer
from onetoall_jax.training.settings import OptimizerConfig


def test_rate_climbs_from_zero_and_stays():
    config = OptimizerConfig(learning_rate=2.0, warmup_steps=4)
    rates = [optimizer.learning_rate(config, k, 100) for k in (0, 1, 4, 99)]
    assert rates == [0.0, 0.5, 2.0, 2.0]


def test_rate_falls_linearly_to_its_last_share():
    config = OptimizerConfig(
        learning_rate=1.0, warmup_steps=0, decay_from=0.5, final_rate=0.2
    )
    rates = [optimizer.learning_rate(config, k, 10) for k in (0, 5, 6, 10)]
    np.testing.assert_allclose(rates, [1.0, 1.0, 1 - 0.8 / 5, 0.2])


def test_decay_on_matrices_leaves_biases_and_tables_alone():
    params = {"a": {"kernel": jnp.ones((2, 3, 3)), "bias": jnp.ones((2, 3))}}
    zero = {"a": {"kernel": jnp.zeros((2, 3, 3)), "bias": jnp.zeros((2, 3))}}
    tx = optimizer.transform(OptimizerConfig(weight_decay=0.5, decay_on="matrices"))
    direction, _ = tx.update(zero, tx.init(params), params)
    assert float(direction["a"]["kernel"].min()) == 0.5
    assert float(direction["a"]["bias"].max()) == 0.0
    with pytest.raises(UserError, match="'all' or 'matrices'"):
        optimizer.transform(OptimizerConfig(decay_on="kernels"))


def test_without_a_clip_norm_large_gradients_stay():
    big = {"w": jnp.array([3.0, 4.0])}
    for clip, want in ((0.0, 0.4), (1.0, 0.08)):
        config = OptimizerConfig(clip_norm=clip, beta1=0.0, beta2=0.0, eps=45.0)
        tx = optimizer.transform(config)
        direction, _ = tx.update(big, tx.init(big), big)
        scale = 5 if clip else 1
        assert float(direction["w"][1]) == pytest.approx(
            (4 / scale) / (4 / scale + 45) + 4e-4, rel=1e-5
        ), want


def test_running_mean_forgets_its_start():
    mean, params = {"w": jnp.float32(0.0)}, {"w": jnp.float32(1.0)}
    early = optimizer.ema(mean, params, jnp.int32(0), 0.99)
    late = optimizer.ema(mean, params, jnp.int32(10_000), 0.99)
    assert float(early["w"]) == pytest.approx(0.9)
    assert float(late["w"]) == pytest.approx(0.01, rel=1e-4)


def test_moments_in_bfloat16_are_kept_in_it_and_computed_in_float32():
    config = OptimizerConfig(clip_norm=0.0, weight_decay=0.0)
    small = dataclasses.replace(config, moments_dtype="bfloat16")
    params = {"w": jnp.linspace(-1.0, 1.0, 64)}
    grads = {"w": jnp.cos(jnp.arange(64.0))}
    made = []
    for one in (config, small):
        tx = optimizer.transform(one)
        memory = tx.init(params)
        steps = []
        for _ in range(3):
            direction, memory = tx.update(grads, memory, params)
            steps.append(direction["w"])
        made.append((steps, memory))
    (exact, _), (close, memory) = made
    np.testing.assert_array_equal(exact[0], close[0])  # the first reads no moment
    np.testing.assert_allclose(exact[2], close[2], rtol=1e-2)
    kinds = {str(a.dtype) for a in jax.tree.leaves(memory)}
    assert kinds == {"bfloat16", "int32"}
