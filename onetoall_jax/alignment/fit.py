"""Centre crops and resizing, in training and at inference."""

import cv2
import numpy as np
from PIL import Image

from onetoall_jax.errors import UserError


def _nearest_index(outputs: int, inputs: int) -> np.ndarray:
    # In float32, as the released code's library computes it; integers differ sometimes.
    scale = np.float32(inputs) / np.float32(outputs)
    index = np.floor(np.arange(outputs, dtype=np.float32) * scale).astype(np.int64)
    return np.minimum(index, inputs - 1)


_WHOLE = (slice(None), slice(None))
_MOST = np.iinfo(np.int16).max  # pixels that OpenCV's table of places can number


def nearest_resize(
    pictures: np.ndarray,
    height: int,
    width: int,
    part: tuple[slice, slice] = _WHOLE,
) -> np.ndarray:
    """[...,H,W,C] by nearest pixels, contiguous.

    Args:
      part: rows and columns of the result that are wanted.
    """
    *before, tall, wide, channels = pictures.shape
    rows = _nearest_index(height, tall)[part[0]]
    columns = _nearest_index(width, wide)[part[1]]
    if pictures.dtype != np.uint8 or channels not in (1, 3) or max(tall, wide) > _MOST:
        taken = pictures.take(rows, axis=-3).take(columns, axis=-2)
        return np.ascontiguousarray(taken)
    places = np.empty((len(rows), len(columns), 2), np.int16)
    places[..., 0], places[..., 1] = columns, rows[:, None]
    made = np.empty((*before, len(rows), len(columns), channels), np.uint8)
    # A third of the time of numpy's indexing.
    for index in np.ndindex(*before):
        moved = cv2.remap(pictures[index], places, None, cv2.INTER_NEAREST)  # type: ignore[call-overload]
        made[index] = moved.reshape(made.shape[-3:])
    return made


def train_size(height: int, width: int) -> tuple[int, int]:
    """The nearest multiples of 16 (halves to even), which training rounds sizes to."""
    return round(height / 16) * 16, round(width / 16) * 16


def train_fit(pictures: np.ndarray, height: int, width: int) -> np.ndarray:
    """Centre crop to the aspect, then nearest pixels: [...,H,W,C] -> [...,h,w,C].

    Source: section 5 of the released data page.
    """
    h, w = pictures.shape[-3:-1]
    aspect = height / width
    if h / w > aspect:
        tall, wide = int(w * aspect), w
    else:
        tall, wide = h, int(h / aspect)
    top, left = int(round((h - tall) / 2)), int(round((w - wide) / 2))
    cropped = pictures[..., top : top + tall, left : left + wide, :]
    return nearest_resize(cropped, height, width)


def sample_fit(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """Centre crop to the aspect, then antialiased bicubic: uint8 [H,W,3] or [H,W].

    Source: section 2 of the released preprocessing page (`resizecrop`).
    """
    h, w = picture.shape[:2]
    if h / w > height / width:
        wide, tall = w, int(w * height / width)
    else:
        wide, tall = int(h * width / height), h
    box = ((w - wide) / 2, (h - tall) / 2, (w + wide) / 2, (h + tall) / 2)
    cropped = Image.fromarray(picture).crop(tuple(round(v) for v in box))  # type: ignore[arg-type]
    return np.asarray(cropped.resize((width, height), Image.Resampling.BICUBIC))


def output_size(height: int, width: int, *, cap: int, multiple: int) -> tuple[int, int]:
    """Size to sample at: short side at most `cap`, both multiples of `multiple`.

    Raises:
      UserError: a side would be smaller than one multiple.
    Source: section 1 of the released sampler page.
    """
    short = min(height, width)
    if short > cap:
        height, width = int(height * cap / short), int(width * cap / short)
    sides = height // multiple * multiple, width // multiple * multiple
    if min(sides) < multiple:
        raise UserError(
            f"A picture of {height}x{width} pixels is too small: both sides must be at "
            f"least {multiple}."
        )
    return sides


def fit_points(
    keypoints: np.ndarray, before: tuple[int, int], after: tuple[int, int]
) -> np.ndarray:
    """Key points [...,3] in pixels after the centre crop and resize of `sample_fit`."""
    (h, w), (height, width) = before, after
    if h / w > height / width:
        wide, tall = w, int(w * height / width)
    else:
        wide, tall = int(h * width / height), h
    left, top = round((w - wide) / 2), round((h - tall) / 2)
    points = np.array(keypoints, np.float64)
    points[..., 0] = (points[..., 0] - left) * width / wide
    points[..., 1] = (points[..., 1] - top) * height / tall
    return points


def pad_points(
    keypoints: np.ndarray, before: tuple[int, int], after: tuple[int, int]
) -> np.ndarray:
    """Key points [...,3] in pixels where the whole frame is fitted in, in the middle.

    Where `fit_points` cuts off what does not have the new shape, this leaves room.
    """
    (h, w), (height, width) = before, after
    scale = min(height / h, width / w)
    points = np.array(keypoints, np.float64)
    points[..., 0] = (points[..., 0] - w / 2) * scale + width / 2
    points[..., 1] = (points[..., 1] - h / 2) * scale + height / 2
    return points


def refit(
    points: np.ndarray, before: tuple[int, int], after: tuple[int, int]
) -> np.ndarray:
    """The same for points [...,3] relative to the frame, 0..1 inside."""
    (h, w), (height, width) = before, after
    made = fit_points(points * (w, h, 1), before, after)
    return made / (width, height, 1)
