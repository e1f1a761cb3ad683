"""Frames that are made or read when they are asked for, so that none need wait."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np


class Frames:
    """Frames of a clip behind an array's shape and indices.

    Args:
      count: frames in all.
      size: height and width.
      frame: index -> [H,W,3] uint8.
    """

    def __init__(
        self, count: int, size: tuple[int, int], frame: Callable[[int], np.ndarray]
    ):
        self.shape = (count, *size, 3)
        self._frame = frame

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> np.ndarray:
        """A frame of a number, or frames [n,H,W,3] of a slice or of numbers."""
        if isinstance(index, int | np.integer):
            return self._frame(range(len(self))[int(index)])
        chosen = np.arange(len(self))[index]
        made = [self._frame(int(i)) for i in chosen]
        return np.stack(made) if made else np.zeros((0, *self.shape[1:]), np.uint8)

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self._frame(i) for i in range(len(self)))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[:], dtype)

    def alone(self) -> "OneClip":
        """As a batch of one clip, [1,F,H,W,3]."""
        return OneClip(self)


class OneClip:
    """A batch of one clip; takes (everything, frames) as its index."""

    def __init__(self, frames: Frames):
        self.shape = (1, *frames.shape)
        self._frames = frames

    def __getitem__(self, index: Any) -> np.ndarray:
        clips, frames = index
        return self._frames[frames][None][clips]


def forwards(source: Callable[[], Iterable[np.ndarray]]) -> Callable[[int], np.ndarray]:
    """Function of an index for frames that come one after another.

    Going on is cheap, going back starts anew.
    """
    stream: Iterator[np.ndarray] = iter(())
    at, last = -1, np.zeros(0, np.uint8)

    def frame(index: int) -> np.ndarray:
        nonlocal stream, at, last
        if index < at or at < 0:
            stream, at = iter(source()), -1
        while at < index:
            last, at = next(stream), at + 1
        return last

    return frame
