"""Parameter trees by leaf name "a/b/c": names, masks by pattern, split and join."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import traverse_util

Tree = Any  # nested dict of arrays


def flatten(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Nested dict -> {"a/b/c": leaf}."""
    return traverse_util.flatten_dict(tree, sep="/")


def unflatten(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """{"a/b/c": leaf} -> nested dict."""
    return traverse_util.unflatten_dict(dict(leaves), sep="/")


def matches(patterns: Sequence[str]) -> Callable[[str], bool]:
    """Test for a leaf name: does any regular expression match from its start?"""
    compiled = [re.compile(p) for p in patterns]
    return lambda name: any(p.match(name) for p in compiled)


def mask(tree: Mapping[str, Any], patterns: Sequence[str]) -> dict[str, Any]:
    """Tree of booleans: True where a pattern matches the leaf's name."""
    hit = matches(patterns)
    return unflatten({name: hit(name) for name in flatten(tree)})


def split(
    tree: Mapping[str, Any], patterns: Sequence[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """(leaves whose names match, the others), each a nested dict."""
    hit = matches(patterns)
    leaves = flatten(tree)
    return (
        unflatten({n: v for n, v in leaves.items() if hit(n)}),
        unflatten({n: v for n, v in leaves.items() if not hit(n)}),
    )


def join(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, Any]:
    """Inverse of `split`.

    Raises:
      ValueError: a name stands in both trees.
    """
    left, right = flatten(a), flatten(b)
    twice = sorted(set(left) & set(right))
    if twice:
        raise ValueError(f"in both trees: {twice[:5]}")
    return unflatten({**left, **right})


def retyped(shapes: Tree, dtype: Any) -> Tree:
    """ShapeDtypeStructs in another type; shardings stay."""
    return jax.tree.map(lambda leaf: leaf.update(dtype=jnp.dtype(dtype)), shapes)


def num_elements(tree: Tree) -> int:
    """Number of scalars in all leaves."""
    return sum(int(leaf.size) for leaf in jax.tree.leaves(tree))
