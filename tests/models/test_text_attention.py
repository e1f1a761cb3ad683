import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from onetoall_jax import lora
from onetoall_jax.models.settings import ModelConfig
from onetoall_jax.models.text_attention import (
    Text,
    TextAttention,
    TextMemory,
    _folds,
    merged,
)

CFG = ModelConfig(num_layers=1, num_heads=3, head_dim=8, mlp_dim=8)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def padded():
    """Prompts of 3 and 5 rows in 40, one of them saying a row twice."""
    rows = normal(2, 40, 24)
    rows[0, 3:], rows[1, 5:] = 0, 0
    rows[1, 2] = rows[1, 0]
    return rows


def test_equal_rows_become_one_that_counts_as_often():
    rows = padded()
    text = merged(rows)
    assert isinstance(text, Text) and len(text) == 2
    np.testing.assert_array_equal(
        text.copies, [[1, 1, 1, 37, 0, 0, 0, 0], [2, 1, 1, 1, 35, 0, 0, 0]]
    )
    np.testing.assert_array_equal(text.rows[1, :4], rows[1, [0, 1, 3, 4]])


def test_prompts_of_many_rows_stay_as_they_are():
    rows = normal(1, 40, 24)
    assert merged(rows) is rows
    assert merged(padded(), most=7).shape == (2, 40, 24)


def plain(params, x, text):
    """The layer as the release has it, by numpy."""
    p = jax.tree.map(np.asarray, params)

    def dense(name, y):
        kernel = p[name]["kernel"]
        if lora.DOWN in p[name]:
            kernel = (
                kernel + p[name][lora.SCALE] * p[name][lora.DOWN] @ p[name][lora.UP]
            )
        return y @ kernel + p[name]["bias"]

    def rms(name, y):
        square = np.mean(y**2, axis=-1, keepdims=True)
        return y / np.sqrt(square + 1e-6) * p[name]["scale"]

    def heads(y):
        return y.reshape(*y.shape[:2], 3, 8)

    q = heads(rms("query_norm", dense("query", x)))
    k, v = heads(rms("key_norm", dense("key", text))), heads(dense("value", text))
    scores = np.einsum("btnk,bsnk->bnts", q, k) / np.sqrt(8)
    share = np.exp(scores - scores.max(-1, keepdims=True))
    share /= share.sum(-1, keepdims=True)
    return dense("out", np.einsum("bnts,bsnk->btnk", share, v).reshape(x.shape))


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "adapted"])
def layer(request):
    module = TextAttention(CFG)
    text = jnp.asarray(padded())
    boxed = jax.eval_shape(module.init, jax.random.key(0), text[:, :1], text)
    params = jax.tree.map(
        lambda leaf: jnp.asarray(0.3 * normal(*leaf.shape, seed=leaf.shape[0])),
        nn.meta.unbox(boxed)["params"],
    )
    if request.param:
        out = {
            lora.DOWN: 0.3 * normal(24, 2),
            lora.UP: 0.3 * normal(2, 24),
            lora.SCALE: 0.5,
        }
        out = {k: jnp.asarray(v) for k, v in out.items()}
        params = {**params, "out": {**params["out"], **out}}
    return module, params


@pytest.mark.parametrize(("tokens", "folded"), [(4, False), (50, True)])
def test_merged_rows_and_folded_values_change_nothing(layer, tokens, folded):
    module, params = layer
    x, rows = normal(2, tokens, 24, seed=1), padded()
    text = merged(rows)
    assert _folds(tokens, 8, 3, 24) is folded

    def made(rows, bias):
        kept = module.apply({"params": params}, rows, method="remember")
        return module.apply({"params": params}, x, TextMemory(*kept, bias))

    expected = plain(params, x, rows)
    np.testing.assert_allclose(made(rows, None), expected, atol=1e-5)
    made_of_few = made(text.rows, jnp.log(text.copies))
    np.testing.assert_allclose(made_of_few, expected, atol=1e-5)


def test_values_are_folded_where_that_is_less_work():
    # 81x576x1024: rows below the width of a head fold at any number of heads.
    assert _folds(50688, 128, 40, 5120) and _folds(50688, 128, 12, 1536)
    assert not _folds(50688, 226, 40, 5120) and not _folds(50688, 512, 12, 1536)
