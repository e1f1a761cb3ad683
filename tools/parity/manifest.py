"""Every key and shape of a checkpoint layout against our tables, both ways."""

from collections.abc import Iterator, Mapping
from typing import Any

from onetoall_jax.conversion import apply, kinds
from onetoall_jax.errors import UserError
from onetoall_jax.pipelines import convert
from tools.parity.case import Row


def check(table: Mapping[str, Any]) -> Iterator[Row]:
    """One row: tensors that do not map, in either direction."""
    shapes = {
        kinds.ALIASES.get(k, k): tuple(shape) for k, shape in table["tensors"].items()
    }
    kind = kinds.detect(shapes)
    expected = convert.expected(kind, shapes)
    wrong = 0
    try:
        lines = apply.plan(kind, shapes, expected)
    except UserError as error:
        wrong = str(error).count("\n")
        lines = []
    used = {key for line in lines for key in line.keys}
    lost = len(set(shapes) ^ used) if lines else len(shapes)
    name = f"{kind}: {len(shapes)} tensors"
    yield Row(name, {"wrong": wrong, "left_over": lost}, {"wrong": 0, "left_over": 0})
