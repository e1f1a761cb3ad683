"""Looks through a file once: shots, sharpness, fingerprint; keeps no frame."""

import dataclasses
from collections.abc import Iterable

import cv2
import numpy as np

_SIDE = 32  # of the small grey pictures that frames are compared by
_BINS = 16


@dataclasses.dataclass(frozen=True)
class Survey:
    """What one pass over the frames tells.

    Attributes:
      height, width: of the frames, in pixels; num_frames: decoded.
      change: [F] in 0..1, how far a frame is from the one before it; 0 for the first.
      sharpness: [F], variance of the Laplacian at 256 rows; below 20 looks blurred.
      small: [F,32,32] uint8, grey.
    """

    height: int
    width: int
    num_frames: int
    change: np.ndarray
    sharpness: np.ndarray
    small: np.ndarray


def survey(frames: Iterable[np.ndarray]) -> Survey:
    """Measures frames [H,W,3] uint8 as they come.

    Raises:
      ValueError: no frame.
    """
    change, sharpness, small, before, size = [], [], [], None, (0, 0)
    for picture in frames:
        size = picture.shape[:2]
        grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
        wide = max(1, round(256 * size[1] / size[0]))
        even = cv2.resize(grey, (wide, 256), interpolation=cv2.INTER_AREA)
        sharpness.append(float(cv2.Laplacian(even, cv2.CV_64F).var()))
        small.append(cv2.resize(grey, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA))
        now = _signature(picture)
        change.append(0.0 if before is None else _distance(before, now))
        before = now
    if not small:
        raise ValueError("a survey needs at least one frame")
    return Survey(
        *size, len(small), np.array(change), np.array(sharpness), np.stack(small)
    )


def _signature(picture: np.ndarray) -> np.ndarray:
    """[4,3,_BINS] colour histograms of the quarters, each summing to 1."""
    height, width = (max(2, n // 2 * 2) for n in picture.shape[:2])
    even = cv2.resize(picture, (min(width, 128), min(height, 128)))
    rows, columns = (n // 2 for n in even.shape[:2])
    parts = [
        even[y : y + rows, x : x + columns, c]
        for y in (0, rows)
        for x in (0, columns)
        for c in range(3)
    ]
    counts = [np.histogram(p, _BINS, (0, 256))[0] for p in parts]
    return np.stack(counts).astype(np.float64) / (rows * columns)


def _distance(a: np.ndarray, b: np.ndarray) -> float:
    # Half the L1 distance of two distributions lies in 0..1; the median of the quarters
    # and colours forgives one limb that sweeps through one corner.
    return float(np.median(0.5 * np.abs(a - b).sum(axis=1)))


def shots(change: np.ndarray, threshold: float) -> list[tuple[int, int]]:
    """(first, one past the last) frame of every shot.

    A cut is a change above the threshold that is also three times the typical one
    around it, so that a fast pan is not cut to pieces.
    """
    cuts = [0]
    for i in range(1, len(change)):
        around = np.r_[change[max(1, i - 8) : i], change[i + 1 : i + 9]]
        usual = float(np.median(around)) if around.size else 0.0
        if change[i] > threshold and change[i] > 3 * usual:
            cuts.append(i)
    return list(zip(cuts, [*cuts[1:], len(change)], strict=True))


def pieces(first: int, end: int, longest: int, shortest: int) -> list[tuple[int, int]]:
    """Even parts of a shot of at most `longest` frames; none if it is too short."""
    length = end - first
    if length < shortest:
        return []
    count = -(-length // longest)
    edges = [first + round(i * length / count) for i in range(count + 1)]
    return list(zip(edges, edges[1:], strict=False))


def fingerprint(small: np.ndarray) -> int:
    """64 bits of a clip's middle picture that survive scaling and recoding."""
    picture = cv2.resize(small[len(small) // 2], (9, 8), interpolation=cv2.INTER_AREA)
    bits = (picture[:, 1:] > picture[:, :-1]).ravel()
    return int("".join("1" if b else "0" for b in bits), 2)


def differing_bits(a: int, b: int) -> int:
    """Number of bits in which two fingerprints differ."""
    return (a ^ b).bit_count()
