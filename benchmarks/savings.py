"""What each exact saving of the sampler is worth, in operations and in time.

    python -m benchmarks.savings --out=benchmarks/results/savings.json

The sampler's own form stands in the last line; the lines above it are built here from
the model's functions, one saving after another, so that the product has no switches.
Operations are counted by the compiler (cost analysis of the lowered program, every
loop unrolled, four blocks of the real width) and by the project's table, both for 81
frames of 576x1024 with three passes. Times are taken on this CPU at a small size, in
turn, as ratios of CPU seconds to the plain form. Outputs of all lines must agree.
"""

import argparse
import contextlib
import dataclasses
import functools
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import timing
from onetoall_jax.geometry import Geometry
from onetoall_jax.models import dit, onetoall, pose_resnet, text_attention
from onetoall_jax.models.attention import kernels
from onetoall_jax.models.layers import layer_norm
from onetoall_jax.models.rope import Rope
from onetoall_jax.models.settings import ModelConfig
from onetoall_jax.models.text_attention import merged
from onetoall_jax.sampling import guidance
from onetoall_jax.sampling.settings import SamplingConfig
from onetoall_jax.training import flops

STEPS = 30
PROMPT, NEGATIVE, ROWS = 1, 41, 512  # rows that are not padding, and all of them
AGREE = 1e-5
SIZES = {
    "1.3B": ModelConfig(
        num_layers=30, num_heads=12, mlp_dim=8960, reference_layers=14, pose_layers=2
    ),
    "14B": ModelConfig(
        num_layers=40, num_heads=40, mlp_dim=13824, reference_layers=7, pose_layers=1
    ),
}
# Few and narrow enough for a CPU.
SMALL = ModelConfig(
    num_layers=4, num_heads=3, mlp_dim=2240, reference_layers=1, pose_layers=2
)
GEOMETRY = Geometry(temporal=4, spatial=8, channels=16, patch=(1, 2, 2))
FULL_CLIP = (81, 576, 1024)
SMALL_CLIP = (5, 256, 320)

# Name, what is new in it. Each line has all of those above.
LINES = (
    ("plain", "every pass computes everything in every step"),
    ("pose skipped", "no pose path in a pass of pose scale 0"),
    ("once a segment", "PoseResNet, prefix, text embedding, text keys and values"),
    ("features shared", "one reference extractor for passes with one reference"),
    ("padding merged", "equal rows of a prompt are one key with a log-count bias"),
    ("values folded", "the text's projection out goes into its few values"),
    ("blocks shared", "first attention (and blocks 0, 1) of passes with equal inputs"),
)
NAMES = tuple(name for name, _ in LINES)
# Shares of all operations by the arithmetic that the savings were chosen with.
PREDICTED = {
    "pose skipped": {"1.3B": 2.1, "14B": 0.8},
    "once a segment": {"1.3B": 0.2, "14B": 0.04},
    "features shared": {"1.3B": 0.2, "14B": 0.2},
    "padding merged": {"1.3B": 0.7, "14B": 0.6},
    "values folded": {"1.3B": 0.9, "14B": 2.6},
    "blocks shared": {"1.3B": 0.9, "14B": 0.6},
    "all": {"1.3B": 5.1, "14B": 5.0},
}


@dataclasses.dataclass(frozen=True)
class Form:
    """One line as functions.

    Attributes:
      segment: (params, inputs) -> what all steps of a segment share.
      step: (params, inputs, shared) -> guided velocity.
    """

    segment: Callable[..., Any]
    step: Callable[..., jax.Array]


