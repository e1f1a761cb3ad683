"""The passes of guidance with shared parts, against each pass alone."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from onetoall_jax.models import onetoall
from onetoall_jax.models.settings import ModelConfig
from onetoall_jax.models.text_attention import merged

CFG = ModelConfig(
    num_layers=3, num_heads=2, head_dim=12, mlp_dim=20, in_channels=3, out_channels=3,
    text_dim=7, time_dim=8, pose_channels=4, prefix_channels=4, reference_layers=1,
    pose_layers=1, pose_strides=((4, 16, 16),),
)  # fmt: skip
TIMES = jnp.array([700.0, 20.0])
CONTEXT = jnp.array([True, False])


class Row(NamedTuple):
    reference: str
    text: str
    pose: str
    pose_scale: float


# Equal reference and text; equal reference alone, without pose path.
ROWS = (
    Row("real", "prompt", "real", 0.7),
    Row("real", "prompt", "blank", 0.7),
    Row("real", "negative", "blank", 0.0),
)


@pytest.fixture(scope="module")
def given():
    rng = np.random.default_rng(0)

    def normal(*shape):
        return rng.standard_normal(shape).astype(np.float32)

    params = jax.tree.map(lambda x: 0.3 * normal(*x.shape), onetoall.abstract(CFG))
    texts = {"prompt": normal(2, 20, 7), "negative": normal(2, 20, 7)}
    texts["prompt"][:, 2:] = 0
    texts["negative"][:, 9:] = 0
    pose, own = np.tanh(normal(2, 5, 16, 32, 3)), np.tanh(normal(2, 1, 16, 32, 3))
    return params, {
        "texts": texts,
        "references": {"real": normal(2, 1, 2, 4, 6)},
        "poses": {
            "real": (pose, own),
            "blank": (-np.ones_like(pose), -np.ones_like(own)),
        },
        "latents": normal(2, 2, 2, 4, 3),
    }


@pytest.fixture(scope="module")
def alone(given):
    """Velocity of every row by itself, its prompt unmerged: the plain form."""
    params, inputs = given
    f = onetoall.functions(CFG)

    @jax.jit
    def one(text, reference, poses, scale):
        conditions = f.conditions(params, text, reference, *poses, scale)
        features = f.reference_features(params, reference, TIMES)
        return f.velocity(
            params, inputs["latents"], TIMES, conditions, features, CONTEXT
        )

    return [
        one(
            inputs["texts"][row.text],
            inputs["references"][row.reference],
            inputs["poses"][row.pose],
            row.pose_scale,
        )
        for row in ROWS
    ]


@pytest.mark.parametrize(
    "together", [False, pytest.param(True, marks=pytest.mark.slow)]
)
def test_passes_with_shared_parts_equal_passes_alone(given, alone, together):
    params, inputs = given
    f = onetoall.functions(CFG)
    texts = {name: merged(rows) for name, rows in inputs["texts"].items()}
    assert [t.rows.shape for t in texts.values()] == [(2, 4, 7), (2, 12, 7)]

    @jax.jit
    def every(texts):
        conditions = f.prepare(
            params, ROWS, texts, inputs["references"], inputs["poses"],
            together=together,
        )  # fmt: skip
        features = {
            name: f.reference_features(params, reference, TIMES)
            for name, reference in inputs["references"].items()
        }
        return f.velocities(
            params, inputs["latents"], TIMES, ROWS, conditions, features, CONTEXT,
            together=together,
        )  # fmt: skip

    made = every(texts)
    for row, a, b in zip(ROWS, alone, made, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-5, err_msg=str(row))
    assert all(np.abs(a - alone[0]).max() > 1e-2 for a in alone[1:])


def test_a_pass_needs_more_memory_for_more_tokens():
    f = onetoall.functions(CFG, dtype=jnp.bfloat16)
    # Three frames of tokens with the prefix, 2 of 24 channels each; 7 halves and a
    # float32 a channel.
    assert f.pass_bytes((1, 2, 2, 4, 3)) == 3 * 2 * 24 * (7 * 2 + 4)
