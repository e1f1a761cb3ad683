"""Per-clip measures of 8-bit frames, and their paired comparison."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np


def psnr(
    frames_u8: np.ndarray, truth_u8: np.ndarray, inside: np.ndarray | None = None
) -> np.ndarray:
    """Peak signal-to-noise ratio of each clip, in dB.

    Args:
      frames_u8, truth_u8: [B,F,H,W,3] uint8.
      inside: [B,F,H,W] bool, the pixels that count; None counts all. A clip without
        any gets NaN.
    Returns:
      [B] float64, from the mean square over all counted pixels of the clip; equal
      clips get the ratio of a mean square of one half level, the rounding's.
    """
    square = np.square(frames_u8.astype(np.float64) - truth_u8.astype(np.float64))
    if inside is None:
        error = square.mean(axis=(1, 2, 3, 4))
    else:
        weight = inside[..., None].astype(np.float64)
        count = 3 * weight.sum(axis=(1, 2, 3, 4))
        with np.errstate(invalid="ignore"):
            error = (square * weight).sum(axis=(1, 2, 3, 4)) / count
    return 10 * np.log10(255.0**2 / np.maximum(error, 0.25))


def figure_box(pose_u8: np.ndarray, margin: float = 0.05) -> np.ndarray:
    """Bounding box of the drawn figure in each frame.

    Args:
      pose_u8: [B,F,H,W,3], drawn poses on black.
      margin: widening on each side, as a share of the picture's side.
    Returns:
      [B,F,H,W] bool; empty where nothing is drawn.
    """
    lit = pose_u8.max(axis=-1) > 0
    box = np.zeros(lit.shape, bool)
    height, width = lit.shape[2:]
    dy, dx = round(margin * height), round(margin * width)
    for index in np.ndindex(lit.shape[:2]):
        rows, columns = np.nonzero(lit[index])
        if rows.size:
            top, left = max(0, rows.min() - dy), max(0, columns.min() - dx)
            box[index][top : rows.max() + dy + 1, left : columns.max() + dx + 1] = True
    return box


class Gain(NamedTuple):
    """Mean of paired differences and its standard error."""

    mean: float
    error: float


def gain(a: np.ndarray, b: np.ndarray) -> Gain:
    """How much larger a is than b, clip by clip; NaN pairs are left out."""
    difference = (np.asarray(a) - np.asarray(b))[~np.isnan(a - b)]
    spread = difference.std(ddof=1) / math.sqrt(len(difference))
    return Gain(float(difference.mean()), float(spread))


def table(
    whole: Mapping[str, np.ndarray], inside: Mapping[str, np.ndarray], result: str
) -> str:
    """Text table: each candidate's PSNR and how far `result` is above it."""
    lines = [
        f"{'':34s}  whole picture, dB   result is above by   in the figure's box, dB"
        "   result is above by"
    ]
    for name in whole:
        cells = []
        for scores in (whole, inside):
            own = scores[name]
            cells.append(f"{np.nanmean(own):8.2f} ± {_error(own):.2f}")
            if name == result:
                cells.append(f"{'':14s}")
            else:
                above = gain(scores[result], own)
                cells.append(f"{above.mean:+8.2f} ± {above.error:.2f}")
        lines.append(f"{name:34s}  " + "     ".join(cells))
    return "\n".join(lines)


def _error(scores: np.ndarray) -> float:
    kept = scores[~np.isnan(scores)]
    return float(kept.std(ddof=1) / math.sqrt(len(kept)))
