"""Noise levels, the training grid and the straight path."""

import jax.numpy as jnp
import numpy as np
import pytest

from onetoall_jax import flow


def test_thirty_sampling_levels_are_the_recorded_ones():
    sigmas = flow.sampling_sigmas(30, 7.0)
    assert sigmas.dtype == np.float32
    assert sigmas.shape == (31,)
    assert sigmas[0] == 1
    assert sigmas[-1] == 0
    np.testing.assert_allclose(
        sigmas[[1, 2, 15, 28, 29]], [0.994960, 0.989606, 0.868907, 0.231243, 0.046756],
        atol=6e-7,
    )  # fmt: skip


def test_one_step_goes_from_noise_to_data():
    np.testing.assert_array_equal(flow.sampling_sigmas(1, 7.0), [1, 0])


def test_shift_one_changes_nothing_and_a_shift_of_zero_is_refused():
    assert flow.shift_sigma(0.3, 1.0) == 0.3
    assert flow.shift_sigma(0.5, 7.0) == 0.875
    with pytest.raises(ValueError, match="positive"):
        flow.shift_sigma(0.5, 0.0)


def test_training_time_is_cut_after_rounding_to_float32():
    u = jnp.asarray([0.0, 0.71, 0.5, 0.9999, 1.0])
    np.testing.assert_array_equal(
        flow.training_timestep(u), [1000.0, 290.0, 500.0, 1.0, 1.0]
    )
    assert flow.sigma_of(jnp.asarray(290.0)) == jnp.float32(0.29)


def test_noised_latents_lie_on_the_line_whose_slope_is_the_target():
    rng = np.random.default_rng(0)
    latents, noise = rng.normal(size=(2, 2, 3, 4, 4, 5)).astype(np.float32)
    sigma = np.array([0.25, 1.0], np.float32)
    at = flow.noised(latents, noise, sigma)
    np.testing.assert_allclose(at[0], 0.75 * latents[0] + 0.25 * noise[0], rtol=1e-6)
    np.testing.assert_array_equal(at[1], noise[1])
    target = flow.velocity_target(latents, noise)
    np.testing.assert_allclose(at[0] - 0.25 * target[0], latents[0], atol=1e-6)
