import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from onetoall_jax import axes
from onetoall_jax.models.attention import (
    AttentionConfig,
    Blocks,
    Tuned,
    attend,
    kernels,
)
from onetoall_jax.models.attention import context as forms
from onetoall_jax.sharding import mesh, rules


def drawn(t, s, *, clips=2, heads=3, width=8, seed=0):
    keys = jax.random.split(jax.random.key(seed), 3)
    q = jax.random.normal(keys[0], (clips, t, heads, width))
    return q, *(jax.random.normal(k, (clips, s, heads, width)) for k in keys[1:])


def gradient(fn):
    """(a number that depends on all of the output, its gradient by q, k, v)."""
    total = lambda *qkv: jnp.sum(jnp.sin(3 * fn(*qkv)))  # noqa: E731
    return jax.jit(jax.value_and_grad(total, argnums=(0, 1, 2)))


def assert_equal(ours, want):
    np.testing.assert_allclose(ours[0], want[0], rtol=1e-5)
    for a, b in zip(ours[1], want[1], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_attention_by_hand():
    q = jnp.array([[[[2.0, 0.0]]]])
    k = jnp.array([[[[1.0, 0.0]], [[0.0, 1.0]]]])
    v = jnp.array([[[[1.0]], [[3.0]]]])
    weight = 1 / (1 + np.exp(-2 / np.sqrt(2)))
    out = attend(q, k, v)
    np.testing.assert_allclose(out[0, 0, 0, 0], weight + 3 * (1 - weight), rtol=1e-6)


@pytest.mark.parametrize("lengths", [(40, 33)])
def test_chunked_attention_equals_plain(lengths, monkeypatch):
    monkeypatch.setattr(kernels, "_CHUNK_SCORES", 64)
    given = drawn(*lengths)
    assert_equal(gradient(kernels.chunked)(*given), gradient(kernels.plain)(*given))


def test_the_tpu_kernel_pads_and_masks_odd_lengths():
    given = drawn(150, 70, clips=1, heads=2, width=128)
    ours = gradient(functools.partial(kernels.splash, interpret=True))
    assert_equal(ours(*given), gradient(kernels.plain)(*given))


def test_the_tpu_kernel_takes_its_blocks_from_the_settings():
    given = drawn(300, 520, clips=1, heads=1, width=128)
    blocks = Blocks(256, 512, 128, 128, 256, 128)
    ours = functools.partial(kernels.splash, blocks=blocks, interpret=True)
    assert_equal(gradient(ours)(*given), gradient(kernels.plain)(*given))
    with pytest.raises(ValueError, match="block_q is 100"):
        kernels.splash(*given, Blocks(100), interpret=True)
    with pytest.raises(ValueError, match="block_kv_compute does not divide"):
        kernels.splash(*given, Blocks(0, 512, 384), interpret=True)


def test_a_tuned_shape_has_its_own_blocks():
    row = Tuned("splash", 100, 200, 128, Blocks(256))
    config = AttentionConfig(blocks=Blocks(512), tuned=(row,))
    assert config.blocks_for("splash", 100, 200, 128) == Blocks(256)
    assert config.blocks_for("splash", 100, 201, 128) == Blocks(512)
    with pytest.raises(ValueError, match="attention.context is 'rings'"):
        AttentionConfig(context="rings")


MESHES = {
    "context 8": dict(data=1, fsdp=1, context=8),
    "context 4": dict(data=1, fsdp=2, context=4),
    "context 2, tensor 2": dict(data=2, fsdp=1, context=2, tensor=2),
}
CASES = [
    (form, name, tokens)
    for form in ("ulysses", "ring")
    for name, tokens in (
        ("context 8", 8),  # of which 5 count: whole devices hold padding only
        ("context 4", 16),
        ("context 2, tensor 2", 14),
    )
]


@pytest.mark.parametrize(("form", "name", "tokens"), CASES)
def test_devices_that_share_the_tokens_attend_to_all(form, name, tokens):
    # Three heads: no axis divides them. The last three tokens are padding.
    grid = mesh.build(mesh.MeshConfig(**MESHES[name]), jax.devices()[:8])
    real = tokens - 3
    given = drawn(tokens, tokens)
    config = AttentionConfig(context=form)
    clean = [x[:, :real] for x in given]
    want = gradient(kernels.plain)(*clean)
    with mesh.use(grid, rules.RULES):
        shared = functools.partial(attend, num_keys=real, config=config)
        value, grads = gradient(lambda *qkv: shared(*qkv)[:, :real])(*given)
    assert_equal((value, [g[:, :real] for g in grads]), want)
    for g in grads:
        np.testing.assert_array_equal(g[:, real:], 0.0)


def test_a_ring_in_chunks_of_queries_equals_one_without(monkeypatch):
    grid = mesh.build(mesh.MeshConfig(fsdp=1, context=2), jax.devices()[:2])
    given = drawn(10, 10)
    monkeypatch.setattr(forms, "_BLOCK_SCORES", 2 * 3 * 5 * 2)
    with mesh.use(grid, rules.RULES):
        ring = functools.partial(attend, config=AttentionConfig(context="ring"))
        text = jax.jit(ring).lower(*given).as_text()
        made = gradient(ring)(*given)
    assert "2x2x3x5" in text  # scores of two queries of each clip
    assert_equal(made, gradient(kernels.plain)(*given))


def test_whole_keys_are_met_without_sending_anything():
    grid = mesh.build(mesh.MeshConfig(fsdp=2, context=4), jax.devices()[:8])
    q, k, v = drawn(12, 5)
    bias = jnp.where(jnp.arange(5) < 4, 0.0, -jnp.inf)[None, None, None]
    want = kernels.plain(q, k[:, :4], v[:, :4])
    with mesh.use(grid, rules.RULES):
        places = [
            jax.NamedSharding(grid, axes.spec(axes.BATCH, at))
            for at in (axes.TOKENS, None, None)
        ]
        spread = jax.device_put((q, k, v), tuple(places))
        text = functools.partial(attend, keys=axes.TEXT_TOKENS, bias=bias)
        compiled = jax.jit(text).lower(*spread).compile()
        made = compiled(*spread)
    np.testing.assert_allclose(made, want, rtol=1e-5, atol=1e-6)
    assert not any(c in compiled.as_text() for c in ("all-", "permute", "scatter"))


def test_every_device_meets_its_own_copy_of_the_reference():
    grid = mesh.build(mesh.MeshConfig(fsdp=1, context=4), jax.devices()[:4])
    q, k, v = drawn(12, 5)
    copied = [jnp.tile(x, (1, 4, 1, 1)) for x in (k, v)]
    with mesh.use(grid, rules.RULES):
        own = jax.jit(functools.partial(attend, keys=axes.REFERENCE_COPIES))
        made = own(q, *copied)
    np.testing.assert_allclose(made, kernels.plain(q, k, v), rtol=1e-5, atol=1e-6)


def test_heads_are_exchanged_unless_there_are_fewer_than_devices():
    def collectives(heads):
        grid = mesh.build(mesh.MeshConfig(fsdp=1, context=4), jax.devices()[:4])
        with mesh.use(grid, rules.RULES):
            text = jax.jit(attend).lower(*drawn(8, 8, heads=heads)).as_text()
        return "all_to_all" in text, "collective_permute" in text

    assert collectives(5) == (True, False) and collectives(3) == (False, True)


def test_one_device_sends_nothing_and_needs_no_mesh():
    given = drawn(6, 6)
    grid = mesh.build(mesh.MeshConfig(), jax.devices()[:1])
    config = dataclasses.replace(AttentionConfig(), context="ring")
    with mesh.use(grid, rules.RULES):
        np.testing.assert_array_equal(attend(*given, config=config), attend(*given))
