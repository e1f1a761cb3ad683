import jax.numpy as jnp
import numpy as np

from onetoall_jax.training import loss


def test_loss_is_the_mean_over_all_elements_of_weighted_squares():
    r = np.random.default_rng(0)
    predicted, target = r.normal(size=(2, 2, 3, 4, 2, 5)).astype(np.float32)
    region, keep = r.integers(0, 2, size=(2, 2, 3, 4, 2))
    context = np.array([True, False])
    want = np.zeros(2)
    for b, f, h, w in np.ndindex(2, 3, 4, 2):
        weight = keep[b, f, h, w] * (3.0 if region[b, f, h, w] else 1.0)
        if context[b] and f < 2:
            weight = 0.0
        square = (predicted[b, f, h, w] - target[b, f, h, w]) ** 2
        want[b] += weight * square.sum()
    weight = loss.weights(
        jnp.asarray(region), jnp.asarray(keep), 3.0, jnp.asarray(context), 2
    )
    made = loss.per_clip(jnp.asarray(predicted), jnp.asarray(target), weight)
    np.testing.assert_allclose(made, want / (3 * 4 * 2 * 5), rtol=1e-5)


def test_a_region_weight_of_one_treats_all_alike():
    region = jnp.asarray([[[[0, 1]]]])
    assert np.all(loss.weights(region, jnp.ones_like(region), 1.0) == 1.0)
