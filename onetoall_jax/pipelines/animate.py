"""One library call: a reference picture and a driving clip in, a video out."""

import dataclasses
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from onetoall_jax import config, lora, media, trees
from onetoall_jax.alignment import align, fit, move
from onetoall_jax.alignment.align import AlignConfig, Aligned
from onetoall_jax.alignment.person import Person
from onetoall_jax.checkpoints import parameters
from onetoall_jax.errors import UserError
from onetoall_jax.geometry import Geometry
from onetoall_jax.models import codec as codecs
from onetoall_jax.models import onetoall, prompts
from onetoall_jax.models.codec import Codec
from onetoall_jax.pipelines import settings as run_settings
from onetoall_jax.pipelines import start
from onetoall_jax.pipelines.settings import RunSettings
from onetoall_jax.pose import detect, draw
from onetoall_jax.pose.files import Track
from onetoall_jax.sampling import clip, guidance
from onetoall_jax.sampling.euler import Inputs
from onetoall_jax.sampling.sampler import Sampler

# A tiny model, trained as the report beside it says; what to try first.
SHIPPED = Path(__file__).resolve().parent.parent / "assets" / "tiny"


class Animator(NamedTuple):
    """A loaded checkpoint, ready to draw clips.

    Attributes:
      canvas_side: of drawn poses, as in training.
    """

    settings: RunSettings
    codec: Codec
    sampler: Sampler
    params: Any
    codec_params: Any
    canvas_side: int


def load(
    checkpoint: Path,
    overrides: Mapping[str, Any] | None = None,
    run: Mapping[str, Any] | None = None,
) -> Animator:
    """Reads a run, one of its steps, or converted parameters.

    Args:
      overrides: values of SamplingConfig that replace the others.
      run: settings of a run (a config file's dictionary) to use instead of those stored
        with the checkpoint; the network's sizes stay the checkpoint's. Converted
        parameters have none of their own.
    Raises:
      UserError: no checkpoint, or one of another kind or size.
    """
    folder = Path(checkpoint)
    settings = _settings(folder, run)
    if not settings.model.reference_layers:
        raise UserError(
            f"{folder} is a base that takes no reference: give a checkpoint of stage 1 "
            "or later."
        )
    changed = {**config.to_dict(settings.sampling), **(overrides or {})}
    sampling = config.build(type(settings.sampling), changed, "sampling")
    codec = codecs.build(settings.codec, settings.model.patch)
    params = _params(folder, settings)
    codec_params = nn.meta.unbox(jax.eval_shape(codec.init, jax.random.key(0)))
    if jax.tree.leaves(codec_params):
        if settings.codec.params is None:
            raise UserError("codec.params is not set: name the converted VAE.")
        codec_params = parameters.load(Path(settings.codec.params), codec_params)
    dtype = jnp.dtype(settings.training.dtype)
    functions = onetoall.functions(settings.model, dtype=dtype)
    sampler = Sampler(functions, codec, sampling)
    side = settings.data["canvas_side"]
    return Animator(settings, codec, sampler, params, codec_params, side)


def _params(folder: Path, settings: RunSettings) -> Any:
    """Parameters to draw with; adapters are merged into the base they were made for."""
    if not settings.lora.rank:
        return parameters.load(folder, onetoall.abstract(settings.model))
    whole = nn.meta.unbox(start.boxed(settings.model, settings.lora))
    mine, base = trees.split(whole, lora.ALL)
    adapters = parameters.load(folder, mine)
    params = parameters.load(Path(settings.init_from), base)
    return jax.jit(lambda a, b: lora.merge(trees.join(a, b)))(adapters, params)


def _settings(folder: Path, run: Mapping[str, Any] | None) -> RunSettings:
    stored = parameters.settings(folder)
    if run is not None:
        own = ("model", "lora", "init_from")
        return run_settings.build(
            {**run, **{name: stored[name] for name in own if name in stored}}
        )
    if "codec" not in stored:
        raise UserError(
            f"{folder} holds parameters without the settings of a run: name them, for "
            "example --config=configs/stage3.py:1_3b."
        )
    return run_settings.build(stored)


