"""Which frames of a clip become a sample."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from data_pipeline import augment
from data_pipeline.augment import Draws
from data_pipeline.builder import UNMARKED, Marks, RowSizes
from data_pipeline.plan import PICTURE_FRAMES
from data_pipeline.settings import DataConfig
from onetoall_jax.errors import UserError

ANY, CACHED = "any", "cached"


@dataclasses.dataclass(frozen=True)
class Window:
    """Frames that are learned together, enlarged by `zoom`."""

    frames: tuple[int, ...]
    zoom: float = 1.0


@dataclasses.dataclass(frozen=True)
class Choice:
    """What a row becomes in an epoch.

    Attributes:
      window: frames to learn, as they are read; reference: the frame beside them.
      number: of the stored window that is finally learned; None where none is stored.
      draws: with the zoom of that window.
    """

    window: list[int]
    reference: int
    number: int | None
    draws: Draws


def check(config: DataConfig) -> None:
    """Raises UserError for settings that contradict each other."""
    if config.windows not in (ANY, CACHED):
        raise UserError(
            f"data.windows is {config.windows!r}: it can be {ANY!r} or {CACHED!r}."
        )
    if config.latents and config.windows != CACHED:
        raise UserError(
            "data.latents holds few windows of a clip: set data.windows=cached, too."
        )


def marks(config: DataConfig, sizes: RowSizes, row: int) -> Marks:
    """Marked frames of a row, if they are to be minded."""
    return sizes.marked(row) if config.marked_frames else UNMARKED


def choose_frames(
    length: int, fps: float, num_frames: int, draws: Draws, marks: Marks = UNMARKED
) -> tuple[list[int], int]:
    """(frames of the window, frame of the reference).

    The window keeps every s-th frame, s = max(round(fps) // 16, 1); the reference is
    any frame outside it, or any frame at all where nothing is outside. A clip's first
    and last frame are left out where it is long enough. Where the data set marks
    frames, windows begin and references lie there.

    Source: section 3 of the released data page; marks: its `read_frames`.
    """
    begun = marked_windows(length, fps, num_frames, marks)
    inside, every = _candidates(length, fps, num_frames)
    if begun:
        window = begun[augment.integer(draws.window, 0, len(begun) - 1)]
    else:
        start = augment.integer(draws.window, 0, max(0, len(every) - num_frames))
        window = every[start : start + num_frames]
    choices = reference_choices(marks.references or inside, window)
    return window, choices[augment.integer(draws.reference, 0, len(choices) - 1)]


def marked_windows(
    length: int, fps: float, num_frames: int, marks: Marks
) -> list[list[int]]:
    """Windows that begin where they should and end inside the clip.

    Of more than three beginnings the release leaves out the first and the last.
    """
    stride = _stride(fps)
    starts = marks.starts[1:-1] if len(marks.starts) > 3 else marks.starts
    last = length - 1 - (num_frames - 1) * stride
    return [
        list(range(s, s + (num_frames - 1) * stride + 1, stride))
        for s in starts
        if s <= last
    ]


def reference_choices(frames: Sequence[int], window: Sequence[int]) -> list[int]:
    """Those of `frames` that lie before or after a window; all of them if none does."""
    outside = [i for i in frames if not window[0] <= i <= window[-1]]
    return outside or list(frames)


def _stride(fps: float) -> int:
    return max(int(np.round(fps)) // 16, 1)


def _candidates(length: int, fps: float, num_frames: int) -> tuple[range, list[int]]:
    """(frames that a reference may be, frames that windows are cut from)."""
    stride = _stride(fps)
    inside = range(1, length - 1)
    every = list(inside[::stride])
    every = every[: (len(every) - 1) // 4 * 4 + 1]
    if len(every) < num_frames:
        inside = range(length)
        every = list(inside[::stride])
    return inside, every


def stored(
    length: int,
    fps: float,
    num_frames: int,
    row: int,
    config: DataConfig,
    marks: Marks = UNMARKED,
) -> list[Window]:
    """Windows of a row that are worth storing: plain ones, then an enlarged one.

    Plain ones are spread evenly over the clip, or over its marked beginnings. Where
    clips may be zoomed, the one in the middle is there a second time, enlarged by an
    amount of the row's own.
    """
    if length <= PICTURE_FRAMES:
        plain = [Window((i,)) for i in range(length)]
    else:
        possible = marked_windows(length, fps, num_frames, marks)
        if not possible:
            _, every = _candidates(length, fps, num_frames)
            last = max(0, len(every) - num_frames)
            possible = [every[s : s + num_frames] for s in range(last + 1)]
        most = min(config.windows_per_clip, len(possible))
        places = np.round(np.linspace(0, len(possible) - 1, most)).astype(int)
        plain = [Window(tuple(possible[i])) for i in places.tolist()]
    if not config.augment.zoom:
        return plain
    middle, picture = plain[len(plain) // 2], length <= PICTURE_FRAMES
    if picture:
        middle = plain[_target(length, config)]
    scale = _scale(config, row, picture)
    return [*plain, dataclasses.replace(middle, zoom=scale)]


def _scale(config: DataConfig, row: int, picture: bool) -> float:
    """By how much a row's stored window is enlarged."""
    released = picture and config.augment.released_pictures
    return augment.zoom_scale(_own(config.seed, row), released_picture=released)


def _target(length: int, config: DataConfig) -> int:
    """Which of one or two pictures is to be learned."""
    return length - 1 if config.augment.same_picture else 0


def _own(seed: int, row: int) -> float:
    """Uniform number of a row that no epoch changes."""
    return float(np.random.default_rng([seed, row, 4]).random())


def choose(
    length: int,
    fps: float,
    num_frames: int,
    row: int,
    config: DataConfig,
    draws: Draws,
    marks: Marks = UNMARKED,
) -> Choice:
    """Frames of a row in an epoch, and which stored window they are.

    A clip that gives one frame takes its reference from another stored window, since it
    may become the target.
    """
    chances, windows = config.augment, []
    if config.windows == CACHED:
        windows = stored(length, fps, num_frames, row, config, marks)
    if length <= PICTURE_FRAMES:
        window = [_target(length, config)]
        found: Choice = Choice(window, length - 1, None, draws)
    elif config.windows == ANY:
        pair = choose_frames(length, fps, num_frames, draws, marks)
        found = Choice(*pair, None, draws)
    else:
        frames = marks.references or _candidates(length, fps, num_frames)[0]
        found = _among(windows, frames, num_frames, config, draws)
    if draws.first < chances.reference_first:
        found = dataclasses.replace(found, reference=found.window[0])
    if config.windows == ANY:
        return found
    return _numbered(found, windows, length, num_frames, row, config)


def _among(
    windows: Sequence[Window],
    frames: Sequence[int],
    num_frames: int,
    config: DataConfig,
    draws: Draws,
) -> Choice:
    plain = [w for w in windows if w.zoom == 1]
    window = plain[augment.integer(draws.window, 0, len(plain) - 1)]
    if augment.zooms_clip(config.augment, draws):
        window = windows[-1]
    choices = reference_choices(frames, window.frames)
    if num_frames == 1:
        others = [w.frames[0] for w in plain if w.frames != window.frames]
        choices = others or list(window.frames)
    reference = choices[augment.integer(draws.reference, 0, len(choices) - 1)]
    return Choice(list(window.frames), reference, None, draws)


def _numbered(
    found: Choice,
    windows: Sequence[Window],
    length: int,
    num_frames: int,
    row: int,
    config: DataConfig,
) -> Choice:
    draws, frames, zoom = found.draws, tuple(found.window), 1.0
    picture, pair = length <= PICTURE_FRAMES, pair_of(found, length)
    if augment.zooms_clip(config.augment, draws, pair):
        draws = dataclasses.replace(draws, zoom_scale=_own(config.seed, row))
        zoom = _scale(config, row, picture)
    elif num_frames == 1 and augment.targets_reference(config.augment, draws, pair):
        frames = (found.reference,)
    return dataclasses.replace(
        found, number=windows.index(Window(frames, zoom)), draws=draws
    )


def pair_of(choice: Choice, length: int) -> bool | None:
    """Of a picture: is it its own reference? None for a clip of more frames."""
    if length > PICTURE_FRAMES:
        return None
    return choice.window[0] == choice.reference


def describe(choice: Choice) -> str:
    """The choice for people to read."""
    a, b = choice.window[0], choice.window[-1]
    frames = f"frame {a}" if a == b else f"frames {a}..{b}"
    return f"{frames}, reference {choice.reference}"
