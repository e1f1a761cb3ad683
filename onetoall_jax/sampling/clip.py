"""Clips of any length: the plan, the calls, and frames as they become final."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from onetoall_jax.sampling import euler, segments
from onetoall_jax.sampling.euler import Inputs, Params
from onetoall_jax.sampling.sampler import Carry, Sampler
from onetoall_jax.sampling.segments import Segment


class Made(NamedTuple):
    """A segment as it was drawn, on the host.

    Attributes:
      latents: [B,f,h,w,C]; frames_u8: [B,F,H,W,3].
      tone: [B,2,3], of the first segment; see `sampler.tone`.
    """

    segment: Segment
    latents: np.ndarray
    frames_u8: np.ndarray
    tone: np.ndarray


class Done(NamedTuple):
    """Where an earlier, broken call stood.

    Attributes:
      segments: how many it had made, whole compiled calls only; see `whole_calls`.
      frames_u8: [B,F,H,W,3] of the last of them; tone: as in Made.
    """

    segments: int
    frames_u8: np.ndarray
    tone: np.ndarray


def plan(sampler: Sampler, num_frames: int) -> tuple[Segment, ...]:
    """Segments of a clip; see `segments.plan`."""
    return segments.plan(sampler.config, num_frames, sampler.codec.geometry)


def whole_calls(sampler: Sampler, num_frames: int, made: int) -> int:
    """Segments, at most `made`, after which a compiled call ends."""
    ends = [0]
    for group in segments.calls(
        plan(sampler, num_frames), sampler.config.segments_per_call
    ):
        ends.append(ends[-1] + len(group))
    return max(end for end in ends if end <= made)


def draw_segments(
    sampler: Sampler,
    params: Params,
    codec_params: Params,
    inputs: Inputs,
    pose_u8: Any,
    *,
    num_frames: int | None = None,
    noise: Any = None,
    seed: int | None = None,
    done: Done | None = None,
) -> Iterator[Made]:
    """Segments of a clip, each as soon as its call returns.

    Args:
      params, codec_params: plain trees.
      inputs: reference, prompts and the reference's pose.
      pose_u8: [B,F,H,W,3] driving poses, one for every frame wanted; None for a model
        without pose, then `num_frames` says how many to draw. Anything with this shape
        that gives the frames asked for: a long clip need not lie in memory.
      noise: [B,f,h,w,C] instead of the noise of a seed; it fits one length of segments
        only.
      seed: instead of `config.seed`; the same programs serve all seeds.
      done: goes on where an earlier call stood, to the same frames.
    Yields:
      segments; a later one's frames replace those that it overlaps.
    """
    euler.check(sampler.denoiser.table, inputs, pose_u8 is not None)
    total = _count(pose_u8, num_frames)
    size = _size(sampler, inputs, pose_u8, noise)
    parts = plan(sampler, total)
    if noise is None:
        noise = np.uint32(sampler.config.seed if seed is None else seed)
    clips = len(inputs.prompt)
    carry = sampler.first_carry(clips, *size)
    offsets = np.diff([s.start for s in parts], append=parts[-1].start).astype(np.int32)
    behind = 0 if done is None else done.segments
    if done is not None:
        carry = _carry(sampler, done, offsets[behind - 1])
    for group in segments.calls(parts[behind:], sampler.config.segments_per_call):
        carry, drawn = sampler.call(
            params,
            codec_params,
            inputs,
            carry,
            None if pose_u8 is None else _poses(pose_u8, group),
            offsets[behind : behind + len(group)],
            noise,
            length=group[0].length,
            chained=len(parts) > 1,
        )
        behind += len(group)
        latents, frames_u8 = jax.device_get(drawn)
        first_tone = jax.device_get(carry.tone)
        for i, segment in enumerate(group):
            yield Made(segment, latents[i], frames_u8[i], first_tone)


def _carry(sampler: Sampler, done: Done, offset: int) -> Carry:
    frames = done.frames_u8[:, offset : offset + sampler.config.overlap]
    return Carry(frames, np.int32(done.segments), done.tone)  # type: ignore[arg-type]


def stream_clip(
    sampler: Sampler,
    params: Params,
    codec_params: Params,
    inputs: Inputs,
    pose_u8: Any,
    *,
    num_frames: int | None = None,
    noise: Any = None,
    seed: int | None = None,
) -> Iterator[np.ndarray]:
    """Frames of a clip, each time as many as no later segment will replace.

    Arguments as for `draw_segments`.

    Yields:
      uint8 [B,n,H,W,3]; together [B,F,H,W,3].
    """
    total = _count(pose_u8, num_frames)
    drawn = draw_segments(
        sampler,
        params,
        codec_params,
        inputs,
        pose_u8,
        num_frames=num_frames,
        noise=noise,
        seed=seed,
    )
    for made in drawn:
        start = made.segment.start
        yield made.frames_u8[:, : final_end(sampler, total, start) - start]


def final_end(sampler: Sampler, num_frames: int, start: int) -> int:
    """First frame that the segment from `start` on does not have the last word on."""
    later = [s.start for s in plan(sampler, num_frames) if s.start > start]
    return min(later, default=num_frames)


def sample_clip(
    sampler: Sampler,
    params: Params,
    codec_params: Params,
    inputs: Inputs,
    pose_u8: Any,
    *,
    num_frames: int | None = None,
    noise: Any = None,
    seed: int | None = None,
) -> np.ndarray:
    """A whole clip, uint8 [B,F,H,W,3]; arguments as for `stream_clip`."""
    parts = stream_clip(
        sampler,
        params,
        codec_params,
        inputs,
        pose_u8,
        num_frames=num_frames,
        noise=noise,
        seed=seed,
    )
    return np.concatenate(list(parts), axis=1)


def _count(pose_u8: Any, num_frames: int | None) -> int:
    if pose_u8 is not None:
        return np.shape(pose_u8)[1]
    if num_frames is None:
        raise ValueError("without poses, num_frames says how many frames to draw")
    return num_frames


def _size(
    sampler: Sampler, inputs: Inputs, pose_u8: Any, noise: Any
) -> tuple[int, int]:
    """Height and width of the frames to draw."""
    geometry = sampler.codec.geometry
    latents = inputs.reference if inputs.reference is not None else noise
    if pose_u8 is not None:
        height, width = np.shape(pose_u8)[2:4]
    elif latents is not None:
        height, width = (n * geometry.spatial for n in np.shape(latents)[2:4])
    else:
        raise ValueError("without pose and reference, give the noise: it has the size")
    geometry.check_size(height, width)
    return height, width


def _poses(pose_u8: Any, group: tuple[Segment, ...]) -> np.ndarray:
    """[n,B,F,H,W,3]; past the end of the clip its last pose stays."""
    last = np.shape(pose_u8)[1] - 1
    frames = [np.minimum(np.arange(s.start, s.end), last) for s in group]
    return np.stack([np.asarray(pose_u8[:, f]) for f in frames])
