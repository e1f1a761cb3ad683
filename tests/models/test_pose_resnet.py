import functools

import jax
import numpy as np
import pytest

from onetoall_jax.models import pose_resnet
from onetoall_jax.models.pose_resnet import PoseResNet
from onetoall_jax.models.settings import ModelConfig

SIZE = ModelConfig(
    num_layers=2, num_heads=2, head_dim=6, mlp_dim=16, reference_layers=1,
    pose_layers=1, pose_channels=8, pose_norm_groups=2,
)  # fmt: skip
POSE = np.random.default_rng(0).uniform(-1, 1, (1, 5, 16, 16, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def plain():
    net = PoseResNet(SIZE)
    shapes = jax.eval_shape(net.init, jax.random.key(0), POSE)
    rng = np.random.default_rng(1)
    params = jax.tree.map(lambda s: 0.07 * rng.standard_normal(s.shape, "f4"), shapes)
    return params, run(net, params)


def run(net, params):
    """The sum of sines of the output, every gradient, and the output."""

    def total(params):
        out, kept = net.apply(params, POSE, mutable=["intermediates"])
        return jax.numpy.sin(out).sum(), (out, kept)

    (_, out), gradient = jax.jit(jax.value_and_grad(total, has_aux=True))(params)
    return out, gradient


def test_columns_beside_each_other_change_nothing(plain):
    params, expected = plain
    made = run(PoseResNet(SIZE, lanes=40, remat=True), params)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(
            a, b, rtol=1e-4, atol=1e-5 * np.abs(b).max()
        ),
        made,
        expected,
    )


def test_a_level_holds_as_many_columns_as_fill_the_lanes(plain):
    net = PoseResNet(SIZE, lanes=128)
    assert net._columns(768) == [16, 8, 4, 2, 1]
    assert net._columns(760) == [8, 4, 2, 1, 1]
    assert PoseResNet(SIZE, lanes=127)._columns(768) == [8, 4, 2, 1, 1]
    assert PoseResNet(SIZE)._columns(768) == [1] * 5


@pytest.mark.parametrize("frames, lanes", [(5, 1), (9, 40)])
def test_sweeps_over_a_large_clip_give_what_the_whole_gives(plain, frames, lanes):
    params, _ = plain
    pose = np.random.default_rng(3).uniform(-1, 1, (2, frames, 16, 16, 3)).astype("f4")
    net = PoseResNet(SIZE, lanes=lanes)
    whole = jax.jit(net.apply)(params, pose)
    swept = jax.jit(net.in_sweeps)(params["params"], pose)
    np.testing.assert_allclose(swept, whole, atol=1e-5 * np.abs(whole).max())


def test_a_large_clip_goes_in_sweeps_unless_it_is_trained(plain, monkeypatch):
    params, _ = plain
    monkeypatch.setattr(pose_resnet, "WHOLE", POSE[..., 0].size - 1)

    def loops(remat):
        run = functools.partial(pose_resnet.grid, PoseResNet(SIZE, remat=remat))
        return str(jax.make_jaxpr(run)(params["params"], POSE)).count("scan[")

    assert loops(remat=False) == 3 * len(SIZE.pose_strides) and loops(remat=True) == 0
