"""Small line plots as pictures, for reports."""

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw

_COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf")
_LEFT, _TOP, _BOTTOM = 46, 20, 18


def lines(
    title: str,
    curves: Mapping[str, Sequence[float]],
    *,
    size: tuple[int, int] = (150, 520),
    names: int = 96,
) -> np.ndarray:
    """One panel [H,W,3] uint8: a named line through each curve's values, 0, 1, 2, ...

    Args:
      size: height and width in pixels; names: width of the column with the names.
    """
    height, width = size
    picture = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(picture)
    values = np.concatenate([np.asarray(c, float) for c in curves.values()])
    low, high = float(values.min()), float(values.max())
    if high - low < 1e-9:
        low, high = low - 0.5, high + 0.5
    count = max(len(c) for c in curves.values())

    def place(i: float, value: float) -> tuple[float, float]:
        across = (width - _LEFT - names) * (i / max(1, count - 1))
        up = (height - _TOP - _BOTTOM) * (value - low) / (high - low)
        return _LEFT + across, height - _BOTTOM - up

    pen.text((4, 3), title, fill="black")
    for value in (low, high):
        _, y = place(0, value)
        pen.line([(_LEFT, y), (width - names, y)], fill="#dddddd")
        pen.text((2, y - 6), f"{value:.3g}", fill="black")
    for i in sorted({0, count // 2, count - 1}):
        x, _ = place(i, low)
        pen.text((x - 3, height - 14), str(i), fill="black")
    for k, (name, curve) in enumerate(curves.items()):
        colour = _COLOURS[k % len(_COLOURS)]
        points = [place(i, float(v)) for i, v in enumerate(curve)]
        if len(points) > 1:
            pen.line(points, fill=colour, width=2)
        for x, y in points:
            pen.ellipse([x - 2, y - 2, x + 2, y + 2], fill=colour)
        pen.text((width - names + 8, _TOP + 14 * k), name, fill=colour)
    return np.asarray(picture)
