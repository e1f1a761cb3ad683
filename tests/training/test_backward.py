"""What a backward pass computes, keeps and leaves out, read from the traced program."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend import core

from onetoall_jax import trees
from onetoall_jax.lora import LoraConfig
from onetoall_jax.models import dit, onetoall
from onetoall_jax.models.settings import ModelConfig
from onetoall_jax.pipelines import start
from onetoall_jax.planning import count
from onetoall_jax.training import flops, stages, state

CONFIG = ModelConfig(
    num_layers=3, num_heads=2, head_dim=12, mlp_dim=20, in_channels=4, out_channels=4,
    text_dim=8, time_dim=8, reference_layers=1, patch=(1, 1, 1),
)  # fmt: skip
CLIPS, TOKENS, REFERENCE, DIM = 2, 27, 9, 24
STAGE1 = stages.patterns("stage1")


def gradient(remat="none", dtype=jnp.float32, cfg=CONFIG):
    f = onetoall.functions(cfg, remat=remat, dtype=dtype)

    def loss(trainable, frozen, latents, timestep, text, picture):
        params = trees.join(trainable, frozen)
        given = f.conditions(params, text, picture)
        features = f.reference_features(params, picture, timestep)
        made = f.velocity(params, latents, timestep, given, features)
        return jnp.mean(made.astype(jnp.float32) ** 2)

    return jax.value_and_grad(loss)


def arguments(patterns, cfg=CONFIG):
    def clips(*shape):
        return jax.ShapeDtypeStruct((CLIPS, *shape), jnp.float32)

    split = trees.split(onetoall.abstract(cfg), patterns)
    return *split, clips(3, 3, 3, 4), clips(), clips(5, 8), clips(1, 3, 3, 8)


@functools.cache
def operations(patterns, remat="none"):
    made = count.operations(gradient(remat), *arguments(patterns))
    return made["matmul"]


def drawn(tree):
    r = np.random.default_rng(0)
    return jax.tree.map(lambda s: 0.3 * r.normal(size=s.shape).astype("f"), tree)


def outputs(jaxpr):
    """Shapes of all products of a program, those in loops and calls included."""
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "dot_general":
            yield eqn.outvars[0].aval.shape
        for value in eqn.params.values():
            for part in value if isinstance(value, (tuple, list)) else (value,):
                inner = getattr(part, "jaxpr", part)
                if isinstance(inner, core.Jaxpr):
                    yield from outputs(inner)


def test_the_first_frozen_stretch_has_no_backward_pass():
    # Training the patch embedding moves the first tokens: then, and only then, the
    # first block's queries, keys, values and attention need their gradients.
    moved = (*STAGE1, "dit/patch_embedding/")
    t, d = TOKENS, DIM
    embedding = 2 * t * CONFIG.in_channels * d
    query_key_value = 3 * 2 * t * d * d
    attention = 4 * 2 * t * t * d + 2 * t * REFERENCE * d
    more = CLIPS * (embedding + query_key_value + attention)
    assert operations(moved) - operations(STAGE1) == more


def test_frozen_parameters_have_no_gradient_and_no_moments():
    kernels = {(DIM, CONFIG.mlp_dim), (CONFIG.mlp_dim, DIM)}

    def made(patterns):
        given = arguments(patterns)
        return kernels & set(outputs(jax.make_jaxpr(gradient())(*given).jaxpr))

    # The extractor, which is trained, has kernels of the same sizes.
    without = tuple(p for p in STAGE1 if "extractor" not in p)
    assert made(without) == set() and made(("",)) == kernels


def test_less_kept_is_more_computed():
    made = {remat: operations(STAGE1, remat) for remat in dit.REMAT}
    assert made["none"] < made["attention"] == made["offload"] < made["block"]
    # Kept outputs save mixing the values anew; in the first block, whose attention has
    # no backward pass, also its scores, keys and values. (To the text, values are
    # projected before they are mixed: there is no output to keep.)
    t, r, d = TOKENS, REFERENCE, DIM
    main = CONFIG.num_layers * 2 * t * (t + r) * d
    extractor = CONFIG.reference_layers * 2 * r * r * d
    first = 2 * t * t * d + 2 * 2 * t * d * d
    assert made["block"] - made["attention"] == CLIPS * (main + extractor + first)


def test_adapters_cost_what_the_table_says():
    adapters, text = LoraConfig(rank=2), 30  # rows, too many to be folded
    patterns = stages.patterns("lora")
    whole = nn.meta.unbox(start.boxed(CONFIG, adapters))
    *_, latents, timestep, rows, picture = arguments(patterns)
    rows = rows.update(shape=(CLIPS, text, CONFIG.text_dim))
    given = (*trees.split(whole, patterns), latents, timestep, rows, picture)
    counted = count.operations(gradient(), *given)["matmul"]
    clip = flops.Clip(9, 3, 3, (3, 3, 3), text)
    ops = flops.operations(CONFIG, clip, patterns, adapters)
    assert CLIPS * flops.total(ops) == counted
    alone = flops.operations(CONFIG, clip, patterns)
    assert not any(op.backward for op in alone)


@pytest.mark.slow
def test_every_remat_policy_gives_the_same_gradients():
    cfg = dataclasses.replace(CONFIG, num_layers=2)
    given = drawn(arguments(STAGE1, cfg))
    loss, grads = jax.jit(gradient(cfg=cfg))(*given)
    text = str(jax.make_jaxpr(gradient("offload", cfg=cfg))(*given))
    assert "<host>[" in text  # what blocks keep waits in the host's memory
    ours, made = jax.jit(gradient("offload", cfg=cfg))(*given)
    assert float(ours) == pytest.approx(float(loss), rel=1e-6)
    for a, b in zip(jax.tree.leaves(made), jax.tree.leaves(grads), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_frozen_kernels_in_bfloat16_alter_no_bit_of_a_computation_in_it():
    cfg = dataclasses.replace(CONFIG, num_layers=2)
    trainable, frozen, *given = drawn(arguments(STAGE1, cfg))
    small = state.stored(jax.tree.map(jnp.asarray, frozen), jnp.bfloat16)
    sizes = [
        sum(a.nbytes for a in jax.tree.leaves(tree) if a.dtype == dtype)
        for tree, dtype in ((small, jnp.bfloat16), (frozen, np.float32))
    ]
    assert sizes[0] > 0.4 * sizes[1]
    step = jax.jit(gradient(dtype=jnp.bfloat16, cfg=cfg))
    made, want = (step(trainable, f, *given) for f in (small, frozen))
    for a, b in zip(jax.tree.leaves(made), jax.tree.leaves(want), strict=True):
        np.testing.assert_array_equal(a, b)
