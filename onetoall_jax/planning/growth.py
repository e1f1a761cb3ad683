"""How time and memory of a step grow with tokens and with devices, as a picture."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from onetoall_jax.planning import plan, store, table
from onetoall_jax.planning.plan import Plan
from onetoall_jax.planning.rates import GIB
from onetoall_jax.planning.table import Load

_SIDES = (256, 384, 512, 768)
_DEVICES = {
    8: "2x2x2",
    16: "2x2x4",
    32: "2x4x4",
    64: "4x4x4",
    128: "4x4x8",
    256: "4x8x8",
}
_CLIPS = 256  # of a step whose devices are counted
_WIDTH, _HEIGHT, _EDGE = 620, 420, 70
_COLOURS = ("#1f5fa8", "#c0392b", "#2e8b57", "#8e44ad")

Points = Sequence[tuple[float, float]]


class Panel(NamedTuple):
    """One diagram with logarithmic axes.

    Attributes:
      lines: name -> (x, y), by formula.
      dots: the same, of compiled programs.
    """

    title: str
    across: str
    up: str
    lines: Mapping[str, Points]
    dots: Mapping[str, Points]


def panels(folder: Path, load: Load) -> list[Panel]:
    """Diagrams of training steps; compiled programs where the folder has their records.

    Args:
      folder: of the compiler's records.
    """
    tokens = {size: _by_tokens(load, size) for size in ("1_3b", "14b")}
    devices = {size: _by_devices(load, size) for size in ("1_3b", "14b")}
    made = [
        plan.restored(table.request(asked, load), record)
        for asked, record in store.records(folder)
        if not asked["sampler"] and not record[0].needed
    ]
    small = [p for p in made if p.request.topology.platform == "cpu"]
    large = [p for p in made if p.request.topology.name.startswith("v5p")]

    def curve(plans: Mapping[str, list[Plan]], axis: str, what: str) -> dict:
        return {f"{n} {what}": _points(ps, axis, what) for n, ps in plans.items()}

    return [
        Panel(
            "One clip for each v5p chip, FSDP 8 (1.3B) or 64 (14B)",
            "tokens of a clip",
            "step, s",
            curve(tokens, "tokens", "time"),
            {},
        ),
        Panel(
            "The same: memory of one chip",
            "tokens of a clip",
            "GiB",
            curve(tokens, "tokens", "memory"),
            {"compiled": _points(large, "tokens", "memory")},
        ),
        Panel(
            f"{_CLIPS} clips of 29x512x512 over v5p chips, FSDP",
            "devices",
            "step, s",
            curve(devices, "devices", "time"),
            {},
        ),
        Panel(
            "The same: memory of one device; a small model on CPUs",
            "devices",
            "GiB",
            {
                **curve(devices, "devices", "memory"),
                "small memory": _points(small, "devices", "formula"),
            },
            {"small, compiled": _points(small, "devices", "memory")},
        ),
    ]


def draw(made: Sequence[Panel]) -> np.ndarray:
    """The panels two by two, uint8 [H,W,3]."""
    rows = -(-len(made) // 2)
    page = Image.new("RGB", (2 * _WIDTH, rows * _HEIGHT), "white")
    for i, panel in enumerate(made):
        page.paste(_drawn(panel), ((i % 2) * _WIDTH, (i // 2) * _HEIGHT))
    return np.asarray(page)


def _by_tokens(load: Load, size: str) -> list[Plan]:
    machine, clips = ("v5p:2x2x2", 8) if size == "1_3b" else ("v5p:4x4x4", 64)
    return [_estimate(load, size, machine, clips, side) for side in _SIDES]


def _by_devices(load: Load, size: str) -> list[Plan]:
    shapes = _DEVICES.values()
    return [_estimate(load, size, f"v5p:{s}", _CLIPS, 512) for s in shapes]


def _estimate(load: Load, size: str, machine: str, clips: int, side: int) -> Plan:
    asked = {
        "config": f"configs/stage2.py:{size}",
        "changes": {"data.latents": "runs/latents"},
        "topology": machine,
        "batch": clips,
        "size": f"29x{side}x{side}",
        "sampler": False,
    }
    return plan.estimate(table.request(asked, load))


def _points(plans: Sequence[Plan], axis: str, what: str) -> Points:
    def y(made: Plan) -> float:
        if what == "time":
            assert made.time is not None
            return made.time.step
        if what == "formula":
            return made.estimated / GIB
        return made.used / GIB

    def x(made: Plan) -> float:
        return made.tokens if axis == "tokens" else made.request.topology.devices

    return sorted((x(made), y(made)) for made in plans)


def _drawn(panel: Panel) -> Image.Image:
    image = Image.new("RGB", (_WIDTH, _HEIGHT), "white")
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(13)
    groups = {**panel.lines, **panel.dots}
    xs = [x for points in groups.values() for x, _ in points]
    ys = [y for points in groups.values() for _, y in points]
    low_x, high_x = min(xs), max(xs)
    low_y, high_y = 10 ** math.floor(_log(min(ys))), 10 ** math.ceil(_log(max(ys)))

    def place(x: float, y: float) -> tuple[float, float]:
        across = (_log(x) - _log(low_x)) / (_log(high_x) - _log(low_x))
        up = (_log(y) - _log(low_y)) / (_log(high_y) - _log(low_y))
        wide, high = _WIDTH - 2 * _EDGE, _HEIGHT - 2 * _EDGE
        return _EDGE + across * wide, _HEIGHT - _EDGE - up * high

    pen.text((_EDGE, 14), panel.title, "black", font)
    pen.text((_WIDTH // 2, _HEIGHT - 28), panel.across, "black", font, anchor="mm")
    pen.text((12, _EDGE - 24), panel.up, "black", font)
    for y in (10.0**k for k in range(round(_log(low_y)), round(_log(high_y)) + 1)):
        left, right = place(low_x, y), place(high_x, y)
        pen.line([left, right], "#dddddd")
        pen.text((left[0] - 8, left[1]), f"{y:g}", "black", font, anchor="rm")
    for x in sorted(set(xs)):
        low, high = place(x, low_y), place(x, high_y)
        pen.line([low, high], "#eeeeee")
        pen.text((low[0], low[1] + 12), f"{x:g}", "black", font, anchor="mm")
    for i, (name, points) in enumerate(groups.items()):
        colour = _COLOURS[i % len(_COLOURS)]
        spots = [place(x, y) for x, y in points]
        if name in panel.lines:
            pen.line(spots, colour, 2)
        for x, y in spots:
            radius = 3 if name in panel.lines else 6
            box = (x - radius, y - radius, x + radius, y + radius)
            pen.ellipse(box, colour if name in panel.lines else None, colour, 2)
        label = f"{name.replace('_', '.')}{'' if points else ': none yet'}"
        pen.text((_EDGE + 130 * i, 34), label, colour, font)
    return image


def _log(x: float) -> float:
    return math.log10(x)
