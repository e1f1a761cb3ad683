"""One table from logical axis names to mesh axes, and the shardings it gives."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from onetoall_jax import axes
from onetoall_jax.errors import UserError

Rules = Sequence[tuple[str, str | tuple[str, ...] | None]]
Tree = Any

MESH_AXES = ("data", "fsdp", "context", "tensor")
BATCH_AXES = ("data", "fsdp")
# Every name of `axes.ALL` stands here: what is not split says so.
RULES: Rules = (
    (axes.BATCH, BATCH_AXES),
    (axes.TOKENS, "context"),
    (axes.REFERENCE_COPIES, "context"),
    (axes.STRIPS, (*BATCH_AXES, "context")),
    (axes.TEXT_TOKENS, None),
    (axes.EMBED, None),
    (axes.HEADS, "tensor"),
    (axes.MLP, "tensor"),
    (axes.FRAMES, None),
    (axes.HEIGHT, None),
    (axes.WIDTH, None),
    (axes.CHANNELS, None),
    (axes.PARAM_EMBED, ("fsdp", "context")),
    (axes.PARAM_HEADS, "tensor"),
    (axes.PARAM_MLP, "tensor"),
    (axes.LAYERS, None),
    (axes.MODULATION, None),
    (axes.NORM, None),
    (axes.CONV_IN, None),
    (axes.CONV_OUT, None),
    (axes.VOCAB, None),
)


def table(rows: Sequence[tuple[str, Sequence[str]]]) -> Rules:
    """RULES with the rows of a configuration in the place of its own.

    Args:
      rows: (logical axis, the mesh axes it is split over); no mesh axes leave it whole.
    Raises:
      UserError: a name that is no axis, or the batch, which is placed before any step.
    """
    rules = dict(RULES)
    for name, over in rows:
        if name not in rules or name == axes.BATCH:
            known = sorted(set(rules) - {axes.BATCH})
            raise UserError(f"mesh.rules: {name!r} is none of {known}.")
        unknown = set(over) - set(MESH_AXES)
        if unknown:
            raise UserError(f"mesh.rules: {sorted(unknown)} is none of {MESH_AXES}.")
        rules[name] = over[0] if len(over) == 1 else tuple(over) or None
    return tuple(rules.items())


def shardings(boxed: Tree, mesh: Mesh, rules: Rules = RULES) -> Tree:
    """Shardings of plain (unboxed) parameters.

    Args:
      boxed: abstract parameters that carry logical names.
    Returns:
      Tree of NamedSharding, shaped like the unboxed parameters. Of several mesh axes
      those that divide the dimension are kept, the first ones first.
    Raises:
      ValueError: a parameter carries a name without a rule.
    """
    known = {name for name, _ in rules}

    def place(leaf: Any) -> NamedSharding:
        names = leaf.names if isinstance(leaf, nn.meta.AxisMetadata) else ()  # type: ignore[attr-defined]
        unknown = set(names) - known - {None}
        if unknown:
            raise ValueError(f"no rule for the logical axes {sorted(unknown)}")
        spec = nn.logical_to_mesh_axes(names, rules)
        return NamedSharding(mesh, _fitted(spec, nn.meta.unbox(leaf).shape, mesh.shape))

    return jax.tree.map(
        place, boxed, is_leaf=lambda x: isinstance(x, nn.meta.AxisMetadata)
    )


def _fitted(
    spec: PartitionSpec | None, shape: tuple[int, ...], sizes: Mapping[str, int]
) -> PartitionSpec:
    kept: list[Any] = []
    for axis, length in zip(tuple(spec or ()), shape, strict=False):
        chosen: tuple[str, ...] = ()
        for part in (axis,) if isinstance(axis, str) else tuple(axis or ()):
            if length % math.prod(sizes[p] for p in (*chosen, part)) == 0:
                chosen += (part,)
        kept.append(chosen[0] if len(chosen) == 1 else chosen or None)
    return PartitionSpec(*kept)


def batch_shards(mesh: Mesh) -> int:
    """Parts into which a batch is split."""
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def batch(mesh: Mesh) -> NamedSharding:
    """Sharding of a batch: clips over data and fsdp, the rest whole."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def whole(mesh: Mesh) -> NamedSharding:
    """Sharding of what every device holds completely."""
    return NamedSharding(mesh, PartitionSpec())