def form(cfg: ModelConfig, name: str, config: SamplingConfig) -> Form:
    """The line of that name; its folding is decided where it is traced."""
    f, rows = onetoall.functions(cfg), guidance.table(config)
    on = set(NAMES[: NAMES.index(name) + 1])

    def poses(inputs: Any, row: guidance.Pass) -> tuple:
        if row.pose_scale == 0 and "pose skipped" in on:
            return None, None
        return inputs["poses"][row.pose]

    def conditions(params: Any, inputs: Any) -> Any:
        if "blocks shared" in on:
            given = inputs["texts"], inputs["references"], inputs["poses"]
            return f.prepare(params, rows, *given)
        return [
            f.conditions(
                params,
                inputs["texts"][row.text],
                inputs["references"][row.reference],
                *poses(inputs, row),
                row.pose_scale,
            )
            for row in rows
        ]

    def segment(params: Any, inputs: Any) -> Any:
        return conditions(params, inputs) if "once a segment" in on else None

    def step(params: Any, inputs: Any, shared: Any) -> jax.Array:
        level = inputs["timestep"]
        given = conditions(params, inputs) if shared is None else shared
        keys = (
            dict.fromkeys(row.reference for row in rows)
            if "features shared" in on
            else range(len(rows))
        )
        features = {
            key: f.reference_features(
                params,
                inputs["references"][
                    key if isinstance(key, str) else rows[key].reference
                ],
                level,
            )
            for key in keys
        }
        x = inputs["latents"]
        if "blocks shared" in on:
            made = f.velocities(params, x, level, rows, given, features)
        else:
            made = [
                f.velocity(
                    params, x, level, one,
                    features[row.reference if "features shared" in on else i],
                )
                for i, (row, one) in enumerate(zip(rows, given, strict=True))
            ]  # fmt: skip
        parts = zip(rows, made, strict=True)
        return functools.reduce(jnp.add, (row.weight * v for row, v in parts))

    return Form(segment, step)


@contextlib.contextmanager
def folding(name: str) -> Iterator[None]:
    """Values are folded only in the lines that have it."""
    if NAMES.index(name) >= NAMES.index("values folded"):
        yield
        return
    with mock.patch.object(text_attention, "_folds", lambda *sizes: False):
        yield


def inputs(cfg: ModelConfig, clip: tuple[int, int, int], name: str, seed: int) -> Any:
    """Random inputs of a clip; the prompts as the line takes them."""
    rng = np.random.default_rng(seed)

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, np.float32)

    def prompt(count: int) -> Any:
        text = np.zeros((1, ROWS, cfg.text_dim), np.float32)
        text[:, :count] = normal(1, count, cfg.text_dim)
        is_merged = NAMES.index(name) >= NAMES.index("padding merged")
        return merged(text) if is_merged else text

    frames, height, width = clip
    f, h, w = frames // 4 + 1, height // 8, width // 8
    pose = np.tanh(normal(1, frames, height, width, 3))
    own = np.tanh(normal(1, 1, height, width, 3))
    return {
        "texts": {"prompt": prompt(PROMPT), "negative": prompt(NEGATIVE)},
        "references": {
            "real": normal(1, 1, h, w, cfg.reference_channels),
            "black": normal(1, 1, h, w, cfg.reference_channels),
        },
        "poses": {
            "real": (pose, own),
            "blank": (-np.ones_like(pose), -np.ones_like(own)),
        },
        "latents": normal(1, f, h, w, cfg.in_channels),
        "timestep": np.full(1, 700, np.float32),
    }


# --- operations ----------------------------------------------------------------------


@contextlib.contextmanager
def unrolled() -> Iterator[None]:
    """Loops become their iterations and attention one product, so that all counts."""

    def scan(body: Any, carry: Any, xs: Any, **_: Any) -> Any:
        kept = []
        for i in range(len(jax.tree.leaves(xs)[0])):
            carry, out = body(carry, jax.tree.map(lambda x, i=i: x[i], xs))
            kept.append(out)
        return carry, jax.tree.map(lambda *out: jnp.stack(out), *kept)

    def loop(fn: Any, xs: Any, **_: Any) -> Any:
        return scan(lambda carry, x: (carry, fn(x)), None, xs)[1]

    with (
        mock.patch.object(jax.lax, "scan", scan),
        mock.patch.object(jax.lax, "map", loop),
        mock.patch.object(kernels, "_PLAIN_SCORES", float("inf")),
        mock.patch.object(dit, "_TOGETHER", float("inf")),
        mock.patch.object(pose_resnet, "WHOLE", float("inf")),
    ):
        yield