def inputs(
    animator: Animator,
    reference_u8: np.ndarray,
    mask: np.ndarray,
    reference_pose_u8: np.ndarray,
) -> Inputs:
    """What the sampler takes, from pictures of one size.

    Args:
      reference_u8, reference_pose_u8: [B,H,W,3].
      mask: [B,H,W] in 0..1, 1 = to be invented.
    """
    codec, settings = animator.codec, animator.settings
    clips, height, width, _ = reference_u8.shape
    pixels = jnp.asarray(reference_u8, jnp.float32) / 255 * 2 - 1
    table = guidance.table(animator.sampler.config)
    prompt, negative = (
        jnp.broadcast_to(rows, (clips, *rows.shape))
        for rows in prompts.for_sampling(settings.text, settings.model.text_dim)
    )
    black = any(row.reference == guidance.BLACK for row in table)
    has_pose = settings.model.pose_layers > 0
    return Inputs(
        prompt=prompt,
        negative=negative,
        reference=codecs.reference_latents(
            codec, animator.codec_params, pixels, jnp.asarray(mask, jnp.float32)
        )
        if settings.model.reference_layers
        else None,
        black=codecs.black_latents(codec, animator.codec_params, height, width)
        if black
        else None,
        reference_pose_u8=jnp.asarray(reference_pose_u8)[:, None] if has_pose else None,
    )


def sample_batch(animator: Animator, batch: Mapping[str, Any]) -> np.ndarray:
    """Frames u8 [B,F,H,W,3] for a batch of the loader (see `onetoall_jax.batch`)."""
    given = inputs(
        animator,
        batch["reference_u8"],
        batch["reference_mask_u8"],
        batch["reference_pose_u8"],
    )
    pose = batch["pose_u8"] if animator.settings.model.pose_layers else None
    return clip.sample_clip(
        animator.sampler,
        animator.params,
        animator.codec_params,
        given,
        pose,
        num_frames=batch["pose_u8"].shape[1],
    )


class Prepared(NamedTuple):
    """Pictures of one size, ready to sample.

    Attributes:
      reference, reference_pose: [H,W,3] uint8; poses: [F,H,W,3] uint8.
      mask: [H,W] float32 in 0..1, 1 = to be invented.
      fps: of the driving clip.
      notes: what was chosen and changed on the way, a sentence each.
    """

    reference: np.ndarray
    mask: np.ndarray
    reference_pose: np.ndarray
    poses: np.ndarray
    fps: float
    notes: tuple[str, ...]


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
    """Aligns both people and draws everything at the size to sample at.

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
    sizes = [size] if size else _sizes(before, cap, geometry)
    geometry.check_size(*sizes[-1])
    aligned = align.align(
        reference_track.keypoints[0],
        before,
        driving_track.keypoints,
        (driving_track.height, driving_track.width),
        config,
    )
    draw_all = _drawn_as_released if canvas_side == draw.CANVAS_SIDE else _drawn_small
    shown, poses = draw_all(aligned, before, sizes, canvas_side)
    height, width = sizes[-1]
    picture, missing = reference, np.zeros(before, np.uint8)
    if aligned.placement is not None:
        missing = move.missing(*before, aligned.placement)
        picture = move.warp(reference, aligned.placement)
    notes = [f"alignment {aligned.mode}: {aligned.reason}"]
    if before != (height, width):
        was = "x".join(map(str, before))
        notes.append(f"reference cropped and resized from {was} to {height}x{width}")
    return Prepared(
        _fitted(picture, sizes),
        _fitted(missing, sizes).astype(np.float32) / 255,
        shown,
        poses,
        driving_track.fps,
        tuple(notes),
    )


_PREPARED_CAP = 768  # short side of what the release's first script writes


def _sizes(
    before: tuple[int, int], cap: int, geometry: Geometry
) -> list[tuple[int, int]]:
    """Sizes that pictures go through; the release resizes twice."""
    made = [before]
    for limit in (_PREPARED_CAP, cap):
        multiple = geometry.pixel_multiple
        made.append(fit.output_size(*made[-1], cap=limit, multiple=multiple))
    return made[1:]


def _fitted(picture: np.ndarray, sizes: Sequence[tuple[int, int]]) -> np.ndarray:
    for size in sizes:
        if picture.shape[:2] != size:
            picture = fit.sample_fit(picture, *size)
    return picture


def _style(aligned: Aligned) -> draw.Style:
    # A face with somebody else's proportions is drawn lighter, as trained.
    return draw.Style(light_face=align.MODES[aligned.mode].retargets)


def _drawn_as_released(
    aligned: Aligned,
    before: tuple[int, int],
    sizes: Sequence[tuple[int, int]],
    canvas_side: int,
) -> tuple[np.ndarray, np.ndarray]:
    """(reference pose, driving poses), drawn at the picture's size, then moved."""
    drawer = draw.Drawer(*before, canvas_side)
    shown = drawer(aligned.reference.pose, draw.Style(face=False))
    if aligned.placement is not None:
        shown = move.warp(shown, aligned.placement)
    style = _style(aligned)
    poses = [_fitted(drawer(p.pose, style), sizes) for p in aligned.driving]
    return _fitted(shown, sizes), np.stack(poses)


