"""One clip over eight devices: passes over some, tokens over the others."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from onetoall_jax import flow
from onetoall_jax.models import block_codec, codec, onetoall
from onetoall_jax.models.attention import AttentionConfig
from onetoall_jax.models.settings import ModelConfig
from onetoall_jax.models.text_attention import merged
from onetoall_jax.sampling import guidance
from onetoall_jax.sampling.euler import Context, Denoiser, Inputs
from onetoall_jax.sampling.sampler import Sampler
from onetoall_jax.sampling.settings import SamplingConfig
from onetoall_jax.sharding import mesh, rules

STAGE1 = ModelConfig(
    num_layers=2, num_heads=3, head_dim=12, mlp_dim=20, in_channels=4, out_channels=4,
    text_dim=7, time_dim=8, pose_channels=4, prefix_channels=4, reference_layers=1,
)  # fmt: skip
FULL = dataclasses.replace(
    STAGE1, num_layers=3, pose_layers=1, pose_strides=((4, 16, 16),)
)
CODEC = codec.CodecConfig(
    kind="block", block=block_codec.BlockCodecConfig(temporal=4, spatial=8, channels=4)
)
EIGHT = mesh.MeshConfig(data=2, fsdp=1, context=4)
SIZE = (48, 80)  # 3 x 5 tokens a frame: nothing divides them


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@functools.cache
def params_of(cfg):
    leaves, tree = jax.tree.flatten(onetoall.abstract(cfg))
    return tree.unflatten(
        [0.3 * normal(*x.shape, seed=i) for i, x in enumerate(leaves)]
    )


def inputs_of(cfg):
    h, w = SIZE[0] // 8, SIZE[1] // 8
    prompt, negative = normal(1, 20, 7, seed=1), normal(1, 20, 7, seed=2)
    prompt[:, 2:], negative[:, 9:] = 0, 0
    poses = np.random.default_rng(3)
    own = poses.integers(0, 256, (1, 1, *SIZE, 3), np.uint8)
    given = Inputs(
        merged(prompt),
        merged(negative),
        normal(1, 1, h, w, 8, seed=4),
        normal(1, 1, h, w, 8, seed=5),
        own if cfg.pose_layers else None,
    )
    return given, poses.integers(0, 256, (1, 13, *SIZE, 3), np.uint8)


def spread(config, cfg, fn):
    """Result of a program over the mesh."""
    with mesh.use(mesh.build(config), rules.RULES):
        return jax.device_get(jax.jit(fn)(params_of(cfg)))


def draw(cfg, table, passes, form="auto"):
    """Parameters -> latents after two steps, with context."""
    functions = onetoall.functions(cfg, attention=AttentionConfig(context=form))
    denoiser = Denoiser(functions, table, flow.sampling_sigmas(2, 7.0), passes)
    given, pose = inputs_of(cfg)
    noise = normal(1, 4, SIZE[0] // 8, SIZE[1] // 8, 4, seed=6)
    context = Context(jnp.asarray(noise[:, :2] / 2), jnp.ones(1, bool))

    def made(params):
        pose_u8 = jnp.asarray(pose) if cfg.pose_layers else None
        return denoiser.draw(params, given, pose_u8, noise, context)[0]

    return made


def assert_close(ours, want):
    np.testing.assert_allclose(ours, want, rtol=1e-5, atol=1e-5 * np.abs(want).max())


def test_two_passes_by_four_shares_of_tokens_equal_one_device():
    table = guidance.table(
        SamplingConfig(image_guidance=2.0, pose_guidance=0.0, black_pose=False)
    )
    alone = jax.jit(draw(STAGE1, table, "sequential"))(params_of(STAGE1))
    over = spread(EIGHT, STAGE1, draw(STAGE1, table, "auto"))
    assert_close(over, alone)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["ulysses", "ring"])
@pytest.mark.parametrize("scales", [(2.5, 1.5), (2.0, 2.0)])
def test_every_sharding_of_the_full_model_equals_one_device(form, scales):
    table = guidance.table(
        SamplingConfig(image_guidance=scales[0], pose_guidance=scales[1])
    )
    alone = jax.jit(draw(FULL, table, "sequential"))(params_of(FULL))
    # Passes by tokens, tokens alone; parameters in shards; a device without a pass.
    meshes = {"ulysses": ((2, 1, 4), (1, 1, 8)), "ring": ((1, 2, 4), (4, 1, 2))}
    for sizes in meshes[form]:
        config = mesh.MeshConfig(*sizes)
        assert_close(spread(config, FULL, draw(FULL, table, "batched", form)), alone)


@pytest.mark.slow
def test_a_clip_of_two_segments_over_devices_gives_the_same_frames():
    config = SamplingConfig(steps=2, segment_frames=13, passes="sequential")
    given, pose = inputs_of(FULL)
    pose_u8 = np.stack([pose, pose[:, ::-1]])
    made = codec.build(CODEC, (1, 2, 2))

    def frames(passes):
        sampler = Sampler(
            onetoall.functions(FULL), made, dataclasses.replace(config, passes=passes)
        )
        carry = sampler.first_carry(1, *SIZE)
        noise = normal(1, 4, SIZE[0] // 8, SIZE[1] // 8, 4, seed=6)
        offsets = np.array([8, 0], np.int32)

        def fn(params):
            _, drawn = sampler.draw(params, {}, given, carry, pose_u8, offsets, noise)
            return drawn

        return fn

    alone = jax.device_get(jax.jit(frames("sequential"))(params_of(FULL)))
    over = spread(EIGHT, FULL, frames("auto"))
    # The second segment starts from bytes, where a rounding may be a whole step.
    assert_close(over.latents[0], alone.latents[0])
    off = np.abs(over.frames_u8.astype(int) - alone.frames_u8)
    assert off.max() <= 2 and (off > 0).mean() < 1e-2
