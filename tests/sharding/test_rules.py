import subprocess
import sys
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from configs import sizes
from onetoall_jax import axes, config, trees
from onetoall_jax.errors import UserError
from onetoall_jax.models import onetoall
from onetoall_jax.models.settings import ModelConfig
from onetoall_jax.sharding import hosts, mesh, rules

ROOT = Path(__file__).parents[2]


def test_every_logical_axis_has_a_rule_and_every_rule_an_axis():
    assert {name for name, _ in rules.RULES} == set(axes.ALL)


def test_what_is_left_goes_to_the_axis_of_minus_one():
    made = mesh.build(mesh.MeshConfig(data=2, tensor=2), jax.devices()[:8])
    assert dict(made.shape) == {"data": 2, "fsdp": 2, "context": 1, "tensor": 2}
    with pytest.raises(UserError, match="does not cover 8 devices"):
        mesh.build(mesh.MeshConfig(data=3), jax.devices()[:8])


def test_most_of_the_large_network_is_split_over_fsdp():
    cfg = config.build(ModelConfig, sizes.model("1_3b").to_dict())
    boxed = jax.eval_shape(lambda k: onetoall.init(cfg, k), jax.random.key(0))
    grid = mesh.build(mesh.MeshConfig(), jax.devices()[:8])
    places = trees.flatten(rules.shardings(boxed, grid))
    leaves = trees.flatten(nn.meta.unbox(boxed))
    query = "dit/blocks/attention/query/kernel"
    assert places[query].spec == P(None, ("fsdp", "context"), "tensor")
    split = sum(v.size for n, v in leaves.items() if "fsdp" in str(places[n].spec))
    assert split / sum(v.size for v in leaves.values()) > 0.95


def test_of_several_axes_those_that_divide_are_kept():
    grid = mesh.build(mesh.MeshConfig(fsdp=4, context=2), jax.devices()[:8])

    def places(length):
        one = nn.LogicallyPartitioned(jnp.zeros((length,)), (axes.PARAM_EMBED,))
        return rules.shardings({"w": one}, grid)["w"].spec

    both = P(("fsdp", "context"))
    assert [places(n) for n in (16, 12, 6, 5)] == [
        both,
        P("fsdp"),
        P("context"),
        P(None),
    ]


def test_a_configuration_replaces_rows_of_the_table():
    table = dict(rules.table((("param_embed", ()), ("mlp", ("fsdp", "tensor")))))
    assert table["param_embed"] is None and table["mlp"] == ("fsdp", "tensor")
    assert {**table, "param_embed": 0, "mlp": 0} == {
        **dict(rules.RULES), "param_embed": 0, "mlp": 0
    }  # fmt: skip
    for rows, said in (
        ((("mpl", ()),), "'mpl' is none of"),
        ((("batch", ()),), "'batch' is none of"),
        ((("mlp", ("tensr",)),), "'tensr'"),
    ):
        with pytest.raises(UserError, match=said):
            rules.table(rows)


def test_a_misspelled_name_on_a_parameter_is_an_error():
    grid = mesh.build(mesh.MeshConfig(), jax.devices()[:8])
    boxed = {"w": nn.LogicallyPartitioned(jnp.zeros((8,)), ("param_embedd",))}
    with pytest.raises(ValueError, match="param_embedd"):
        rules.shardings(boxed, grid)


def test_constraints_take_effect_where_the_mesh_is_in_force():
    grid = mesh.build(mesh.MeshConfig(data=2, fsdp=4), jax.devices()[:8])

    def pinned(x):
        return axes.constrain(x * 2, axes.BATCH, axes.EMBED)

    with mesh.use(grid, rules.RULES):
        made = jax.jit(pinned)(np.ones((8, 3), np.float32))
    assert made.sharding.spec == P(("data", "fsdp"))
    np.testing.assert_array_equal(made, 2.0)


def test_a_process_reads_the_clips_that_its_devices_hold():
    def places(**sizes):
        grid = mesh.build(mesh.MeshConfig(**sizes), jax.devices()[:8])
        return hosts.rows(grid, 16)

    # One process holds all; how several share is tried with several.
    assert places() == places(fsdp=1, context=8) == tuple(range(16))


def pinned(x):
    return axes.constrain(x * 2, axes.MLP, axes.EMBED)


# What JAX and Flax pass over in silence; each of these would be a run without shards.


def test_the_axes_of_a_mesh_are_for_the_compiler_to_use():
    grid = mesh.build(mesh.MeshConfig(), jax.devices()[:8])
    assert set(grid.axis_types) == {AxisType.Auto}


def test_rules_without_a_mesh_in_force_are_an_error():
    grid = mesh.build(mesh.MeshConfig(), jax.devices()[:8])
    with (
        nn.logical_axis_rules(rules.RULES),
        pytest.raises(ValueError, match="mesh.use"),
    ):
        jax.jit(pinned)(np.ones((8, 3)))
    with pytest.warns(DeprecationWarning), grid, nn.logical_axis_rules(rules.RULES):
        with pytest.raises(ValueError, match="mesh.use"):
            jax.jit(pinned)(np.ones((8, 3)))


def test_without_rules_nothing_is_pinned_and_nothing_is_shared():
    np.testing.assert_array_equal(jax.jit(pinned)(np.ones((8, 3))), 2.0)
    assert axes.shards(axes.TOKENS) == 1 and axes.spec(axes.BATCH) == P(None)


def test_a_name_that_has_no_rule_is_an_error():
    grid = mesh.build(mesh.MeshConfig(), jax.devices()[:8])
    short = [row for row in rules.RULES if row[0] != axes.MLP]
    with mesh.use(grid, short), pytest.raises(ValueError, match="mlp"):
        jax.jit(pinned)(np.ones((8, 3)))


def test_other_rules_are_another_program_of_the_same_function():
    grid = mesh.build(mesh.MeshConfig(fsdp=4, tensor=2), jax.devices()[:8])
    compiled = jax.jit(pinned)
    made = []
    for table in (rules.RULES, rules.table((("mlp", ("fsdp",)),))):
        with mesh.use(grid, table):
            made.append(compiled(np.ones((8, 3), np.float32)).sharding.spec)
    assert made == [P("tensor"), P("fsdp")]


def test_importing_every_module_starts_no_device():
    """Started, JAX can join no other process any more."""
    code = """
import importlib, pkgutil
import jax, onetoall_jax
from jax._src import xla_bridge
for m in pkgutil.walk_packages(onetoall_jax.__path__, "onetoall_jax."):
    if m.name != "onetoall_jax.pose.offline_worker":
        importlib.import_module(m.name)
        assert not xla_bridge.backends_are_initialized(), m.name
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
