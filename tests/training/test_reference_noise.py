import jax.numpy as jnp
import numpy as np
import pytest

from onetoall_jax.training import reference_noise


def test_each_reference_of_a_batch_is_judged_alone():
    reference = np.full((4, 2, 2, 3), 0.5, np.float32)
    reference[1] = -1.0  # dropped
    mask = np.zeros((4, 2, 2), np.float32)
    mask[3, 0] = 1.0  # to be generated
    made = reference_noise.add(
        jnp.asarray(reference),
        jnp.asarray(mask),
        jnp.ones((4, 2, 2, 3)),
        jnp.asarray([0.1, 0.2, 0.3, 0.4]),
        jnp.asarray([True, True, False, True]),
    )
    moved = np.asarray(made) - reference
    np.testing.assert_allclose(moved[0], 0.1, rtol=1e-5)
    assert not moved[1].any() and not moved[2].any() and not moved[3, 0].any()
    np.testing.assert_allclose(moved[3, 1], 0.4, rtol=1e-5)


def test_the_released_size_is_exponentiated_twice():
    log_size = jnp.asarray([-3.0])
    once = reference_noise.size(log_size, double_exponential=False)
    twice = reference_noise.size(log_size, double_exponential=True)
    assert float(once[0]) == pytest.approx(0.0497871, rel=1e-5)
    assert float(twice[0]) == pytest.approx(1.0510473, rel=1e-5)
