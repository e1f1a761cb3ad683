"""Finds the fastest blocks of attention on this device and keeps them by shape.

python -m onetoall_jax.pipelines.tune --tokens=20736 --out=tuned.json
python train.py --config=configs/stage2.py:1_3b --config.attention.tuned_from=tuned.json
"""

import dataclasses
import json
import math
import os
import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from absl import app, flags

from onetoall_jax import config, errors
from onetoall_jax.models.attention import AttentionConfig, Blocks, Tuned, attend
from onetoall_jax.models.attention.kernels import choose

_SIZES = (256, 512, 1024, 2048, 3072, 4096)
_REPEATS = 5
# Of every kernel: blocks that are tried together, a group after the other.
_GROUPS = {
    "splash": (
        ("query", "keys", "keys_compute"),
        ("query_backward", "keys_backward", "keys_backward_compute"),
    ),
    "chunked": (("query",),),
}


@dataclasses.dataclass(frozen=True)
class Shape:
    """Of queries and keys on one device: clips, tokens, keys, heads, their width."""

    tokens: int
    keys: int
    clips: int = 1
    heads: int = 12
    head_dim: int = 128
    dtype: str = "bfloat16"


def tune(
    kernel: str,
    shape: Shape,
    seconds: Callable[[Blocks], float],
    sizes: Iterable[int] = _SIZES,
) -> tuple[Tuned, list[tuple[Blocks, float]]]:
    """The fastest blocks of a kernel at a shape, and all that were tried.

    The blocks of the forward pass are settled before those of the backward pass are
    tried. What the device refuses (blocks too large for its memory) is left out.

    Args:
      seconds: of one step with these blocks; infinite where it cannot be made.
    Raises:
      UserError: the kernel has no blocks, or none of them ran.
    """
    if kernel not in _GROUPS:
        raise errors.UserError(
            f"The kernel {kernel!r} has no blocks to tune: {sorted(_GROUPS)} have."
        )
    best, tried = (math.inf, Blocks()), []
    for names in _GROUPS[kernel]:
        for blocks in _candidates(best[1], names, tuple(sizes), shape):
            took = seconds(blocks)
            tried.append((blocks, took))
            if took < best[0]:
                best = took, blocks
    if best[0] == math.inf:
        raise errors.UserError(f"No blocks of {kernel!r} ran at {shape}.")
    found = Tuned(kernel, shape.tokens, shape.keys, shape.head_dim, best[1])
    return found, tried


def _candidates(
    base: Blocks, names: tuple[str, ...], sizes: tuple[int, ...], shape: Shape
) -> Iterable[Blocks]:
    query, *keys = names
    yield base
    for q in [s for s in sizes if s <= shape.tokens]:
        if not keys:
            yield dataclasses.replace(base, **{query: q})
            continue
        for whole in [s for s in sizes if s <= shape.keys]:
            for part in {min(whole, 512), whole}:
                if whole % part == 0:
                    values = dict(zip(names, (q, whole, part), strict=True))
                    yield dataclasses.replace(base, **values)


def measure(
    kernel: str, shape: Shape, *, backward: bool = True
) -> Callable[[Blocks], float]:
    """Function of blocks: median seconds of attention (and its gradient) with them."""
    keys = jax.random.split(jax.random.key(0), 3)
    lengths = shape.tokens, shape.keys, shape.keys
    q, k, v = (
        jax.random.normal(
            key, (shape.clips, n, shape.heads, shape.head_dim), shape.dtype
        )
        for key, n in zip(keys, lengths, strict=True)
    )

    def seconds(blocks: Blocks) -> float:
        form = AttentionConfig(kernel=kernel, blocks=blocks)

        def run(q: jax.Array, k: jax.Array, v: jax.Array) -> Any:
            out = attend(q, k, v, config=form)
            return jnp.sum(out.astype(jnp.float32)) if backward else out

        step = jax.jit(jax.grad(run, argnums=(0, 1, 2)) if backward else run)
        try:
            jax.block_until_ready(step(q, k, v))
        except (ValueError, jax.errors.JaxRuntimeError):
            return math.inf  # too large for the device, or not made for each other
        took = []
        for _ in range(_REPEATS):
            begun = time.perf_counter()
            jax.block_until_ready(step(q, k, v))
            took.append(time.perf_counter() - begun)
        return statistics.median(took)

    return seconds


def keep(path: Path, device: str, found: Tuned) -> None:
    """Adds a winner to a file, in the place of an older one of its shape.

    Args:
      device: kind of device (`jax.Device.device_kind`): winners are its own.
    """
    table = json.loads(path.read_text()) if path.exists() else {}
    row = dataclasses.asdict(found)
    shape = [row[name] for name in ("kernel", "tokens", "keys", "head_dim")]
    others = [
        old
        for old in table.get(device, ())
        if [old[name] for name in ("kernel", "tokens", "keys", "head_dim")] != shape
    ]
    table[device] = [*others, row]
    beside = path.with_suffix(".part")
    beside.write_text(json.dumps(table, indent=1) + "\n")
    os.replace(beside, path)


def taken_in(form: AttentionConfig, device: str) -> AttentionConfig:
    """The form with the winners of its file for a kind of device.

    Raises:
      UserError: there is no such file.
    """
    if not form.tuned_from:
        return form
    path = Path(form.tuned_from)
    if not path.exists():
        raise errors.UserError(
            f"attention.tuned_from, {path}, does not exist: make it with "
            "`python -m onetoall_jax.pipelines.tune`."
        )
    rows = json.loads(path.read_text()).get(device, ())
    found = tuple(config.build(Tuned, row, str(path)) for row in rows)
    return dataclasses.replace(form, tuned=(*form.tuned, *found), tuned_from="")


_TOKENS = flags.DEFINE_integer("tokens", 20736, "Query tokens that one device holds.")
_KEYS = flags.DEFINE_integer("keys", None, "Key tokens; as many as queries without it.")
_HEADS = flags.DEFINE_integer("heads", 12, "Heads that one device holds.")
_KERNEL = flags.DEFINE_string("kernel", "auto", "Kernel; auto is what training takes.")
_BACKWARD = flags.DEFINE_bool("backward", True, "Time the gradient too.")
_OUT = flags.DEFINE_string("out", "tuned.json", "File of winners to add to.")


@errors.reported
def main(argv: list[str]) -> None:
    """Tunes one shape, prints every try and keeps the winner."""
    del argv
    shape = Shape(_TOKENS.value, _KEYS.value or _TOKENS.value, heads=_HEADS.value)
    kernel = _KERNEL.value
    if kernel == "auto":
        sizes = (shape.clips, shape.tokens, shape.heads, shape.head_dim)
        kernel = choose(sizes, shape.keys, jnp.dtype(shape.dtype))
    device = jax.devices()[0].device_kind
    seconds = measure(kernel, shape, backward=_BACKWARD.value)
    found, tried = tune(kernel, shape, seconds)
    for blocks, took in sorted(tried, key=lambda row: row[1]):
        print(f"{1e3 * took:9.2f} ms  {dataclasses.asdict(blocks)}")
    keep(Path(_OUT.value), device, found)
    print(f"kept in {_OUT.value} for {device}: {found}")


if __name__ == "__main__":
    app.run(main)
