import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from onetoall_jax import axes, trees
from onetoall_jax.models import dit, onetoall
from onetoall_jax.models.grow import grow
from onetoall_jax.models.rope import Rope
from onetoall_jax.models.settings import ModelConfig
from onetoall_jax.models.text_attention import TextMemory

BASE = ModelConfig(
    num_layers=4, num_heads=2, head_dim=12, mlp_dim=20, in_channels=3, out_channels=3,
    text_dim=7, time_dim=8, pose_channels=4, prefix_channels=4,
)  # fmt: skip
STAGE1 = dataclasses.replace(BASE, reference_layers=2)
FULL = dataclasses.replace(STAGE1, pose_layers=2)


def random_like(tree, seed=0):
    """Non-zero everywhere, so that no path is silent."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda x: 0.3 * rng.standard_normal(x.shape).astype(np.float32), tree
    )


def grown_from(params, cfg_from, cfg_to):
    step = jax.jit(lambda p, key: grow(p, cfg_from, cfg_to, key))
    return step(params, jax.random.key(0))


@pytest.fixture(scope="module")
def inputs():
    rng = np.random.default_rng(1)

    def normal(*shape):
        return rng.standard_normal(shape).astype(np.float32)

    return {
        "text": normal(2, 5, 7),
        "reference": normal(2, 1, 4, 6, 6),
        "pose": np.tanh(normal(2, 9, 32, 48, 3)),
        "reference_pose": np.tanh(normal(2, 1, 32, 48, 3)),
        "latents": normal(2, 3, 4, 6, 3),
        "timestep": jnp.array([700.0, 20.0]),
    }


@functools.cache
def compiled(cfg):
    """One program for all tests of a model: compiling is what takes time here."""
    f = onetoall.functions(cfg)

    def forward(params, inputs, scale, context):
        args = {k: inputs[k] for k in ("pose", "reference_pose") if cfg.pose_layers}
        given = f.conditions(
            params, inputs["text"], inputs["reference"], pose_scale=scale, **args
        )
        t = inputs["timestep"]
        features = f.reference_features(params, inputs["reference"], t)
        return f.velocity(params, inputs["latents"], t, given, features, context)

    return jax.jit(forward)


def velocity(cfg, params, inputs, context=(False, False), scale=1.0):
    forward = compiled(cfg)
    return forward(params, inputs, jnp.full(2, scale), jnp.array(context))


def test_block_and_feature_groups_follow_the_ceiling_rule():
    def groups(n, m):
        cfg = dataclasses.replace(BASE, num_layers=n, reference_layers=m)
        return cfg.feature_of_block

    assert groups(7, 3) == (0, 0, 1, 1, 2, 2, 3)
    assert groups(9, 3) == (0, 0, 0, 1, 1, 1, 2, 2, 2)
    assert groups(6, 6) == (0, 1, 2, 3, 4, 5)
    assert groups(40, 7) == tuple(i // 5 for i in range(40))


def test_parameter_counts_are_the_released_ones():
    sizes = {
        "1.3b": dict(num_layers=30, num_heads=12, mlp_dim=8960),
        "14b": dict(num_layers=40, num_heads=40, mlp_dim=13824),
    }
    extra = {"1.3b": (14, 2), "14b": (7, 1)}
    expected = {
        "1.3b": (1_418_996_800, 2_131_101_248, 2_210_576_224),
        "14b": (14_288_491_584, 18_506_997_312, 18_782_035_296),
    }
    for size, numbers in sizes.items():
        m, p = extra[size]
        for (reference, pose), count in zip(
            ((0, 0), (m, 0), (m, p)), expected[size], strict=True
        ):
            cfg = ModelConfig(**numbers, reference_layers=reference, pose_layers=pose)
            assert trees.num_elements(onetoall.abstract(cfg)) == count


def test_every_parameter_names_its_axes():
    boxed = jax.eval_shape(lambda key: onetoall.init(FULL, key), jax.random.key(0))
    specs = nn.get_partition_spec(boxed)
    for name, spec in trees.flatten(specs).items():
        assert any(part is not None for part in spec), name
        assert all(part is None or part in axes.ALL for part in spec), name


def test_a_fresh_pose_path_changes_nothing(inputs):
    stage1 = random_like(onetoall.abstract(STAGE1))
    full = grown_from(stage1, STAGE1, FULL)
    with_pose = velocity(FULL, full, inputs)
    without = velocity(FULL, full, inputs, scale=0.0)
    np.testing.assert_array_equal(with_pose, without)


def test_pose_scale_zero_equals_no_pose(inputs):
    params = random_like(onetoall.abstract(FULL))
    f = onetoall.functions(FULL)
    zero = velocity(FULL, params, inputs, scale=0.0)
    given = f.conditions(params, inputs["text"], inputs["reference"])
    t = inputs["timestep"]
    features = f.reference_features(params, inputs["reference"], t)
    none = jax.jit(f.velocity)(params, inputs["latents"], t, given, features)
    np.testing.assert_allclose(zero, none, rtol=1e-5, atol=1e-5)


def test_context_changes_only_clips_that_have_it(inputs):
    params = random_like(onetoall.abstract(FULL))
    plain = velocity(FULL, params, inputs)
    half = velocity(FULL, params, inputs, context=(False, True))
    np.testing.assert_allclose(half[0], plain[0], rtol=1e-5, atol=1e-5)
    assert np.abs(half[1] - plain[1]).max() > 1e-2


def test_growing_to_stage_1_follows_the_release():
    wan = random_like(onetoall.abstract(BASE))
    grown = grown_from(wan, BASE, STAGE1)
    assert jax.tree.map(jnp.shape, grown) == jax.tree.map(
        jnp.shape, onetoall.abstract(STAGE1)
    )
    new = grown["reference_extractor"]
    patch = np.asarray(new["patch_embedding"]["kernel"])
    np.testing.assert_array_equal(
        patch[..., :3, :], wan["dit"]["patch_embedding"]["kernel"]
    )
    assert not patch[..., 3:, :].any()
    assert not np.asarray(new["projections"]["kernel"]).any()
    np.testing.assert_array_equal(
        new["blocks"]["mlp"]["in"]["kernel"],
        wan["dit"]["blocks"]["mlp"]["in"]["kernel"][:2],
    )
    attention = grown["dit"]["blocks"]["attention"]
    fresh = np.asarray(attention["reference_key"]["kernel"])
    assert np.abs(fresh).max() <= 1 / np.sqrt(24) and fresh.std() > 0.1
    np.testing.assert_array_equal(attention["reference_key_norm"]["scale"], 1)


def test_growing_to_stage_2_splits_the_stack_and_copies_the_first_blocks():
    stage1 = random_like(onetoall.abstract(STAGE1))
    grown = grown_from(stage1, STAGE1, FULL)
    assert jax.tree.map(jnp.shape, grown) == jax.tree.map(
        jnp.shape, onetoall.abstract(FULL)
    )
    stacks = ("lead_blocks", "blocks")
    (old_lead, old_rest), (lead, rest) = (
        [params["dit"][k]["attention"]["query"]["kernel"] for k in stacks]
        for params in (stage1, grown)
    )
    assert (len(old_lead), len(lead)) == (1, 3)
    old = np.concatenate([old_lead, old_rest])
    np.testing.assert_array_equal(np.concatenate([lead, rest]), old)
    control = grown["pose_control"]["blocks"]["attention"]["query"]["kernel"]
    np.testing.assert_array_equal(control, old[:2])


def test_growing_into_another_width_is_refused():
    wider = dataclasses.replace(STAGE1, num_heads=3)
    with pytest.raises(ValueError, match="cannot grow"):
        grow({}, BASE, wider, jax.random.key(0))


def test_rope_turns_neighbouring_pairs_by_position_times_frequency():
    # head_dim 12: rows and columns 4 channels each, time 4.
    rope = Rope((2, 3, 4), 12, theta=100.0)
    x = jnp.tile(jnp.array([1.0, 0.0] * 6), (1, 24, 1, 1))
    turned = np.asarray(rope.rotate(x))[0].reshape(2, 3, 4, 12)
    f, row, column = 1, 2, 3
    angles = [f, f / 10, row, row / 10, column, column / 10]
    expected = np.ravel([(np.cos(a), np.sin(a)) for a in angles])
    np.testing.assert_allclose(turned[f, row, column], expected, rtol=1e-5, atol=1e-6)
    still = np.asarray(rope.rotate(x, time=False))[0].reshape(2, 3, 4, 12)
    np.testing.assert_array_equal(still[1, ..., :4], turned[0, ..., :4])
    np.testing.assert_array_equal(still[1, ..., 4:], turned[1, ..., 4:])


def test_a_tpu_turns_by_a_product_that_loses_nothing(monkeypatch):
    rope = Rope((2, 3, 4), 12, theta=100.0)
    x = random_like({"x": jax.ShapeDtypeStruct((2, 24, 3, 12), jnp.float32)})["x"]
    for dtype in (jnp.float32, jnp.bfloat16):
        given = jnp.asarray(x, dtype)
        plain = rope.rotate(given)
        with monkeypatch.context() as patched:
            patched.setattr(axes, "platform", lambda: "tpu")
            np.testing.assert_array_equal(rope.rotate(given), plain)


def test_a_block_in_parts_equals_the_whole(monkeypatch):
    block = dit.Block(BASE, text=True, reference=True)
    d = BASE.dim

    def random(seed, *shape):
        return random_like(jax.ShapeDtypeStruct(shape, jnp.float32), seed)

    clean = np.arange(24) < 12
    modulation = dit.Modulation(
        random(1, 2, 6, d), random(2, 2, 6, d), np.tile(clean, (2, 1))
    )
    rope = Rope((2, 3, 4), BASE.head_dim, 100.0)
    text = TextMemory(random(4, 2, 5, 2, 12), random(6, 2, 5, 2, 12))
    args = (random(3, 2, 24, d), modulation, rope, text, random(5, 2, 12, d))
    rows = (*args[:3], random(4, 2, 5, d), args[4])
    params = random_like(jax.eval_shape(block.init, jax.random.key(0), *rows))

    def made():
        def total(params):
            out = jax.checkpoint(lambda p: block.apply(p, *args))(params)
            return jnp.sin(out).sum(), out

        return jax.jit(jax.grad(total, has_aux=True)).trace(params)

    whole = made().lower().compile()(params)
    monkeypatch.setattr(dit, "_TOGETHER", 5)
    assert dit.parts(24) == 6 and dit.parts(6) == 2 and dit.parts(67) == 1
    parted = made()
    assert str(parted.jaxpr).count("scan[") > 2
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(b).max()),
        parted.lower().compile()(params),
        whole,
    )


def test_a_misspelled_axis_is_an_error():
    with pytest.raises(ValueError, match="tokenz"):
        axes.constrain(jnp.zeros((1, 2, 3)), "batch", "tokenz", "embed")
