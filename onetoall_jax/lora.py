"""Low-rank adapters: leaves beside the kernels they change.

Beside `query/kernel` stand `query/lora_down` [in,r], `query/lora_up` [r,out] and
`query/lora_scale`, each with a leading axis of layers where the kernel has one; the
layer then computes x @ (kernel + scale * down @ up) without ever making that sum.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from onetoall_jax import axes, trees
from onetoall_jax.errors import UserError

Tree = Any

DOWN, UP, SCALE = "lora_down", "lora_up", "lora_scale"
ALL = (r".*/lora_(down|up|scale)$",)
TRAINED = (r".*/lora_(down|up)$",)
_BLOCKS = "dit/(lead_blocks|blocks)/"


@dataclasses.dataclass(frozen=True)
class LoraConfig:
    """Which kernels get adapters.

    Attributes:
      rank: of every adapter; 0 makes none.
      alpha: the adapter counts alpha / rank; 0 stands for the rank, so counts once.
      targets: patterns of the layers' names, matched from their start.
    """

    rank: int = 0
    alpha: float = 0.0
    targets: tuple[str, ...] = (
        _BLOCKS + "(attention|text_attention)/(query|key|value|out)",
        _BLOCKS + "mlp/(in|out)",
    )

    @property
    def scale(self) -> float:
        """Factor on every adapter's product."""
        return (self.alpha or self.rank) / self.rank


def kernels(leaves: Mapping[str, Any], config: LoraConfig) -> list[str]:
    """Names of the kernels that the targets choose, in order.

    Args:
      leaves: boxed parameters by name.
    Raises:
      UserError: a target that chooses none, or a kernel that is no matrix.
    """
    chosen = []
    for pattern in config.targets:
        hit = trees.matches((pattern + "/kernel$",))
        found = [name for name in leaves if hit(name)]
        if not found:
            raise UserError(f"lora.targets: no layer is called {pattern!r}.")
        chosen += found
    for name in chosen:
        rank = leaves[name].unbox().ndim - _is_stacked(leaves[name])
        if rank != 2:
            raise UserError(f"lora.targets: {name} is no matrix; leave it out.")
    return sorted(set(chosen))


def extend(boxed: Tree, config: LoraConfig, key: jax.Array) -> Tree:
    """The tree with adapters beside the targets' kernels; traceable.

    Args:
      boxed: parameters that carry logical axis names.
      config: of rank 1 or more.
    Returns:
      Boxed tree; `up` is zero, so that the network computes what it did.
    """
    leaves = trees.flatten(boxed)
    for i, name in enumerate(kernels(leaves, config)):
        leaves |= _adapter(name, leaves[name], config, jax.random.fold_in(key, i))
    return trees.unflatten(leaves)


def _is_stacked(leaf: Any) -> bool:
    return bool(leaf.names) and leaf.names[0] == axes.LAYERS


def _adapter(
    name: str, kernel: Any, config: LoraConfig, key: jax.Array
) -> dict[str, Any]:
    *layers, rows, columns = kernel.unbox().shape
    *layer_names, into, out_of = kernel.names

    def box(value: jax.Array, *names: str | None) -> Any:
        return nn.LogicallyPartitioned(value, (*layer_names, *names))

    bound = 1 / math.sqrt(rows)
    shape = (*layers, rows, config.rank)
    down = jax.random.uniform(key, shape, jnp.float32, -bound, bound)
    module = name.removesuffix("/kernel")
    return {
        f"{module}/{DOWN}": box(down, into, None),
        f"{module}/{UP}": box(jnp.zeros((*layers, config.rank, columns)), None, out_of),
        f"{module}/{SCALE}": box(jnp.full(tuple(layers), config.scale)),
    }


def merge(params: Tree) -> Tree:
    """Plain parameters in which every adapter is added to its kernel, in float32."""
    adapters, base = trees.split(params, ALL)
    leaves, given = trees.flatten(base), trees.flatten(adapters)
    for name in [n for n in given if n.endswith(DOWN)]:
        module = name.removesuffix(f"/{DOWN}")
        down, up = given[name], given[f"{module}/{UP}"]
        scale = jnp.asarray(given[f"{module}/{SCALE}"])[..., None, None]
        kernel = leaves[f"{module}/kernel"]
        added = kernel.astype(jnp.float32) + scale * (down @ up)
        leaves[f"{module}/kernel"] = added.astype(kernel.dtype)
    return trees.unflatten(leaves)
