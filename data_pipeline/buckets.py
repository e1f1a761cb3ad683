"""Sizes that batches come in, and which of them a clip belongs to."""

import dataclasses

import numpy as np

from data_pipeline.settings import Resolution

_ASPECTS_512 = """
0.25 256 1024|0.26 256 992|0.27 256 960|0.28 256 928|0.32 288 896|0.33 288 864|
0.35 288 832|0.40 320 800|0.42 320 768|0.48 352 736|0.50 352 704|0.52 352 672|
0.57 384 672|0.60 384 640|0.68 416 608|0.72 416 576|0.78 448 576|0.82 448 544|
0.88 480 544|0.94 480 512|1.00 512 512|1.07 512 480|1.13 544 480|1.21 544 448|
1.29 576 448|1.38 576 416|1.46 608 416|1.67 640 384|1.75 672 384|2.00 704 352|
2.09 736 352|2.40 768 320|2.50 800 320|2.89 832 288|3.00 864 288|3.11 896 288|
3.62 928 256|3.75 960 256|3.88 992 256|4.00 1024 256
"""


@dataclasses.dataclass(frozen=True)
class Table:
    """Aspect keys (height / width) and their sizes, and the nominal area in pixels."""

    area: int
    sizes: tuple[tuple[float, int, int], ...]

    def nearest(self, height: int, width: int) -> tuple[int, int] | None:
        """Size whose key is nearest; None where more than a fifth would be cut off."""
        aspect = height / width
        key, h, w = min(self.sizes, key=lambda s: abs(s[0] - aspect))
        if aspect > key and 0.8 * aspect > key:
            return None
        if aspect <= key and 0.8 / aspect > 1 / key:
            return None
        return h, w


def _parse(text: str, numerator: int = 2, denominator: int = 2) -> tuple:
    rows = (entry.split() for entry in text.replace("\n", "").split("|"))
    return tuple(
        (float(k), int(h) * numerator // denominator, int(w) * numerator // denominator)
        for k, h, w in rows
    )


TABLES = {
    "512": Table(512 * 512, _parse(_ASPECTS_512)),
    "768": Table(768 * 768, _parse(_ASPECTS_512, 3, 2)),
    "tiny": Table(48 * 32, ((0.67, 32, 48), (1.0, 40, 40), (1.5, 48, 32))),
}

# Rows of less than this share of an area are not enlarged to it.
_SMALLEST = 0.70


@dataclasses.dataclass(frozen=True, order=True)
class Bucket:
    """Sizes that all samples of a batch share: one compiled program each."""

    num_frames: int
    height: int
    width: int


def assign(
    resolutions: tuple[Resolution, ...],
    num_frames: int,
    row: tuple[int, int, int, float],
    rng: np.random.Generator,
) -> Bucket | None:
    """Bucket of a row (height, width, frames, frames a second); None leaves it out.

    Areas are tried in order; every area takes two draws, used or not, so that one
    row's draws never depend on its sizes.

    Source: section 2 of the released data page.
    """
    height, width, length, fps = row
    draws = rng.random((len(resolutions), 2))
    stride = max(1, int(np.round(fps / 16))) if length > 1 else 1
    for resolution, (use, single) in zip(resolutions, draws, strict=True):
        table = TABLES[resolution.table]
        if height * width < _SMALLEST * table.area or use >= resolution.share:
            continue
        size = table.nearest(height, width)
        if size is None:
            return None
        whole = length - 1 >= (num_frames - 1) * stride
        frames = num_frames if whole and single >= resolution.image_share else 1
        return Bucket(frames, *size)
    return None
