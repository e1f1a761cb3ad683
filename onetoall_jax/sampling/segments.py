"""Long clips as overlapping segments."""

import dataclasses
from collections.abc import Sequence

from onetoall_jax.errors import UserError
from onetoall_jax.geometry import Geometry
from onetoall_jax.sampling.settings import SamplingConfig

CONTEXT_LATENTS = 2  # latent frames that a segment takes over from the one before


@dataclasses.dataclass(frozen=True)
class Segment:
    """Frames start .. start + length - 1 of a clip; may reach past its end."""

    start: int
    length: int

    @property
    def end(self) -> int:
        """First frame after the segment."""
        return self.start + self.length


def plan(
    config: SamplingConfig, num_frames: int, geometry: Geometry
) -> tuple[Segment, ...]:
    """Segments of a clip, in order; each starts inside the one before.

    A clip shorter than a segment is one segment, padded to the codec's next frame
    count. The same holds for a clip as long as a segment, but in the release's plan.

    Raises:
      UserError: a length that the codec does not take, an overlap that does not fit or
        a plan of another name.
    """
    _check(config, geometry)
    if num_frames < 1:
        raise UserError(f"A clip of {num_frames} frames cannot be drawn: give 1 frame.")
    if num_frames < config.segment_frames:
        return (Segment(0, geometry.padded_frames(num_frames)),)
    if config.plan == "static":
        return static_plan(num_frames, config.segment_frames, config.overlap)
    return release_plan(
        num_frames, config.segment_frames, config.overlap, config.final_lengths
    )


def static_plan(
    num_frames: int, length: int = 81, overlap: int = 5
) -> tuple[Segment, ...]:
    """Segments of one length; the last slides back to end with the clip.

    Args:
      num_frames: at least `length`.
    """
    stride = length - overlap
    count = -(-(num_frames - length) // stride) + 1
    last = num_frames - length
    return tuple(Segment(min(stride * i, last), length) for i in range(count))


def release_plan(
    num_frames: int,
    length: int = 81,
    overlap: int = 5,
    final_lengths: Sequence[int] = (65, 69, 73, 77, 81),
) -> tuple[Segment, ...]:
    """The released plan: full segments, then the shortest last one that overlaps.

    A clip of exactly `length` frames is drawn in two segments, as released.

    Args:
      num_frames: at least `length`.
    """
    stride = length - overlap
    beyond = num_frames - (length + stride)
    full = 1 if beyond <= 0 else -(-beyond // stride) + 1
    fitting = [c for c in final_lengths if num_frames - c < stride * full]
    final = min(fitting, default=length)
    segments = [Segment(stride * i, length) for i in range(full)]
    return (*segments, Segment(num_frames - final, final))


def calls(
    segments: Sequence[Segment], per_call: int
) -> tuple[tuple[Segment, ...], ...]:
    """Segments of each compiled call: equal lengths, `per_call` of them or one.

    What is left over goes one at a time, so a length needs two programs at most.

    Args:
      per_call: 0 takes all neighbours of one length together.
    """
    groups: list[tuple[Segment, ...]] = []
    rest = list(segments)
    while rest:
        run = 1
        while run < len(rest) and rest[run].length == rest[0].length:
            run += 1
        count = run if per_call == 0 else per_call if per_call <= run else 1
        groups.append(tuple(rest[:count]))
        rest = rest[count:]
    return tuple(groups)


def _check(config: SamplingConfig, geometry: Geometry) -> None:
    if config.plan not in ("static", "release"):
        raise UserError(
            f"sampling.plan={config.plan!r} is unknown: take 'static' or 'release'."
        )
    if config.segments_per_call < 0:
        raise UserError(
            f"sampling.segments_per_call={config.segments_per_call} is no number of "
            "segments: give 1 or more, or 0 for all."
        )
    if not 0 <= config.colour_anchor <= 1:
        raise UserError(
            f"sampling.colour_anchor={config.colour_anchor} is no share: give 0 (as "
            "drawn) to 1 (held to the first segment)."
        )
    lengths = [config.segment_frames]
    if config.plan == "release":
        lengths += config.final_lengths
    for frames in (*lengths, config.overlap):
        geometry.latent_frames(frames)
    if max(lengths) > config.segment_frames:
        raise UserError(
            f"sampling.final_lengths has {max(lengths)}, but no segment may be longer "
            f"than sampling.segment_frames={config.segment_frames}."
        )
    if config.overlap >= min(lengths):
        raise UserError(
            f"sampling.overlap={config.overlap} leaves nothing new in a segment of "
            f"{min(lengths)} frames: make the overlap smaller."
        )
    if geometry.latent_frames(config.overlap) != CONTEXT_LATENTS:
        raise UserError(
            f"sampling.overlap={config.overlap} is not {CONTEXT_LATENTS} latent frames "
            f"of context: give {geometry.pixel_frames(CONTEXT_LATENTS)}."
        )
