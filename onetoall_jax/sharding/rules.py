"""One table from logical axis names to mesh axes, and the shardings it gives."""

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from onetoall_jax import axes

Rules = Sequence[tuple[str, str | tuple[str, ...] | None]]
Tree = Any

BATCH_AXES = ("data", "fsdp")
# Every name of `axes.ALL` stands here: what is not split says so.
RULES: Rules = (
    (axes.BATCH, BATCH_AXES),
    (axes.TOKENS, "context"),
    (axes.REFERENCE_TOKENS, None),
    (axes.REFERENCE_COPIES, "context"),
    (axes.TEXT_TOKENS, None),
    (axes.EMBED, None),
    (axes.HEADS, "tensor"),
    (axes.MLP, "tensor"),
    (axes.FRAMES, None),
    (axes.HEIGHT, None),
    (axes.WIDTH, None),
    (axes.CHANNELS, None),
    (axes.PARAM_EMBED, "fsdp"),
    (axes.PARAM_HEADS, "tensor"),
    (axes.PARAM_MLP, "tensor"),
    (axes.LAYERS, None),
    (axes.MODULATION, None),
    (axes.NORM, None),
    (axes.CONV_IN, None),
    (axes.CONV_OUT, None),
    (axes.VOCAB, None),
)


def shardings(boxed: Tree, mesh: Mesh, rules: Rules = RULES) -> Tree:
    """Shardings of plain (unboxed) parameters.

    Args:
      boxed: abstract parameters that carry logical names.
    Returns:
      Tree of NamedSharding, shaped like the unboxed parameters. A mesh axis that does
      not divide its dimension is left out there, so that odd sizes stay whole.
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
        parts = (axis,) if isinstance(axis, str) else tuple(axis or ())
        divides = length % int(np.prod([sizes[p] for p in parts])) == 0
        kept.append(axis if divides else None)
    return PartitionSpec(*kept)


def batch(mesh: Mesh) -> NamedSharding:
    """Sharding of a batch: clips over data and fsdp, the rest whole."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def whole(mesh: Mesh) -> NamedSharding:
    """Sharding of what every device holds completely."""
    return NamedSharding(mesh, PartitionSpec())