def _drawn_small(
    aligned: Aligned,
    before: tuple[int, int],
    sizes: Sequence[tuple[int, int]],
    canvas_side: int,
) -> tuple[np.ndarray, np.ndarray]:
    """The same, drawn at the size to sample at: lines would not survive a reduction."""
    drawer = draw.Drawer(*sizes[-1], canvas_side)
    reference = aligned.reference
    if aligned.placement is not None:
        reference = move.move(reference, aligned.placement)

    def drawn(person: Person, style: draw.Style) -> np.ndarray:
        for a, b in zip([before, *sizes], sizes, strict=False):
            person = Person(*(fit.refit(points, a, b) for points in person))
        return drawer(person.pose, style)

    poses = [drawn(p, _style(aligned)) for p in aligned.driving]
    shown = drawn(reference, draw.Style(face=False))
    if aligned.placement is not None:
        # What the picture did not show is not to be known from its pose either.
        missing = _fitted(move.missing(*before, aligned.placement), sizes)
        shown = shown * (missing < 128)[..., None]
    return shown, np.stack(poses)


Progress = Callable[[int, int, float], None]


def frames(animator: Animator, prepared: Prepared) -> Iterator[np.ndarray]:
    """Frames [n,H,W,3] of the result, as segments become final."""
    given = inputs(
        animator,
        prepared.reference[None],
        prepared.mask[None],
        prepared.reference_pose[None],
    )
    for part in clip.stream_clip(
        animator.sampler,
        animator.params,
        animator.codec_params,
        given,
        prepared.poses[None],
    ):
        yield part[0]


