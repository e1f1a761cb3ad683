"""Applies a key table: coverage and shapes first, then tensor by tensor."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from onetoall_jax import trees
from onetoall_jax.conversion import kinds
from onetoall_jax.conversion.tables.entry import LAYOUTS, Entry
from onetoall_jax.errors import UserError

Read = Callable[[str], np.ndarray]


def plan(
    kind: str, shapes: Mapping[str, Sequence[int]], expected: Mapping[str, Any]
) -> list[Entry]:
    """Lines of the table that fill `expected`, checked against the file's shapes.

    Args:
      kind: one of kinds.NAMES.
      shapes: foreign name -> shape.
      expected: tree of arrays or ShapeDtypeStruct; may be a part of a model, then only
        that part's tensors are asked for.
    Raises:
      UserError: lists every tensor that is missing, misshapen or unused, and every
        leaf that no line fills.
    """
    leaves = {name: tuple(leaf.shape) for name, leaf in trees.flatten(expected).items()}
    lines = lines_of(kind, expected)
    filled = {e.leaf for e in lines}
    problems = [f"no line fills {name}" for name in leaves if name not in filled]
    used = set()
    for entry in lines:
        want = entry.foreign_shape(leaves[entry.leaf])
        if entry.stacked and len(entry.keys) != leaves[entry.leaf][0]:
            problems.append(f"{entry.leaf} has {leaves[entry.leaf][0]} layers")
        for key in entry.keys:
            used.add(key)
            if key not in shapes:
                problems.append(f"missing {key} {want}")
            elif tuple(shapes[key]) != want:
                problems.append(f"{key} is {tuple(shapes[key])}, not {want}")
    problems += [f"unused {key}" for key in sorted(set(shapes) - used)]
    if problems:
        raise UserError(
            f"The file does not fit a model of kind {kind!r}; nothing was written:\n  "
            + "\n  ".join(problems)
        )
    return lines


def leaf(entry: Entry, read: Read, dtype: Any) -> np.ndarray:
    """One leaf of ours: its foreign tensors laid out our way and stacked.

    Layers are written straight into the stack, so memory holds the leaf and one layer.
    """
    turn = LAYOUTS[entry.layout][0]
    if not entry.stacked:
        return np.array(turn(read(entry.keys[0])), dtype=dtype, order="C")
    out: np.ndarray | None = None
    for i, key in enumerate(entry.keys):
        one = turn(read(key))
        if out is None:
            out = np.empty((len(entry.keys), *one.shape), dtype)
        out[i] = one
    assert out is not None
    return out


def widest(entry: Entry, dtypes: Mapping[str, np.dtype]) -> np.dtype:
    """Type that holds all foreign tensors of a leaf exactly."""
    return np.result_type(*(dtypes[key] for key in entry.keys))


def convert(
    kind: str,
    tensors: Mapping[str, np.ndarray],
    expected: Mapping[str, Any],
    dtype: Any = np.float32,
) -> dict[str, Any]:
    """All of `expected` from tensors in memory; see `plan` for errors."""
    lines = plan(kind, {k: v.shape for k, v in tensors.items()}, expected)
    made = {e.leaf: leaf(e, tensors.__getitem__, dtype) for e in lines}
    return trees.unflatten(made)


def lines_of(kind: str, params: Mapping[str, Any]) -> list[Entry]:
    """Lines of the table for the leaves of `params` (a model or a part of one)."""
    shapes = {name: tuple(v.shape) for name, v in trees.flatten(params).items()}
    return [entry for entry in kinds.table(kind, shapes) if entry.leaf in shapes]


def tensors_of(entry: Entry, value: Any) -> Iterator[tuple[str, np.ndarray]]:
    """(foreign name, tensor in the foreign shape) of one leaf, layer by layer."""
    back = LAYOUTS[entry.layout][1]
    whole = np.asarray(value)
    for i, key in enumerate(entry.keys):
        yield key, np.ascontiguousarray(back(whole[i] if entry.stacked else whole))


def export(kind: str, params: Mapping[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
    """(foreign name, tensor) of every tensor, in the foreign shapes."""
    leaves = trees.flatten(params)
    for entry in lines_of(kind, params):
        yield from tensors_of(entry, leaves[entry.leaf])


def foreign_names(kind: str, params: Mapping[str, Any]) -> dict[str, tuple]:
    """Foreign name -> (our leaf, layer or None, layout) for every tensor of a model."""
    return {
        key: (e.leaf, i if e.stacked else None, e.layout)
        for e in lines_of(kind, params)
        for i, key in enumerate(e.keys)
    }
