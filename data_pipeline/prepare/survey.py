"""Looks through a file once: shots, sharpness, marks; keeps no frame."""

import dataclasses

import cv2
import numpy as np

from onetoall_jax.errors import UserError

_BINS = 16
_THUMBNAIL = 120  # pixels high
THUMBNAIL_EVERY = 8  # frames, fewer than the shortest clip has
_LONGEST_PAUSE_S = 1.0


@dataclasses.dataclass(frozen=True)
class Survey:
    """What one pass over the frames tells.

    Attributes:
      height, width: of the frames, in pixels; num_frames: decoded.
      times: [F] seconds; all NaN where the file does not tell.
      change: [F] in 0..1, how far a frame is from the one before it; 0 for the first.
      sharpness: [F], variance of the Laplacian at 256 rows; below 20 looks blurred.
      marks: [F,56] uint8, of what is to be seen: 64 bits of shapes, then 4x4 colours.
      thumbnails: JPEG files of every eighth frame, one after another.
      thumbnail_bytes: length of each.
    """

    height: int
    width: int
    num_frames: int
    times: np.ndarray
    change: np.ndarray
    sharpness: np.ndarray
    marks: np.ndarray
    thumbnails: np.ndarray
    thumbnail_bytes: np.ndarray

    def thumbnail(self, frame: int) -> bytes:
        """JPEG file of the frame, or of one shortly before it."""
        i = frame // THUMBNAIL_EVERY
        start = int(self.thumbnail_bytes[:i].sum())
        return self.thumbnails[start : start + self.thumbnail_bytes[i]].tobytes()


class Surveyor:
    """Measures frames as they come."""

    def __init__(self) -> None:
        self._size: tuple[int, int] | None = None
        self._before: np.ndarray | None = None
        self._times: list[float] = []
        self._change: list[float] = []
        self._sharpness: list[float] = []
        self._marks: list[np.ndarray] = []
        self._thumbnails: list[bytes] = []

    def add(self, time: float | None, picture: np.ndarray) -> None:
        """Takes the next frame [H,W,3] uint8.

        Raises:
          UserError: it has another size than those before it.
        """
        size = picture.shape[0], picture.shape[1]
        if self._size is not None and self._size != size:
            others = "{}x{}".format(*self._size)
            raise UserError(
                f"Frame {len(self._times)} has {size[0]}x{size[1]} pixels and those "
                f"before it {others}: cut the file there."
            )
        self._size = size
        self._times.append(float("nan") if time is None else time)
        grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
        wide = min(max(1, round(256 * size[1] / size[0])), 4096)
        even = cv2.resize(grey, (wide, 256), interpolation=cv2.INTER_AREA)
        self._sharpness.append(float(cv2.Laplacian(even, cv2.CV_64F).var()))
        self._marks.append(_mark(grey, picture))
        now = _signature(picture)
        before = now if self._before is None else self._before
        self._change.append(_distance(before, now))
        self._before = now
        if len(self._times) % THUMBNAIL_EVERY == 1:
            self._thumbnails.append(_thumbnail(picture))

    def finish(self) -> Survey:
        """What was seen.

        Raises:
          UserError: no frame.
        """
        if self._size is None:
            raise UserError("It holds no frame.")
        return Survey(
            *self._size,
            len(self._times),
            np.array(self._times),
            np.array(self._change),
            np.array(self._sharpness),
            np.stack(self._marks),
            np.frombuffer(b"".join(self._thumbnails), np.uint8),
            np.array([len(t) for t in self._thumbnails]),
        )


def _thumbnail(picture: np.ndarray) -> bytes:
    wide = round(picture.shape[1] * _THUMBNAIL / picture.shape[0])
    size = min(max(1, wide), 8 * _THUMBNAIL), _THUMBNAIL
    small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    return cv2.imencode(".jpg", small[..., ::-1])[1].tobytes()


def _mark(grey: np.ndarray, picture: np.ndarray) -> np.ndarray:
    """What survives scaling and recoding: where it gets brighter, and the colours."""
    small = cv2.resize(grey, (9, 8), interpolation=cv2.INTER_AREA)
    shapes = np.packbits(small[:, 1:] > small[:, :-1])
    colours = cv2.resize(picture, (4, 4), interpolation=cv2.INTER_AREA)
    return np.concatenate([shapes, colours.ravel()])


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


def shots(
    change: np.ndarray, threshold: float, times: np.ndarray | None = None
) -> list[tuple[int, int]]:
    """(first, one past the last) frame of every shot.

    A cut is a change above the threshold that is also three times the typical one
    around it, so that a fast pan is not cut to pieces; or a pause of over a second.
    """
    steps = np.diff(times, prepend=times[:1]) if times is not None else change * 0
    cuts = [0]
    for i in range(1, len(change)):
        around = np.r_[change[max(1, i - 8) : i], change[i + 1 : i + 9]]
        usual = float(np.median(around)) if around.size else 0.0
        jump = change[i] > threshold and change[i] > 3 * usual
        if jump or steps[i] > _LONGEST_PAUSE_S:
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


def rate(times: np.ndarray, told: float) -> float:
    """Frames a second: as told, unless the frames' own times contradict it."""
    length = float(times[-1] - times[0]) if len(times) > 1 else float("nan")
    if not length > 0:  # NaN, too
        return told
    seen = (len(times) - 1) / length
    return told if abs(seen / told - 1) < 0.01 else seen


def steady(times: np.ndarray, fps: float) -> np.ndarray:
    """Numbers of the frames to be seen at each tick of a clock, `fps` a second.

    All of them where they come evenly, or nobody knows when. Where they do not (phones
    film slower in the dark), frames are repeated or left out, so that motion keeps its
    speed.
    """
    steps = np.diff(times) * fps
    if not len(steps) or np.isnan(steps).any() or (steps <= 0).any():
        return np.arange(len(times))
    if np.abs(steps - 1).max() < 0.5:
        return np.arange(len(times))
    since = times - times[0]
    ticks = np.arange(int(np.floor(since[-1] * fps + 0.5)) + 1) / fps
    # The newest frame of each moment; half a thousandth forgives rounded times.
    return np.searchsorted(since, ticks + 5e-4, side="right") - 1


def mark(marks: np.ndarray) -> np.ndarray:
    """[3,56] marks of a clip: a quarter, half and three quarters through."""
    return marks[[len(marks) * k // 4 for k in (1, 2, 3)]]


def alike(one: np.ndarray, many: np.ndarray, bits: int, colour: int) -> np.ndarray:
    """Which of many clips [n,3,56] look like one [3,56].

    Args:
      bits: of 64 that may differ; colour: mean difference that may be, 0..255.
    """
    shapes = np.bitwise_count(one[:, :8] ^ many[..., :8]).sum(axis=-1)
    colours = np.abs(one[:, 8:].astype(np.int16) - many[..., 8:]).mean(axis=-1)
    return ((shapes <= bits) & (colours <= colour)).all(axis=-1)