def animate(
    reference: Path,
    driving: Path,
    out: Path,
    *,
    checkpoint: Path,
    reference_keypoints: Path | None = None,
    driving_keypoints: Path | None = None,
    size: tuple[int, int] | None = None,
    overrides: Mapping[str, Any] | None = None,
    run: Mapping[str, Any] | None = None,
    alignment: AlignConfig = AlignConfig(),  # noqa: B008
    environment: Path = detect.DEFAULT_ENVIRONMENT,
    progress: Progress = lambda done, total, left_s: None,
) -> dict[str, Any]:
    """Draws the reference moving as the driving clip does; -> the report.

    Writes into `out`: result.mp4 (result.png for a single frame), side_by_side.mp4,
    contact_sheet.png and report.json. The folder appears when all is complete.

    Args:
      driving: a video, a picture (image pose transfer) or key points (.npz).
      overrides, run: see `load`; alignment: see `prepare`.
      reference_keypoints, driving_keypoints: files instead of detection; see
        `detect.given`.
      progress: called with frames done, frames in all and seconds left.
    Raises:
      UserError: anything the user can mend, before anything is written.
    """
    out = Path(out)
    if out.exists():
        raise UserError(f"{out} exists already: choose another folder or remove it.")
    started = time.monotonic()
    picture = media.read_image(reference)
    animator = load(checkpoint, overrides, run)
    sound = _checked_sound(driving)
    prepared = prepare(
        picture,
        _track(reference, reference_keypoints, environment),
        _track(driving, driving_keypoints, environment),
        animator.codec.geometry,
        canvas_side=animator.canvas_side,
        size=size,
        cap=animator.sampler.config.short_side,
        config=alignment,
    )
    for note in prepared.notes:
        print(note)
    ready = time.monotonic()
    made = _sampled(animator, prepared, progress)
    sampled = time.monotonic()
    report = {
        "reference": str(reference),
        "driving": str(driving),
        "checkpoint": str(checkpoint),
        "frames": len(made),
        "size": list(made.shape[1:3]),
        "fps": prepared.fps,
        "notes": list(prepared.notes),
        "alignment": dataclasses.asdict(alignment),
        "sampling": dataclasses.asdict(animator.sampler.config),
        "seconds": {"prepare": ready - started, "sample": sampled - ready},
    }
    _write(out, made, prepared, sound, report)
    return report


def _track(footage: Path, keypoints: Path | None, environment: Path) -> Track:
    if keypoints is not None:
        return detect.given(keypoints, footage)
    return detect.track(footage, environment)


def _checked_sound(driving: Path) -> Path | None:
    """The driving clip if it has sound; raises early where it cannot be read."""
    if Path(driving).suffix.lower() not in media.VIDEO_SUFFIXES:
        return None
    return driving if media.Video(driving).has_sound else None


def _sampled(animator: Animator, prepared: Prepared, progress: Progress) -> np.ndarray:
    total, parts, begun = len(prepared.poses), [], time.monotonic()
    for part in frames(animator, prepared):
        parts.append(part)
        done = sum(map(len, parts))
        progress(done, total, (time.monotonic() - begun) / done * (total - done))
    return np.concatenate(parts)


def _write(
    out: Path,
    made: np.ndarray,
    prepared: Prepared,
    sound: Path | None,
    report: Mapping[str, Any],
) -> None:
    half = out.with_name(out.name + ".part")
    shutil.rmtree(half, ignore_errors=True)
    half.mkdir(parents=True)
    # Small clips are enlarged, or a player would blur them.
    factor = max(1, 256 // min(made.shape[1:3]))
    large = [
        media.enlarged(x, factor) for x in (made, prepared.reference, prepared.poses)
    ]
    try:
        if len(made) == 1:
            media.write_image(half / "result.png", large[0][0])
        else:
            media.write_video(half / "result.mp4", large[0], prepared.fps, sound)
            beside = media.side_by_side(large[1], large[2], large[0])
            media.write_video(half / "side_by_side.mp4", beside, prepared.fps)
        mask = np.round(prepared.mask[..., None] * 255).astype(np.uint8)
        mask = np.broadcast_to(mask, prepared.reference.shape)
        rows = [
            (
                "reference, what is missing of it, its pose",
                np.stack([prepared.reference, mask, prepared.reference_pose]),
            ),
            ("driving pose", prepared.poses),
            ("result", made),
        ]
        media.write_image(half / "contact_sheet.png", media.contact_sheet(rows))
        (half / "report.json").write_text(json.dumps(report, indent=1) + "\n")
        os.replace(half, out)
    except OSError as error:
        raise UserError(f"{out} could not be written: {error}.") from error
    finally:
        shutil.rmtree(half, ignore_errors=True)
