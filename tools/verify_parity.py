"""Compares our code with recorded outputs of the released code, layer by layer.

    python tools/verify_parity.py tests/golden/dit_image tests/golden/schedule.json
    python tools/verify_parity.py tests/golden/* --dtype=bfloat16

Exit status: 0 all within tolerance, 1 something past it, 2 a kind it does not know.
"""

import importlib
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType

import jax
import jax.numpy as jnp
from absl import app, flags

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from onetoall_jax import errors  # noqa: E402
from onetoall_jax.errors import UserError  # noqa: E402
from tools.parity import case as cases  # noqa: E402

_DTYPE = flags.DEFINE_enum(
    "dtype", "float32", ["float32", "bfloat16"], "Compute dtype of our code."
)


def module_of(kind: str) -> ModuleType:
    """Module of a kind; UserError names a kind that has none."""
    try:
        return importlib.import_module(f"tools.parity.{kind}")
    except ModuleNotFoundError as error:
        if error.name != f"tools.parity.{kind}":
            raise
        raise UserError(f"No parity check knows the kind {kind!r}.") from error


def kind_of_table(path: Path) -> str:
    """Kind of a single JSON file: its name; all manifests are one kind."""
    return "manifest" if path.stem.startswith("manifest_") else path.stem


def verify(path: Path, dtype: str = "float32") -> Iterator[cases.Row]:
    """Rows of one case directory or table, in the order of computation.

    Raises:
      UserError: unknown kind, unreadable case, or a tolerance above the kind's ceiling.
    """
    if path.is_file():
        kind = module_of(kind_of_table(path))
        yield from kind.check(json.loads(path.read_text()))
        return
    case = cases.load(path)
    kind = module_of(case.kind)
    if dtype == "bfloat16" and not case.info.get("bf16_diff"):
        return
    seen = set()
    for name, array in kind.run(case, jnp.dtype(dtype)):
        seen.add(name)
        allowed = _allowed(case, kind, name, dtype)
        if allowed:
            yield cases.compare(name, array, case.outputs[name], allowed)
    missing = sorted(set(case.outputs) - seen)
    if missing:
        raise UserError(f"{path.name}: no output of ours answers to {missing}.")


def _allowed(
    case: cases.Case, kind: ModuleType, name: str, dtype: str
) -> dict[str, float]:
    allowed = case.tolerance(name)
    ceiling = _entry(kind.CEILING, name)
    for bound, value in allowed.items():
        if bound == "exact":
            continue
        if bound not in ceiling or value > ceiling[bound]:
            raise UserError(
                f"{case.path.name}: tolerance {bound}={value} of {name} is above the "
                f"ceiling {ceiling.get(bound, 'none')} of kind {case.kind}."
            )
    if dtype == "float32":
        return allowed
    diff = getattr(kind, "bf16_diff", _bf16_diff)(case, name)
    if not diff:
        return {}
    factor = _entry(getattr(kind, "BF16_FACTOR", {"*": 1.5}), name)
    return {"rel_l2": factor * diff["rel_l2"]}


def _bf16_diff(case: cases.Case, name: str) -> dict[str, float] | None:
    return case.info["bf16_diff"].get(name)


def _entry(table: dict, name: str):
    """Entry of the exact name, else of the longest prefix ending in "*"."""
    if name in table:
        return table[name]
    fits = [k for k in table if k.endswith("*") and name.startswith(k[:-1])]
    return table[max(fits, key=len)]


@errors.reported
def main(argv: Sequence[str]) -> None:
    """Prints a row for every output of every path; exits as the module says."""
    jax.config.update("jax_default_matmul_precision", "highest")
    if len(argv) < 2:
        raise UserError("Name at least one case directory or table.")
    failed = 0
    for path in map(Path, argv[1:]):
        print(f"{path.name} ({_DTYPE.value})", flush=True)
        for row in verify(path, _DTYPE.value):
            failed += not row.passed
            mark = "ok " if row.passed else "RED"
            bounds = "  ".join(
                f"{k} {row.errors[k]:.2e} (<= {row.allowed[k]:.2e})"
                for k in row.allowed
            )
            print(f"  {mark} {row.name:44s} {bounds}", flush=True)
    print(f"{failed} past tolerance" if failed else "all within tolerance")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    app.run(main)
