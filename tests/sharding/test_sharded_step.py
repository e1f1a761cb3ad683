import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import sizes
from onetoall_jax import config, trees
from onetoall_jax.models import onetoall
from onetoall_jax.models.attention import AttentionConfig
from onetoall_jax.models.settings import ModelConfig
from onetoall_jax.pipelines import start
from onetoall_jax.sharding import mesh, rules
from onetoall_jax.training import stages
from onetoall_jax.training.example import Example
from onetoall_jax.training.step import clip_losses

# Name -> (mesh of eight devices, form of attention over the context axis).
MESHES = {
    "fsdp": (dict(), "auto"),
    "tensor": (dict(fsdp=4, tensor=2), "auto"),
    "ulysses": (dict(fsdp=2, context=4), "ulysses"),
    "ring": (dict(fsdp=1, context=8), "ring"),
    "all, ulysses": (dict(fsdp=2, context=2, tensor=2), "ulysses"),
    "all, ring": (dict(data=2, fsdp=1, context=2, tensor=2), "ring"),
}
CLIPS = 8


@functools.cache
def model(stage, layers=3):
    c = sizes.model("tiny", pose=stage != "stage1")
    # Three heads: neither the context nor the tensor axis divides them.
    c.update(dict(num_layers=layers, num_heads=3, head_dim=12, mlp_dim=32, text_dim=8))
    c.in_channels = c.out_channels = 4
    c.reference_layers = 1
    c.pose_strides = ((4, 8, 8),)  # one level: convolutions take longest to compile
    return config.build(ModelConfig, c.to_dict())


def example(stage, layers):
    """Nine tokens a frame, in three frames or prefix and four: an odd number."""
    cfg, r = model(stage, layers), np.random.default_rng(0)
    frames = 4 if cfg.pose_layers else 3

    def normal(*shape):
        return jnp.asarray(r.normal(size=(CLIPS, *shape)).astype(np.float32))

    latents = (frames, 3, 3, cfg.in_channels)
    ones = jnp.ones((CLIPS, *latents[:3]))
    return Example(
        noisy=normal(*latents),
        target=normal(*latents),
        timestep=jnp.linspace(1.0, 1000.0, CLIPS),
        reference=normal(1, 3, 3, cfg.reference_channels),
        pose=normal(4 * frames - 3, 24, 24, 3),
        reference_pose=normal(1, 24, 24, 3),
        pose_scale=jnp.ones(CLIPS).at[0].set(0.0),
        context=jnp.arange(CLIPS) % 2 == 0 if stage == "stage3" else None,
        region=ones.at[:, :, 0].set(0.0),
        keep=ones.at[:, :, :, 0].set(0.0),
    )


def gradient(cfg, form="auto"):
    attention = AttentionConfig(context=form)
    denoiser = onetoall.functions(cfg, attention=attention)

    def mean_loss(trainable, frozen, text, given):
        whole = trees.join(trainable, frozen)
        return jnp.mean(clip_losses(denoiser, whole, text, given, 3.0, 2))

    return jax.jit(jax.value_and_grad(mean_loss))


@functools.cache
def params(cfg):
    def drawn(key):
        leaves = trees.flatten(nn.meta.unbox(onetoall.init(cfg, key)))
        keys = jax.random.split(key, len(leaves))
        # Zeros of a stage's start would hide whole branches; so would one number for
        # all channels, which the next norm takes away.
        return trees.unflatten(
            {
                name: value + 0.02 * jax.random.normal(k, value.shape)
                for k, (name, value) in zip(keys, leaves.items(), strict=True)
            }
        )

    return jax.jit(drawn)(jax.random.key(0))


def text(cfg):
    return jnp.ones((CLIPS, 3, cfg.text_dim))


@functools.cache
def on_one_device(stage, layers):
    cfg = model(stage, layers)
    split = trees.split(params(cfg), stages.patterns(stage))
    return gradient(cfg)(*split, text(cfg), example(stage, layers))


def error(stage, name, layers):
    """Largest difference of loss and of any leaf's gradient, relative to its size."""
    (sizes_, form), cfg = MESHES[name], model(stage, layers)
    grid = mesh.build(mesh.MeshConfig(**sizes_), jax.devices()[:8])
    where = rules.shardings(start.boxed(cfg), grid)
    placed = jax.device_put(params(cfg), where)
    spread = jax.device_put((text(cfg), example(stage, layers)), rules.batch(grid))
    with mesh.use(grid, rules.RULES):
        split = trees.split(placed, stages.patterns(stage))
        ours = gradient(cfg, form)(*split, *spread)
    want = on_one_device(stage, layers)
    errors = {"loss": abs(float(ours[0] / want[0]) - 1)}
    got, want = (trees.flatten(made[1]) for made in (ours, want))
    # A key's bias moves no softmax: its gradient is rounding, measured by the others.
    floor = 1e-3 * max(float(jnp.abs(v).max()) for v in want.values())
    for leaf, value in want.items():
        scale = max(float(jnp.abs(value).max()), floor)
        errors[leaf] = float(np.abs(np.asarray(got[leaf]) - value).max()) / scale
    return errors


def assert_equal(stage, name, layers=3):
    errors = error(stage, name, layers)
    worst = max(errors, key=errors.get)
    print(f"{stage}, {name}: {errors[worst]:.1e} in {worst}")
    assert errors[worst] <= 1e-5, (worst, errors[worst])


def test_eight_devices_give_the_loss_and_gradients_of_one():
    assert_equal("stage1", "all, ulysses", layers=1)


@pytest.mark.slow
@pytest.mark.parametrize("name", MESHES)
@pytest.mark.parametrize("stage", ["stage1", "stage2", "stage3"])
def test_every_stage_on_every_mesh_gives_the_gradients_of_one_device(stage, name):
    assert_equal(stage, name)
