import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from configs import sizes
from onetoall_jax import axes, config, trees
from onetoall_jax.errors import UserError
from onetoall_jax.models import onetoall
from onetoall_jax.models.settings import ModelConfig
from onetoall_jax.sharding import mesh, rules


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
    assert places["dit/blocks/attention/query/kernel"].spec == P(None, "fsdp", "tensor")
    split = sum(v.size for n, v in leaves.items() if "fsdp" in str(places[n].spec))
    assert split / sum(v.size for v in leaves.values()) > 0.95


def test_an_axis_that_does_not_divide_stays_whole():
    grid = mesh.build(mesh.MeshConfig(), jax.devices()[:8])
    boxed = {
        "odd": nn.LogicallyPartitioned(jnp.zeros((12,)), (axes.PARAM_EMBED,)),
        "even": nn.LogicallyPartitioned(jnp.zeros((16,)), (axes.PARAM_EMBED,)),
    }
    places = rules.shardings(boxed, grid)
    assert places["odd"].spec == P(None) and places["even"].spec == P("fsdp")


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
