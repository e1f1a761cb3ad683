"""Clips of any length: the plan, the calls, and frames as they become final."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from onetoall_jax.sampling import euler, segments
from onetoall_jax.sampling.euler import Inputs, Params
from onetoall_jax.sampling.sampler import Sampler, draw_noise
from onetoall_jax.sampling.segments import Segment


def draw_segments(
    sampler: Sampler,
    params: Params,
    codec_params: Params,
    inputs: Inputs,
    pose_u8: Any,
    *,
    num_frames: int | None = None,
    noise: Any = None,
) -> Iterator[tuple[Segment, jax.Array, jax.Array]]:
    """Segments of a clip, each as soon as its call returns.

    Args:
      params, codec_params: plain trees.
      inputs: reference, prompts and the reference's pose.
      pose_u8: [B,F,H,W,3] driving poses, one for every frame wanted; None for a model
        without pose, then `num_frames` says how many to draw.
      noise: [B,f,h,w,C] instead of the noise of `config.seed`; it fits one length of
        segments only.
    Yields:
      (segment, latents [B,f,h,w,C], frames_u8 [B,F,H,W,3]); a later segment's frames
      replace those that it overlaps.
    """
    euler.check(sampler.denoiser.table, inputs, pose_u8 is not None)
    total = _count(pose_u8, num_frames)
    size = _size(sampler, inputs, pose_u8, noise)
    plan = segments.plan(sampler.config, total, sampler.codec.geometry)
    clips = len(inputs.prompt)
    carry = sampler.first_carry(clips, max(s.length for s in plan), *size)
    before = 0
    for group in segments.calls(plan, sampler.config.segments_per_call):
        starts = [before, *(s.start for s in group)]
        before = starts[-1]
        made = noise
        if made is None:
            made = _noise(sampler, clips, group[0].length, size)
        carry, drawn = sampler.call(
            params,
            codec_params,
            inputs,
            carry,
            None if pose_u8 is None else _poses(pose_u8, group),
            jnp.asarray(np.diff(starts), jnp.int32),
            jnp.asarray(made),
            chained=len(plan) > 1,
        )
        yield from zip(group, drawn.latents, drawn.frames_u8, strict=True)


def stream_clip(
    sampler: Sampler,
    params: Params,
    codec_params: Params,
    inputs: Inputs,
    pose_u8: Any,
    *,
    num_frames: int | None = None,
    noise: Any = None,
) -> Iterator[np.ndarray]:
    """Frames of a clip, each time as many as no later segment will replace.

    Arguments as for `draw_segments`.

    Yields:
      uint8 [B,n,H,W,3]; together [B,F,H,W,3].
    """
    total = _count(pose_u8, num_frames)
    plan = segments.plan(sampler.config, total, sampler.codec.geometry)
    drawn = draw_segments(
        sampler,
        params,
        codec_params,
        inputs,
        pose_u8,
        num_frames=num_frames,
        noise=noise,
    )
    for segment, _, frames_u8 in drawn:
        later = [s.start for s in plan if s.start > segment.start]
        end = min(later, default=total)
        yield jax.device_get(frames_u8[:, : end - segment.start])


def sample_clip(
    sampler: Sampler,
    params: Params,
    codec_params: Params,
    inputs: Inputs,
    pose_u8: Any,
    *,
    num_frames: int | None = None,
    noise: Any = None,
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


def _poses(pose_u8: Any, group: tuple[Segment, ...]) -> jax.Array:
    """[n,B,F,H,W,3]; past the end of the clip its last pose stays."""
    last = np.shape(pose_u8)[1] - 1
    frames = [np.minimum(np.arange(s.start, s.end), last) for s in group]
    return jnp.stack([jnp.asarray(pose_u8[:, f]) for f in frames])


def _noise(
    sampler: Sampler, clips: int, length: int, size: tuple[int, int]
) -> jax.Array:
    geometry = sampler.codec.geometry
    height, width = (pixels // geometry.spatial for pixels in size)
    shape = (geometry.latent_frames(length), height, width, geometry.channels)
    return draw_noise(sampler.config.seed, clips, shape)
