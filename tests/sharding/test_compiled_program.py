"""What the compiler made of the rules, read from its programs."""

import dataclasses
import functools
import math
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from configs import stage2
from onetoall_jax import axes, trees
from onetoall_jax.models import onetoall
from onetoall_jax.models.attention import AttentionConfig
from onetoall_jax.models.layers import Dense
from onetoall_jax.models.settings import ModelConfig
from onetoall_jax.pipelines import settings as run_settings
from onetoall_jax.pipelines import train
from onetoall_jax.planning import collectives
from onetoall_jax.sharding import mesh, rules

CONFIG = ModelConfig(
    num_layers=5, num_heads=4, head_dim=12, mlp_dim=20, in_channels=4, out_channels=4,
    text_dim=8, time_dim=8, reference_layers=2, patch=(1, 1, 1),
)  # fmt: skip
REPLICATED = rules.table((("param_embed", ()),))


@functools.cache
def calls(*, reference, backward, form):
    """Collectives of the loss or its gradient on 2 x 4 devices, by kind."""
    cfg = CONFIG if reference else dataclasses.replace(CONFIG, reference_layers=0)
    grid = mesh.build(mesh.MeshConfig(data=2, fsdp=1, context=4), jax.devices()[:8])
    f = onetoall.functions(cfg, attention=AttentionConfig(context=form))

    def loss(params, latents, timestep, text, picture):
        given = f.conditions(params, text, picture)
        features = f.reference_features(params, picture, timestep)
        return jnp.mean(f.velocity(params, latents, timestep, given, features) ** 2)

    def clips(*shape):
        place = rules.batch(grid)
        return jax.ShapeDtypeStruct((4, *shape), jnp.float32, sharding=place)

    params = jax.tree.map(
        lambda s: s.update(sharding=rules.whole(grid)), onetoall.abstract(cfg)
    )
    given = clips(3, 3, 3, 4), clips(), clips(5, 8), clips(1, 3, 3, 8)
    with mesh.use(grid, REPLICATED):
        program = jax.jit(jax.grad(loss) if backward else loss)
        text = program.lower(params, *given).compile().as_text()
    return {row.kind: row.calls for row in collectives.read(text)}


@pytest.mark.parametrize(
    "form", ["ulysses", pytest.param("ring", marks=pytest.mark.slow)]
)
def test_the_reference_costs_the_forward_pass_no_collective(form):
    made = calls(reference=True, backward=False, form=form)
    exchange = {
        "ulysses": {"all-to-all": 2 * CONFIG.num_layers},
        "ring": {"collective-permute": 3 * 2 * CONFIG.num_layers},
    }
    assert made == {"all-gather": 1, "all-reduce": 1, **exchange[form]}
    assert made == calls(reference=False, backward=False, form=form)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["ulysses", "ring"])
def test_the_reference_costs_the_backward_pass_one_sum_a_group_at_most(form):
    with_it, without = (
        calls(reference=r, backward=True, form=form) for r in (True, False)
    )
    print(with_it, without)
    groups = CONFIG.reference_layers + 1
    more = {kind: with_it[kind] - without.get(kind, 0) for kind in with_it}
    assert more.pop("all-reduce") <= groups
    assert not any(more.values())


@pytest.mark.parametrize("size", ["1_3b", pytest.param("14b", marks=pytest.mark.slow)])
def test_nearly_all_bytes_of_parameters_and_optimizer_are_split(size):
    settings = run_settings.build(stage2.get_config(size).to_dict())
    for devices, context in ((2, 1), (4, 1), (8, 1), (8, 4)):
        sizes = mesh.MeshConfig(context=context)
        grid = mesh.build(sizes, jax.devices()[:devices])
        state = train.abstract_state(settings, grid)
        split = whole = 0
        for leaf in jax.tree.leaves((state.trainable, state.frozen, state.optimizer)):
            size_bytes = leaf.size * leaf.dtype.itemsize
            shard = math.prod(leaf.sharding.shard_shape(leaf.shape))
            whole += size_bytes
            split += size_bytes * (shard * devices == leaf.size)
        assert split / whole >= 0.95, (devices, context, split / whole)


def test_weights_are_gathered_in_the_compute_type_and_gradients_stay_split():
    grid = mesh.build(mesh.MeshConfig(), jax.devices()[:8])
    layer = Dense(48, (axes.PARAM_EMBED, axes.PARAM_MLP), jnp.bfloat16)
    boxed = jax.eval_shape(layer.init, jax.random.key(0), jnp.zeros((1, 32)))
    where = rules.shardings(boxed["params"], grid)
    params = jax.tree.map(
        lambda s, w: s.update(sharding=w), nn.meta.unbox(boxed["params"]), where
    )
    x = jax.ShapeDtypeStruct((16, 3, 32), jnp.bfloat16, sharding=rules.batch(grid))

    def loss(params, x):
        return jnp.sum(jnp.sin(layer.apply({"params": params}, x).astype(jnp.float32)))

    with mesh.use(grid, rules.RULES):
        compiled = jax.jit(jax.grad(loss)).lower(params, x).compile()
    made = compiled.output_shardings
    assert made["kernel"].is_equivalent_to(where["kernel"], 2)
    text = compiled.as_text()
    gathers = re.findall(r"= \(?(\w+\[[\d,]*\])\S* all-gather", text)
    # A CPU computes bfloat16 products in float32 and may gather what it computes with.
    assert len(gathers) == 1 and gathers[0].endswith("[32,48]"), gathers


@pytest.mark.slow
def test_a_fresh_network_never_lies_whole_on_a_device():
    c = stage2.get_config("tiny")
    c.model.update(dict(num_layers=4, num_heads=4, head_dim=64, mlp_dim=1024))
    c.init_from, c.mesh.fsdp = "scratch", 8
    settings = run_settings.build(c.to_dict())
    grid = mesh.build(settings.mesh, jax.devices()[:8])
    whole = train.abstract_state(settings, grid)
    size_bytes = sum(
        leaf.size * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(trees.join(whole.trainable, whole.frozen))
    )
    fresh = train.start.fresh(settings, grid)
    memory = fresh.lower(jax.random.key(0)).compile().memory_analysis()
    held = memory.output_size_in_bytes + memory.temp_size_in_bytes
    print(f"held by a device: {held / size_bytes:.3f} of the whole")
    assert held <= 0.3 * size_bytes, held / size_bytes
