"""A picture and a driving clip made ready: one size, one frame, poses drawn."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from onetoall_jax.alignment import align, fit, move
from onetoall_jax.alignment.align import AlignConfig, Aligned
from onetoall_jax.alignment.person import Person
from onetoall_jax.errors import UserError
from onetoall_jax.geometry import Geometry
from onetoall_jax.pipelines.frames import Frames
from onetoall_jax.pose import draw
from onetoall_jax.pose.files import Track

NATIVE = "native"
_TRAINED_FPS = 32  # training clips had 16 to 31 frames a second
_PREPARED_CAP = 768  # short side of what the release's first script writes
_SMALLEST = 64  # short side that still shows a person


class Prepared(NamedTuple):
    """Pictures of one size, ready to sample.

    Attributes:
      reference, reference_pose: [H,W,3] uint8.
      poses: [F,H,W,3] uint8; frames are drawn or read when they are asked for.
      mask: [H,W] float32 in 0..1, 1 = to be invented.
      fps: of the driving clip.
      notes: what was chosen and changed on the way, a sentence each.
      choices: the settings behind it, ready for JSON.
    """

    reference: np.ndarray
    mask: np.ndarray
    reference_pose: np.ndarray
    poses: Frames
    fps: float
    notes: tuple[str, ...]
    choices: dict[str, Any]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.reference.shape[0], self.reference.shape[1]


def prepare(
    reference: np.ndarray,
    reference_track: Track,
    driving_track: Track,
    geometry: Geometry,
    *,
    canvas_side: int,
    size: tuple[int, int] | None = None,
    cap: int,
    config: AlignConfig = AlignConfig(),  # noqa: B008
) -> Prepared:
    """Aligns both people; poses are drawn at the size to sample at.

    Args:
      reference: [H,W,3].
      size: height and width of the result; None follows the reference, its short side
        at most `cap`.
      config: how they are brought together.
    Raises:
      UserError: the reference is too small, or the size is not legal.
    Source: sections 1 and 2 of the released preprocessing page.
    """
    before = reference.shape[0], reference.shape[1]
    sizes = output_sizes(before, size, cap, geometry)
    aligned = align.align(
        reference_track.keypoints[0],
        before,
        driving_track.keypoints,
        (driving_track.height, driving_track.width),
        config,
    )
    drawn = _drawn_as_released if canvas_side == draw.CANVAS_SIDE else _drawn_small
    shown, frame = drawn(aligned, before, sizes, canvas_side)
    picture, missing = reference, np.zeros(before, np.uint8)
    if aligned.placement is not None:
        missing = move.missing(*before, aligned.placement)
        picture = move.warp(reference, aligned.placement)
    notes = [
        f"alignment {aligned.mode}: {aligned.reason}",
        *aligned.signals.reasons,
        *aligned.warnings,
        *resized(before, sizes[-1]),
    ]
    return Prepared(
        fitted(picture, sizes),
        fitted(missing, sizes).astype(np.float32) / 255,
        shown,
        Frames(len(aligned.driving), sizes[-1], frame),
        driving_track.fps,
        tuple(notes),
        {
            "mode": aligned.mode,
            "style": dataclasses.asdict(aligned.signals.style),
            "alignment": dataclasses.asdict(config),
        },
    )


def resized(before: tuple[int, int], after: tuple[int, int]) -> list[str]:
    """What to tell of a picture whose size changes."""
    if before == after:
        return []
    was, now = ("x".join(map(str, size)) for size in (before, after))
    return [f"reference cropped and resized from {was} to {now}"]


def output_sizes(
    before: tuple[int, int],
    wanted: tuple[int, int] | None,
    cap: int,
    geometry: Geometry,
) -> list[tuple[int, int]]:
    """Sizes that pictures go through; the release resizes twice.

    Raises:
      UserError: the picture is too small, or the size wanted is not legal.
    """
    smallest = min(_SMALLEST, cap)
    if min(before) < smallest:
        raise UserError(
            f"The reference is {before[0]}x{before[1]} pixels, which is too small to "
            f"show a person: its sides must be at least {smallest}."
        )
    if wanted:
        geometry.check_size(*wanted)
        return [wanted]
    made = [before]
    for limit in (_PREPARED_CAP, cap):
        multiple = geometry.pixel_multiple
        made.append(fit.output_size(*made[-1], cap=limit, multiple=multiple))
    return made[1:]


def fitted(picture: np.ndarray, sizes: Sequence[tuple[int, int]]) -> np.ndarray:
    """A picture [H,W,3] or [H,W] cropped and resized, size after size."""
    for size in sizes:
        if picture.shape[:2] != size:
            picture = fit.sample_fit(picture, *size)
    return picture


def timed(track: Track, fps: str, num_frames: int | None) -> tuple[Track, list[str]]:
    """(the track at a frame rate, at most so many frames; what to tell of it).

    Args:
      fps: "native", or a number of frames a second: the nearest earlier frames of the
        clip are taken, which a slower clip has no more of.
    Raises:
      UserError: neither.
    """
    notes = []
    if fps == NATIVE:
        if track.fps > _TRAINED_FPS and len(track.keypoints) > 1:
            notes.append(
                f"the driving clip has {track.fps:g} frames a second; the released "
                "models were trained on 16 to 31: compare with --fps=16"
            )
    else:
        rate = _rate(fps)
        if rate < track.fps:
            count = max(1, int(len(track.keypoints) * rate / track.fps))
            chosen = (np.arange(count) * track.fps / rate).astype(int)
            notes.append(
                f"{count} of {len(track.keypoints)} driving frames taken, "
                f"{rate:g} instead of {track.fps:g} a second"
            )
            track = track._replace(keypoints=track.keypoints[chosen], fps=rate)
        elif rate > track.fps:
            notes.append(
                f"the driving clip keeps its {track.fps:g} frames a second: it has not "
                f"{rate:g}"
            )
    if num_frames is not None:
        track = track._replace(keypoints=track.keypoints[:num_frames])
    return track, notes


def _rate(fps: str) -> float:
    try:
        rate = float(fps)
    except ValueError:
        rate = 0.0
    if not 1 <= rate <= 1000:
        raise UserError(f"--fps={fps}: give 'native' or a number, for example 16.")
    return rate


_Drawn = tuple[np.ndarray, Callable[[int], np.ndarray]]


def _drawn_as_released(
    aligned: Aligned,
    before: tuple[int, int],
    sizes: Sequence[tuple[int, int]],
    canvas_side: int,
) -> _Drawn:
    """(reference pose, index -> pose), drawn at the picture's size, then moved."""
    drawer = draw.Drawer(*before, canvas_side)
    shown = drawer(aligned.reference.pose, draw.Style(face=False))
    if aligned.placement is not None:
        shown = move.warp(shown, aligned.placement)
    return fitted(shown, sizes), lambda i: fitted(
        drawer(aligned.driving[i].pose, aligned.signals.style), sizes
    )


def _drawn_small(
    aligned: Aligned,
    before: tuple[int, int],
    sizes: Sequence[tuple[int, int]],
    canvas_side: int,
) -> _Drawn:
    """The same, drawn at the size to sample at: lines would not survive a reduction."""
    drawer = draw.Drawer(*sizes[-1], canvas_side)
    reference = aligned.reference
    if aligned.placement is not None:
        reference = move.move(reference, aligned.placement)

    def drawn(person: Person, style: draw.Style) -> np.ndarray:
        for a, b in zip([before, *sizes], sizes, strict=False):
            person = Person(*(fit.refit(points, a, b) for points in person))
        return drawer(person.pose, style)

    shown = drawn(reference, draw.Style(face=False))
    if aligned.placement is not None:
        # What the picture did not show is not to be known from its pose either.
        missing = fitted(move.missing(*before, aligned.placement), sizes)
        shown = shown * (missing < 128)[..., None]
    return shown, lambda i: drawn(aligned.driving[i], aligned.signals.style)
