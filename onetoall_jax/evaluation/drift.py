"""Whether a long clip keeps its colours and its sharpness, segment by segment."""

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np

Measures = Mapping[str, Any]


def measure(frames_u8: np.ndarray) -> dict[str, Any]:
    """Colour and sharpness of frames [F,H,W,3].

    Returns:
      mean and contrast (standard deviation) of red, green and blue, in levels 0..255;
      saturation: mean of each pixel's largest less smallest colour; sharpness: mean
      square of the Laplacian of the grey picture, in levels.
    """
    x = frames_u8.reshape(-1, 3).astype(np.float32)
    grey = [cv2.cvtColor(f, cv2.COLOR_RGB2GRAY) for f in frames_u8]
    edges = [cv2.Laplacian(g, cv2.CV_32F) for g in grey]
    return {
        "mean": x.mean(axis=0, dtype=np.float64).round(4).tolist(),
        "contrast": x.std(axis=0, dtype=np.float64).round(4).tolist(),
        "saturation": round(float((x.max(axis=1) - x.min(axis=1)).mean()), 4),
        "sharpness": round(float(np.mean([np.square(e).mean() for e in edges])), 4),
    }


def against_first(segments: Sequence[Measures]) -> list[dict[str, float]]:
    """Each segment compared with the first.

    Returns:
      brightness: change of the mean level; colour: largest change of one colour's mean
      beyond that; contrast, saturation, sharpness: ratios, 1 = unchanged.
    """
    first = segments[0]
    return [
        {
            "brightness": _mean(s) - _mean(first),
            "colour": float(
                np.abs(
                    np.subtract(s["mean"], first["mean"]) - (_mean(s) - _mean(first))
                ).max()
            ),
            "contrast": float(np.mean(s["contrast"])) / _or_one(first["contrast"]),
            "saturation": s["saturation"] / _or_one(first["saturation"]),
            "sharpness": s["sharpness"] / _or_one(first["sharpness"]),
        }
        for s in segments
    ]


def _mean(measures: Measures) -> float:
    return float(np.mean(measures["mean"]))


def _or_one(value: Any) -> float:
    """A divisor: pictures of one colour have no contrast to compare with."""
    return float(np.mean(value)) or 1.0