def compiler_count(cfg: ModelConfig, name: str, config: SamplingConfig) -> float:
    """Operations of a segment of the full clip by the compiler's own analysis."""
    made = form(cfg, name, config)
    params = onetoall.abstract(cfg)
    # Zeros of no memory stand for the inputs; only their shapes are read.
    small = inputs(cfg, (5, 16, 32), name, 0)
    frames, height, width = FULL_CLIP
    latents = (frames // 4 + 1, height // 8, width // 8)

    def sized(path: Any, x: Any) -> jax.ShapeDtypeStruct:
        names, shape = jax.tree_util.keystr(path), list(x.shape)
        if "latents" in names:
            shape[1:4] = latents
        elif "references" in names:
            shape[2:4] = latents[1:]
        elif "poses" in names:
            shape[1:4] = (frames if shape[1] > 1 else 1, height, width)
        return jax.ShapeDtypeStruct(tuple(shape), x.dtype)

    given = jax.tree_util.tree_map_with_path(sized, small)
    with unrolled(), folding(name):
        shared = jax.eval_shape(made.segment, params, given)
        programs: list[tuple[int, Callable[..., Any], tuple[Any, ...]]] = []
        if shared is not None:
            programs.append((1, made.segment, (params, given)))
        programs.append((STEPS, made.step, (params, given, shared)))
        counts = [
            times * (jax.jit(fn).lower(*args).cost_analysis() or {})["flops"]
            for times, fn, args in programs
        ]
    return sum(counts)


def table_count(
    cfg: ModelConfig,
    name: str,
    config: SamplingConfig,
    clip: tuple[int, int, int] = FULL_CLIP,
) -> float:
    """Operations of a segment of a clip by the project's table."""
    on = set(NAMES[: NAMES.index(name) + 1])
    rows, total = guidance.table(config), 0.0
    seen: list[guidance.Pass] = []
    grid = GEOMETRY.token_grid(*clip)
    for row in rows:
        keys = ROWS
        if "padding merged" in on:
            count = PROMPT if row.text == "prompt" else NEGATIVE
            keys = -(-(count + 1) // 4) * 4
        # The protocol's fields may be set, those of a frozen dataclass may not.
        sizes = cast(flops.Sizes, cfg)
        ops = flops.operations(sizes, flops.Clip(*clip, grid, keys), ())
        for op in ops:
            total += _calls(op, row, seen, on) * _operations(op, cfg, keys, on)
        if "blocks shared" in on:
            total -= STEPS * _shared_blocks(ops, cfg, row, seen)
        seen.append(row)
    return total


def _calls(op: flops.Op, row: guidance.Pass, seen: list, on: set[str]) -> int:
    """How often a segment computes a row of the table for this pass."""
    had = {(kind, getattr(r, kind)) for r in seen for kind in ("text", "reference")}
    is_pose = op.name.startswith(("pose_resnet/", "pose_control/"))
    if is_pose and row.pose_scale == 0 and "pose skipped" in on:
        return 0
    if op.name.startswith("reference_extractor/"):
        again = ("reference", row.reference) in had and "features shared" in on
        return 0 if again else STEPS
    once = op.name.startswith(("pose_resnet/", "prefix_encoder/", "dit/text_embedding"))
    once |= op.name.endswith(("text_attention/key", "text_attention/value"))
    return 1 if once and "once a segment" in on else STEPS


def _operations(op: flops.Op, cfg: ModelConfig, keys: int, on: set[str]) -> float:
    """Operations of a row, with the values folded where that is on."""
    if "values folded" not in on or keys > cfg.head_dim:
        return op.forward
    if op.name.endswith("text_attention/out"):
        return op.forward * keys * cfg.num_heads / cfg.dim
    if op.name.endswith("blocks/text_attention"):
        return op.forward / 2  # scores; the mixing is in the row above
    return op.forward


def _shared_blocks(
    ops: list[flops.Op], cfg: ModelConfig, row: guidance.Pass, seen: list
) -> float:
    """Operations of a step that an earlier pass has done already."""
    lead = [op for op in ops if op.name.startswith("dit/lead_blocks/")]
    whole = sum(op.forward for op in lead) / cfg.lead_layers
    attention = sum(op.forward for op in lead if "/attention" in op.name)
    if any((r.reference, r.text) == (row.reference, row.text) for r in seen):
        return 2 * whole
    if any(r.reference == row.reference for r in seen):
        return attention / cfg.lead_layers
    return 0.0


# --- time ----------------------------------------------------------------------------


def times(rounds: int, config: SamplingConfig) -> dict[str, Any]:
    """Seconds of a step of every line in turn, the segment's share apart."""
    calls: dict[str, Callable[[], object]] = {}
    outputs: dict[str, np.ndarray] = {}
    once: dict[str, dict[str, Any]] = {}
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda x: jnp.asarray(0.02 * rng.standard_normal(x.shape, np.float32)),
        onetoall.abstract(SMALL),
    )
    for name in NAMES:
        made, given = form(SMALL, name, config), inputs(SMALL, SMALL_CLIP, name, 1)
        given = jax.device_put(given)
        with folding(name):
            segment = jax.jit(made.segment).lower(params, given).compile()
            shared = jax.block_until_ready(segment(params, given))
            step = jax.jit(made.step).lower(params, given, shared).compile()
        calls[name] = functools.partial(_wait, step, params, given, shared)
        calls[f"{name}, segment"] = functools.partial(_wait, segment, params, given)
        outputs[name] = np.asarray(step(params, given, shared))
    taken = timing.in_turn(calls, rounds, time.process_time)
    spent: dict[str, list[float]] = {}
    plain = outputs["plain"]
    for name in NAMES:
        difference = float(np.abs(outputs[name] - plain).max() / np.abs(plain).max())
        if not difference <= AGREE:
            raise SystemExit(f"{name}: the output differs by {difference:.2e}")
        once[name] = {"difference": difference}
        total = [
            STEPS * a + b
            for a, b in zip(taken[name], taken[f"{name}, segment"], strict=True)
        ]
        once[name]["seconds"] = spent[name] = total
    for name in NAMES:
        seconds, plain_seconds = spent[name], spent["plain"]
        once[name]["ratio"] = timing.ratio(seconds, plain_seconds)
        once[name]["fastest"] = min(seconds) / min(plain_seconds)
        operations, most = (
            table_count(SMALL, n, config, SMALL_CLIP) for n in (name, "plain")
        )
        once[name]["operations"] = operations / most
    return once


def fusion(rounds: int) -> dict[str, Any]:
    """Element-wise code of a block compiled as one, against one operation at a time."""
    cfg, tokens = SMALL, 960
    rope = Rope((3, 16, 20), cfg.head_dim, cfg.rope_theta)
    shape = (1, tokens, cfg.num_heads, cfg.head_dim)
    rng = np.random.default_rng(0)
    q, k = (jnp.asarray(rng.standard_normal(shape, np.float32)) for _ in range(2))
    x, y = (jnp.asarray(rng.standard_normal((1, tokens, cfg.dim), np.float32)),) * 2
    rows = jnp.asarray(rng.standard_normal((6, 1, 1, cfg.dim), np.float32))

    def code(q: Any, k: Any, x: Any, y: Any, rows: Any) -> tuple:
        turned = rope.rotate(q), rope.rotate(k), rope.rotate(q, time=False)
        shift, scale, gate = rows[:3]
        first = layer_norm(x, cfg.eps) * (1 + scale) + shift
        return *turned, first, x + gate * y

    args = q, k, x, y, rows
    jaxpr = jax.make_jaxpr(code)(*args).jaxpr
    moved = sum(
        v.aval.size * v.aval.dtype.itemsize
        for eqn in jaxpr.eqns
        for v in (*eqn.invars, *eqn.outvars)
    )
    program = jax.jit(code).lower(*args).compile()

    def eager() -> None:
        with jax.disable_jit():
            jax.block_until_ready(code(*args))

    calls: dict[str, Callable[[], object]] = {
        "fused": functools.partial(_wait, program, *args),
        "eager": eager,
    }
    taken = timing.in_turn(calls, rounds, time.process_time)
    return {
        "bytes": {
            "eager": moved,
            "fused": (program.cost_analysis() or {})["bytes accessed"],
        },
        "ratio": timing.ratio(taken["fused"], taken["eager"]),
    }


def equal_scales(cfg: ModelConfig) -> float:
    """Percent that two passes save where the release makes three for equal scales."""
    three = table_count(cfg, "plain", SamplingConfig())
    equal = SamplingConfig(image_guidance=2.0, pose_guidance=2.0)
    return 100 * (1 - table_count(cfg, "plain", equal) / three)


def _wait(program: Any, *args: Any) -> None:
    jax.block_until_ready(program(*args))


def measure(rounds: int) -> dict[str, Any]:
    """All lines: shares of the plain form's operations and ratios of time."""
    config = SamplingConfig()
    counted: dict[str, Any] = {name: {"what": what} for name, what in LINES}
    for size, cfg in SIZES.items():
        four = dataclasses.replace(
            cfg, num_layers=4, reference_layers=min(cfg.reference_layers, 3)
        )
        counts = {
            "compiler, 4 blocks": functools.partial(compiler_count, four),
            "table, 4 blocks": functools.partial(table_count, four),
            "table": functools.partial(table_count, cfg),
        }
        for how, count in counts.items():
            whole = {name: count(name, config) for name in NAMES}
            before = whole["plain"]
            for name in NAMES:
                entry = counted[name].setdefault(size, {})
                entry[how] = 100 * (before - whole[name]) / whole["plain"]
                entry[f"{how}, operations"] = whole[name]
                before = whole[name]
    taken = times(rounds, config) if rounds else {}
    for name in NAMES:
        counted[name] |= taken.get(name, {})
    counted["equal scales"] = {size: equal_scales(cfg) for size, cfg in SIZES.items()}
    counted["fusion"] = fusion(max(rounds, 1))
    return counted


def show(counted: dict[str, Any]) -> None:
    """Prints the table; savings in percent of the plain form's operations."""
    how = ("compiler, 4 blocks", "table, 4 blocks", "table")
    print(
        f"{'':16}"
        + "".join(f"{size:^33}" for size in SIZES)
        + "   CPU time / plain     fastest  operations"
    )
    heads = "compiler@4  table@4  table  aimed "
    print(f"{'':16}" + heads * len(SIZES))
    for name in NAMES:
        line = f"{name:16}"
        for size in SIZES:
            shares = [counted[name][size][h] for h in how]
            aim = PREDICTED.get(name, {}).get(size)
            line += "{:9.2f}{:9.2f}{:8.2f}".format(*shares)
            line += f"{aim:7}" if aim is not None else " " * 7
        if "ratio" in counted[name]:
            middle, low, high = counted[name]["ratio"]
            line += f"   {middle:.2f} ({low:.2f} to {high:.2f})"
            line += "{fastest:9.2f}{operations:12.2f}".format(**counted[name])
        print(line, flush=True)
    line = f"{'all':16}"
    for size in SIZES:
        for h in how:
            first, last = (
                counted[n][size][f"{h}, operations"] for n in (NAMES[0], NAMES[-1])
            )
            line += f"{100 * (1 - last / first):{9 if h != 'table' else 8}.2f}"
        line += f"{PREDICTED['all'][size]:7}"
    print(line)
    equal = ", ".join(f"{s} {counted['equal scales'][s]:.1f} %" for s in SIZES)
    print(
        f"two passes instead of three where both scales are equal: {equal} (aimed 33)"
    )
    whole, (middle, low, high) = counted["fusion"]["bytes"], counted["fusion"]["ratio"]
    print(
        "element-wise code of a block, fused over one operation at a time: bytes "
        f"{whole['fused'] / whole['eager']:.2f} (aimed 0.17), time {middle:.2f} "
        f"({low:.2f} to {high:.2f})"
    )


def main() -> None:
    """Prints the table and writes it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--rounds", type=int, default=5, help="0 takes no times")
    args = parser.parse_args()
    counted = measure(args.rounds)
    show(counted)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(counted, indent=1) + "\n")


if __name__ == "__main__":
    main()
