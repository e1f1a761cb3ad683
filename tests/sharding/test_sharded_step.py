import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import sizes
from onetoall_jax import config, trees
from onetoall_jax.models import onetoall
from onetoall_jax.models.settings import ModelConfig
from onetoall_jax.pipelines import start
from onetoall_jax.sharding import mesh, rules
from onetoall_jax.training import stages
from onetoall_jax.training.example import Example
from onetoall_jax.training.step import clip_losses

MESHES = {
    "fsdp": mesh.MeshConfig(),
    "all": mesh.MeshConfig(data=2, fsdp=2, tensor=2),
}


def model(**parts):
    c = sizes.model("tiny", **parts)
    c.update(dict(num_layers=4, head_dim=12, mlp_dim=32, text_dim=8))
    c.in_channels = c.out_channels = 4
    return config.build(ModelConfig, c.to_dict())


def example(cfg, clips=8):
    r = np.random.default_rng(0)

    def normal(*shape):
        return jnp.asarray(r.normal(size=(clips, *shape)).astype(np.float32))

    latents = (3, 2, 3, cfg.in_channels)
    return Example(
        noisy=normal(*latents),
        target=normal(*latents),
        timestep=jnp.linspace(1.0, 1000.0, clips),
        reference=normal(1, 2, 3, cfg.reference_channels),
        pose=normal(9, 16, 24, 3),
        reference_pose=normal(1, 16, 24, 3),
        pose_scale=jnp.ones(clips).at[0].set(0.0),
        context=jnp.arange(clips) % 2 == 0 if cfg.pose_layers else None,
        region=jnp.ones((clips, *latents[:3])),
        keep=jnp.ones((clips, *latents[:3])),
    )


def gradient(cfg, patterns):
    denoiser = onetoall.functions(cfg)

    def mean_loss(trainable, frozen, text, given):
        whole = trees.join(trainable, frozen)
        return jnp.mean(clip_losses(denoiser, whole, text, given, 3.0, 2))

    return jax.jit(jax.value_and_grad(mean_loss))


def assert_sharded_equals_single(cfg, stage, grid):
    def drawn(key):
        leaves = trees.flatten(nn.meta.unbox(onetoall.init(cfg, key)))
        # Zeros of a stage's start would hide whole branches.
        return trees.unflatten({n: v + 0.02 for n, v in leaves.items()})

    params = jax.jit(drawn)(jax.random.key(0))
    patterns = stages.patterns(stage)
    given, text = example(cfg), jnp.ones((8, 3, cfg.text_dim))
    split = trees.split(params, patterns)
    loss, grads = gradient(cfg, patterns)(*split, text, given)
    placed = jax.device_put(params, rules.shardings(start.boxed(cfg), grid))
    spread = jax.device_put((text, given), rules.batch(grid))
    with mesh.use(grid, rules.RULES):
        ours = gradient(cfg, patterns)(*trees.split(placed, patterns), *spread)
    assert float(ours[0]) == pytest.approx(float(loss), rel=1e-5)
    ours, want = trees.flatten(ours[1]), trees.flatten(grads)
    scale = max(float(jnp.abs(v).max()) for v in want.values())
    for name, value in want.items():
        np.testing.assert_allclose(
            ours[name], value, rtol=1e-4, atol=1e-5 * scale, err_msg=name
        )


def test_eight_devices_give_the_loss_and_gradients_of_one():
    cfg = model(reference=False, pose=False)
    grid = mesh.build(MESHES["all"], jax.devices()[:8])
    assert_sharded_equals_single(cfg, "all", grid)


@pytest.mark.slow
@pytest.mark.parametrize("name", MESHES)
@pytest.mark.parametrize("stage", ["stage1", "stage3"])
def test_every_stage_gives_the_loss_and_gradients_of_one_device(stage, name):
    cfg = model(pose=stage == "stage3")
    assert_sharded_equals_single(
        cfg, stage, mesh.build(MESHES[name], jax.devices()[:8])
    )
