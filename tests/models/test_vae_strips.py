import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from onetoall_jax.models import vae_strips
from onetoall_jax.models.vae import VAE, VAEConfig
from onetoall_jax.sampling.sampler import to_bytes
from onetoall_jax.sharding import mesh, rules

TINY = VAEConfig(base_dim=4, z_dim=3, dim_mult=(1, 2), res_blocks=1,
                 down_in_time=(True,), mean=(0.1, 0.2, 0.3),
                 std=(1.0, 2.0, 0.5))  # fmt: skip
DEEP = VAEConfig(base_dim=4, z_dim=3, mean=TINY.mean, std=TINY.std)


def random(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@functools.cache
def params_of(cfg):
    leaves, tree = jax.tree.flatten(VAE(cfg).abstract())
    return tree.unflatten(
        [0.3 * random(leaf.shape, i) for i, leaf in enumerate(leaves)]
    )


def both(cfg, most, size, frames=3):
    """(latents, frames) of a clip whose frames have this size, by two functions."""
    vae, params = VAE(cfg, most_pixels=most), params_of(cfg)
    clip = np.tanh(random((1, frames, *size, 3), 7))
    side, stride = cfg.spatial_stride, cfg.temporal_stride
    latents = random(
        (1, (frames - 1) // stride + 1, size[0] // side, size[1] // side, 3), 8
    )
    return (
        jax.device_get(jax.jit(vae.encode)(params, clip)),
        jax.device_get(jax.jit(vae.decode)(params, latents)),
    )


def assert_equal(ours, want):
    for a, b in zip(ours, want, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(b).max())


def test_surroundings_by_hand():
    # Pixels: conv_out 1, two blocks of two 4, doubling 1, halved 3; latents: 4 more.
    assert vae_strips.decoder_halo(res_blocks=1, levels=2) == 7
    # Latents: one block 2; halving doubles and reads one more 5, block 2, conv_in 1: 8.
    assert vae_strips.encoder_halo(res_blocks=1, levels=2) == 4
    # The released VAE.
    assert vae_strips.decoder_halo(res_blocks=2, levels=4) == 13
    # Its last two levels: 7 pixels, 4 before they double, 10 of which 4 are a latent.
    assert vae_strips.decoder_halo(res_blocks=2, levels=4, first=2) == 3
    assert vae_strips.encoder_halo(res_blocks=2, levels=4) == 9


def test_strips_cover_all_rows_and_stay_inside():
    for rows, count, halo in [(72, 2, 13), (50, 3, 7), (41, 5, 4), (20, 9, 1)]:
        strips = vae_strips.cut(2, rows, count, halo, halo // 2)
        covered = {r for s in strips.starts for r in range(s, s + strips.own)}
        assert covered == set(range(rows))
        for start, window in zip(strips.starts, strips.windows, strict=True):
            end = window + strips.window
            assert 0 <= window and end <= rows
            assert window == 0 or start - window >= halo
            assert end == rows or end - (start + strips.own) >= halo
        for start, inside in zip(strips.starts, strips.insides, strict=True):
            end = inside + strips.narrow
            assert 0 <= inside and end <= rows
            assert inside == 0 or start - inside >= halo // 2
            assert end == rows or end - (start + strips.own) >= halo // 2


def test_large_frames_are_cut_along_their_longer_side():
    assert vae_strips.plan(72, 128, 13, 3, (1 << 20) // 64, 1) is None
    full_hd = vae_strips.plan(136, 240, 13, 3, (1 << 20) // 64, 1)
    assert full_hd.axis == 3 and full_hd.window * 136 <= (1 << 20) // 64
    assert len(full_hd.starts) == 3
    assert vae_strips.plan(72, 128, 13, 3, None, 8).own == 16


@functools.cache
def whole_picture():
    return both(TINY, None, (64, 6), frames=1)


def test_strips_of_a_picture_change_nothing():
    assert_equal(both(TINY, 8 * 6, (64, 6), frames=1), whole_picture())


def test_what_finishes_the_frames_may_change_their_type():
    vae = VAE(TINY, most_pixels=8 * 6)
    latents = random((1, 1, 32, 3, 3), 8)
    plain = jax.jit(vae.decode)(params_of(TINY), latents)
    bytes_ = jax.jit(lambda *a: vae.decode(*a, to_bytes))(params_of(TINY), latents)
    np.testing.assert_array_equal(bytes_, to_bytes(plain))


@pytest.mark.slow
@pytest.mark.parametrize("size", [(64, 6), (6, 64)])
def test_strips_of_a_clip_change_nothing(size):
    assert_equal(both(TINY, 8 * 6, size), both(TINY, None, size))


@pytest.mark.slow
def test_too_little_around_a_strip_would_show(monkeypatch):
    monkeypatch.setattr(vae_strips, "decoder_halo", lambda *a, **k: 3)
    monkeypatch.setattr(vae_strips, "encoder_halo", lambda *a, **k: 1)
    cut = both(TINY, 8 * 6, (64, 6), frames=1)
    for a, b in zip(cut, whole_picture(), strict=True):
        assert np.abs(a - b).max() > 1e-4 * np.abs(b).max()


@pytest.mark.slow
def test_devices_without_a_clip_take_strips():
    whole = whole_picture()
    with mesh.use(mesh.build(mesh.MeshConfig(data=4, fsdp=1, context=2)), rules.RULES):
        spread = both(TINY, None, (64, 6), frames=1)
    assert_equal(spread, whole)


@pytest.mark.slow
def test_strips_of_the_released_depth_change_nothing():
    size = (8 * 60, 16)
    whole = both(DEEP, None, size, 5)
    assert_equal(both(DEEP, 8 * 8 * 20 * 2, size, 5), whole)


@pytest.mark.slow
def test_strips_bound_the_memory():
    """Of the compiled decoder, for a frame four strips high."""
    cfg = dataclasses.replace(DEEP, base_dim=16)
    latents = jax.ShapeDtypeStruct((1, 2, 160, 8, 3), jnp.float32)

    def needed(most):
        vae = VAE(cfg, most_pixels=most)
        program = jax.jit(vae.decode).lower(vae.abstract(), latents).compile()
        return program.memory_analysis().temp_size_in_bytes

    assert needed(64 * 8 * 48) < 0.5 * needed(None)


def test_free_memory_says_what_is_taken_whole():
    # 96 channels of 4 bytes, 36 times: 14 kB a pixel, for half of 16 GB.
    assert vae_strips.most_pixels(96 * 4, 16e9, "gpu") == 578_703
    assert vae_strips.most_pixels(96 * 2, 16e9, "gpu") == 1_157_407
    assert vae_strips.most_pixels(96 * 4, 16e9, "tpu") == 289_351
    assert vae_strips.most_pixels(96 * 4, None, "cpu") == 1 << 20
