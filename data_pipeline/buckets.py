"""Sizes that batches come in, and which of them a clip belongs to."""

import dataclasses
import functools
from collections.abc import Iterator, Sequence

import numpy as np

from data_pipeline.settings import Resolution
from onetoall_jax.errors import UserError

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

    def only(self, aspects: tuple[float, ...]) -> "Table":
        """The same with these keys alone.

        Raises:
          UserError: a key that the table lacks.
        """
        keys = [key for key, _, _ in self.sizes]
        for aspect in aspects:
            if aspect not in keys:
                raise UserError(f"data.aspects names {aspect}: choose from {keys}.")
        return Table(self.area, tuple(s for s in self.sizes if s[0] in aspects))


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
_LONGEST_SECONDS = 10  # of a clip, the rest is not counted
DRAWS = 3  # for an area: of the length, and of the area for a video and for a picture


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
    draws: int | Sequence[float],
    aspects: tuple[float, ...] = (),
) -> Bucket | None:
    """Bucket of a row (height, width, frames, frames a second); None leaves it out.

    Args:
      row: fps may be NaN: every frame then counts.
      draws, aspects: of `choose`.
    Raises:
      UserError: an unknown table or aspect.
    Source: section 2 of the released data page.
    """
    (height, width, _, _), (length, stride) = row, _counted(row)
    size = height, width, length
    return choose(resolutions, num_frames, size, stride, draws, aspects)


def released_seed(resolutions: tuple[Resolution, ...], index: int, seed: int) -> int:
    """Where the release's draws of row `index` begin in an epoch of a seed."""
    return seed + index * sum(2 * len(_table(r).sizes) for r in resolutions)


def choose(
    resolutions: tuple[Resolution, ...],
    num_frames: int,
    size: tuple[int, int, int],
    stride: int,
    draws: int | Sequence[float],
    aspects: tuple[float, ...] = (),
) -> Bucket | None:
    """Bucket of a clip of (height, width, frames), every `stride`-th frame taken.

    Areas are tried from the largest down. A clip is taken with `num_frames` frames if
    it lasts long enough and a draw does not make it a picture.

    Args:
      draws: DRAWS uniform numbers for every area, the largest first; or a seed from
        which they are drawn as released.
      aspects: keys of the tables that are used; empty uses all.
    Source: section 2 of the released data page, draw for draw.
    """
    for order, (resolution, whole) in enumerate(
        _large_enough(resolutions, num_frames, size, stride)
    ):
        if whole is None:
            continue
        if isinstance(draws, int):
            length, video, image = _released(draws + 2 * order)
        else:
            length, video, image = draws[DRAWS * order : DRAWS * (order + 1)]
        whole = length <= 1 - resolution.image_share and whole
        if resolution.share >= 1 or (video if whole else image) < resolution.share:
            return _fitted(resolution, aspects, num_frames if whole else 1, size[:2])
    return None


def _released(seed: int) -> tuple[float, float, float]:
    video, image = np.random.default_rng(seed), np.random.default_rng(seed + 1)
    return video.random(), video.random(), image.random()


def possible(
    resolutions: tuple[Resolution, ...],
    num_frames: int,
    row: tuple[int, int, int, float],
    aspects: tuple[float, ...] = (),
) -> list[Bucket]:
    """All buckets that some epoch may assign a row to (see `assign`), in order."""
    (height, width, _, _), (length, stride) = row, _counted(row)
    size, found = (height, width, length), set()
    for resolution, whole in _large_enough(resolutions, num_frames, size, stride):
        if whole is None or resolution.share <= 0:
            continue
        lengths = [num_frames] if whole and resolution.image_share < 1 else []
        lengths += [1] if not whole or resolution.image_share > 0 else []
        found |= {_fitted(resolution, aspects, n, size[:2]) for n in lengths}
        if resolution.share >= 1:
            break
    return sorted(bucket for bucket in found if bucket is not None)


def _counted(row: tuple[int, int, int, float]) -> tuple[int, int]:
    """(frames that count, every how many-th is taken)."""
    _, _, length, fps = row
    if length == 1 or np.isnan(fps):
        return length, 1
    return min(length, int(_LONGEST_SECONDS * fps)), max(1, int(np.round(fps / 16)))


def _large_enough(
    resolutions: tuple[Resolution, ...],
    num_frames: int,
    size: tuple[int, int, int],
    stride: int,
) -> Iterator[tuple[Resolution, bool | None]]:
    """(area, does a clip last for a video of it), None where the clip is too small."""
    height, width, length = size
    whole = length - 1 >= (num_frames - 1) * stride
    for resolution in sorted(resolutions, key=lambda r: -_table(r).area):
        small = height * width < _SMALLEST * _table(resolution).area
        yield resolution, None if small else whole


@functools.lru_cache(maxsize=100_000)
def _fitted(
    resolution: Resolution,
    aspects: tuple[float, ...],
    num_frames: int,
    size: tuple[int, int],
) -> Bucket | None:
    table = _table(resolution)
    if aspects:
        table = table.only(aspects)
    fitted = table.nearest(*size)
    return Bucket(num_frames, *fitted) if fitted else None


def _table(resolution: Resolution) -> Table:
    if resolution.table not in TABLES:
        raise UserError(
            f"There is no table of sizes {resolution.table!r}: "
            f"choose from {sorted(TABLES)}."
        )
    return TABLES[resolution.table]
