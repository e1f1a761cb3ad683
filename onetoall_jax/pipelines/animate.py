"""One library call: a reference picture and a driving clip in, a video out.

from onetoall_jax import animate, load

model = load("checkpoints/onetoall")
frames, report = animate("me.png", "dance.mp4", model=model)
"""

import contextlib
import dataclasses
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
from PIL import Image

from onetoall_jax import media
from onetoall_jax.checkpoints import disk
from onetoall_jax.errors import UserError
from onetoall_jax.evaluation import drift
from onetoall_jax.pipelines import animator as animators
from onetoall_jax.pipelines import artefact, embed, results
from onetoall_jax.pipelines.animator import Animator, Setup
from onetoall_jax.pipelines.embed import Encoder
from onetoall_jax.pipelines.prepare_pair import Prepared
from onetoall_jax.pipelines.preparing import Pair, PrepareConfig, Preparer
from onetoall_jax.pipelines.unfinished import Unfinished
from onetoall_jax.pose.detect import Search
from onetoall_jax.sampling import clip

PREPARED = "prepared"  # folder of the artefact in a result

Progress = Callable[[int, int, float], None]
Say = Callable[[str], None]


class Animation(NamedTuple):
    """Frames [F,H,W,3] uint8 (a list of pictures, or None, as asked for) and report."""

    frames: Any
    report: dict[str, Any]


def animate(
    reference: str | Path | None = None,
    driving: str | Path | None = None,
    *,
    model: Animator | Setup | str | Path = animators.SHIPPED,
    out: str | Path | None = None,
    prepared: str | Path | None = None,
    reference_keypoints: str | Path | None = None,
    driving_keypoints: str | Path | None = None,
    prompt: str | None = None,
    negative_prompt: str | None = None,
    num_inference_steps: int | None = None,
    image_guidance_scale: float | None = None,
    pose_guidance_scale: float | None = None,
    seed: int | None = None,
    config: PrepareConfig = PrepareConfig(),  # noqa: B008
    search: Search = Search(),  # noqa: B008
    encoder: Encoder = Encoder(),  # noqa: B008
    audio: bool = True,
    output_type: str = "np",
    dry_run: bool = False,
    progress: Progress = lambda done, total, left_s: None,
    say: Say = lambda note: None,
) -> Animation:
    """Draws the reference moving as the driving clip does.

    With `out`, that folder holds result.mp4 (result.png for a single frame),
    side_by_side.mp4, contact_sheet.png, report.json, drift.png and the prepared pair.
    Until all is there it is called <out>.part; a call that was killed goes on from it
    to the same bytes.

    Args:
      reference, driving, reference_keypoints, driving_keypoints: see `Pair`.
      model: loaded, or where to load it from.
      prepared: folder of the prepared pair, used as it is or made there; given without
        reference and driving, it is all that is needed. See `artefact`.
      prompt, negative_prompt: texts; None takes those that the model's settings name.
      num_inference_steps, image_guidance_scale, pose_guidance_scale, seed: instead of
        the model's.
      config: of preparing; search: of key points; encoder: of prompts.
      audio: the driving clip's sound is kept.
      output_type: "np", "pil" or "none", which keeps no frames in memory.
      dry_run: stops when the pair is prepared, before anything large is loaded.
      progress: called with frames done, frames in all and seconds left.
      say: called with what a user should know, a sentence each.
    Raises:
      UserError: anything the user can mend; what it was about to write is not there.
    """
    if output_type not in ("np", "pil", "none"):
        raise UserError(f"output_type={output_type!r}: choose 'np', 'pil' or 'none'.")
    given = {
        "steps": num_inference_steps,
        "image_guidance": image_guidance_scale,
        "pose_guidance": pose_guidance_scale,
        "seed": seed,
    }
    if isinstance(model, str | Path):
        model = animators.setup(Path(model))
    model = model.changed({k: v for k, v in given.items() if v is not None})
    pair = _pair(reference, driving, reference_keypoints, driving_keypoints, prepared)
    job = _Job(
        model,
        pair,
        None if prepared is None else Path(prepared),
        config,
        search,
        _sound(pair) if audio else None,
        model.sampling.seed if seed is None else seed,
        (prompt, negative_prompt, encoder),
        progress,
        say,
    )
    if out is None and not dry_run:
        with tempfile.TemporaryDirectory() as folder:
            return job.run(Path(folder) / "out", output_type)
    if dry_run:
        return job.stop_early(None if out is None else Path(out))
    assert out is not None
    return job.run(Path(out), output_type)


def _pair(
    reference: str | Path | None,
    driving: str | Path | None,
    reference_keypoints: str | Path | None,
    driving_keypoints: str | Path | None,
    prepared: str | Path | None,
) -> Pair | None:
    if reference is None and driving is None and prepared is not None:
        return None
    if reference is None or driving is None:
        raise UserError("Give both a reference and a driving clip, or a prepared pair.")
    pair = Pair(
        Path(reference),
        Path(driving),
        None if reference_keypoints is None else Path(reference_keypoints),
        None if driving_keypoints is None else Path(driving_keypoints),
    )
    if not pair.reference.is_file():
        raise UserError(f"There is no picture {reference}.")
    for path in pair[1:]:
        if path is not None and not path.exists():
            raise UserError(f"There is no file {path}.")
    return pair


def _sound(pair: Pair | None) -> Path | None:
    """The driving clip if it has sound; raises early where it cannot be read."""
    if pair is None or pair.driving.suffix.lower() not in media.VIDEO_SUFFIXES:
        return None
    return pair.driving if media.Video(pair.driving).has_sound else None


class _Clock:
    """Seconds spent in each part."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        begun = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - begun
            self.seconds[name] = self.seconds.get(name, 0.0) + spent


@dataclasses.dataclass
class _Job:
    """One call, its arguments read."""

    model: Animator | Setup
    pair: Pair | None
    prepared: Path | None
    config: PrepareConfig
    search: Search
    sound: Path | None
    seed: int
    texts: tuple[str | None, str | None, Encoder]
    progress: Progress
    say: Say

    def __post_init__(self) -> None:
        self.clock = _Clock()

    def stop_early(self, out: Path | None) -> Animation:
        """Prepares and says what was chosen."""
        if self.prepared is None and out is None:
            raise UserError("A dry run needs a folder to prepare in: give --prepared.")
        folder = self.prepared
        if folder is None:
            assert out is not None
            _check_free(out)
            folder = out / PREPARED
        made = self._ready(folder)
        self.say(f"prepared in {folder}: look at {folder / artefact.SHEET}")
        return Animation(None, self._report(made, folder))

    def run(self, out: Path, output_type: str) -> Animation:
        """Prepares, draws, writes."""
        _check_free(out)
        part = out.with_name(out.name + ".part")
        was_there = part.exists()
        try:
            part.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{out} cannot be written: {error.strerror}.") from error
        before = out / PREPARED  # of a dry run
        folder = self.prepared or (before if before.exists() else part / PREPARED)
        try:
            made = self._ready(folder)
            model = self._loaded()
            work = Unfinished(part, self._request(model, folder, made))
        except BaseException:
            if not was_there:
                shutil.rmtree(part, ignore_errors=True)
            raise
        return self._drawn(model, made, folder, work, out, output_type)

    def _ready(self, folder: Path) -> Prepared:
        with self.clock.part("prepare"):
            made = Preparer(self.model, self.pair, self.config, self.search)(folder)
        for note in made.notes:
            self.say(note)
        return made

    def _loaded(self) -> Animator:
        prompt, negative, encoder = self.texts
        texts = [text for text in (prompt, negative) if text is not None]
        model = self.model
        with self.clock.part("prompts"):
            there = isinstance(model, Animator)
            found = embed.cached(texts, encoder, model.settings.text, apart=there)
            files = dict(zip(texts, map(str, found), strict=True))
        if isinstance(model, Setup):
            with self.clock.part("load"):
                model = animators.loaded(model)
        return model.with_prompts(
            *(None if text is None else files[text] for text in (prompt, negative))
        )

    def _sampling(self, model: Animator) -> dict[str, Any]:
        """Settings of sampling, with the seed of this call."""
        return {**dataclasses.asdict(model.sampling), "seed": self.seed}

    def _request(self, model: Animator, folder: Path, made: Prepared) -> dict[str, Any]:
        return {
            "prepared pair": {
                "fps": made.fps,
                **(artefact.digests(folder) if folder.exists() else {}),
            },
            "checkpoint": animators.identity(model),
            **{f"sampling.{k}": v for k, v in self._sampling(model).items()},
            "prompts": [
                artefact.digest(None if f is None else Path(f))
                for f in (model.settings.text.prompt, model.settings.text.negative)
            ],
            "sound": None if self.sound is None else artefact.digest(self.sound),
        }

    def _drawn(
        self,
        model: Animator,
        made: Prepared,
        folder: Path,
        work: Unfinished,
        out: Path,
        output_type: str,
    ) -> Animation:
        frames: list[np.ndarray] | None = None if output_type == "none" else []
        files = None
        try:
            files = results.Results(work.folder, made, self.sound)
            for drawn in self._segments(model, made, work):
                with self.clock.part("write"):
                    files.add(drawn)
                if frames is not None:
                    frames.append(drawn)
            with self.clock.part("write"):
                files.close()
                compared = results.compared(work)
                inside = folder.parent in (work.folder, out)
                report = self._report(made, out / PREPARED if inside else folder)
                report |= {
                    "checkpoint": str(model.source),
                    "sampling": self._sampling(model),
                    "segments": [
                        {"start": e.start, "length": e.length, "seconds": e.seconds}
                        for e in work.entries
                    ],
                    "drift": compared,
                    "seconds": self.clock.seconds,
                }
                text = json.dumps(report, indent=1)
                (work.folder / "report.json").write_text(text + "\n")
                _adopt(out, work.folder)
                work.finish(out)
        except BaseException as error:
            if files is not None:
                files.abandon()
            kept = work.leave()
            if isinstance(error, OSError | av.FFmpegError):
                more = " What is finished is kept; started again, it goes on."
                raise UserError(
                    f"{out} could not be written: {disk.reason(error)}."
                    + (more if kept else "")
                ) from error
            raise
        return Animation(_as(frames, output_type), report)

    def _segments(
        self, model: Animator, made: Prepared, work: Unfinished
    ) -> Iterator[np.ndarray]:
        """Frames that no later segment replaces, segment by segment."""
        total, sampler = len(made.poses), model.sampler
        work.keep(clip.whole_calls(sampler, total, len(work.entries)))
        done, shown = None, 0
        for i, entry in enumerate(work.entries):
            frames = work.frames(i)
            end = clip.final_end(sampler, total, entry.start)
            shown = end
            done = clip.Done(i + 1, frames[None], np.array(entry.tone, np.float32))
            yield frames[: end - entry.start]
        if done is not None:
            self.say(f"{shown} of {total} frames are there already: going on from them")
        with self.clock.part("encode reference"):
            given = animators.inputs(
                model,
                made.reference[None],
                made.mask[None],
                made.reference_pose[None],
            )
        begun = last = time.perf_counter()
        first = shown
        for drawn in clip.draw_segments(
            sampler,
            model.params,
            model.codec_params,
            given,
            made.poses.alone(),
            seed=self.seed,
            done=done,
        ):
            seconds = time.perf_counter() - last
            name = "first segment" if last == begun else "other segments"
            parts = self.clock.seconds
            parts[name] = parts.get(name, 0.0) + seconds
            with self.clock.part("write"):
                work.add(drawn, drift.measure(drawn.frames_u8[0]), seconds)
            start = drawn.segment.start
            shown = clip.final_end(sampler, total, start)
            yield drawn.frames_u8[0, : shown - start]
            last = time.perf_counter()
            self.progress(
                shown, total, (last - begun) / (shown - first) * (total - shown)
            )

    def _report(self, made: Prepared, folder: Path) -> dict[str, Any]:
        pair = self.pair._asdict() if self.pair is not None else {}
        return {
            **{k: str(v) for k, v in pair.items() if v is not None},
            "prepared": str(folder),
            "frames": len(made.poses),
            "size": list(made.size),
            "fps": made.fps,
            "notes": list(made.notes),
            "choices": made.choices,
        }


def _check_free(out: Path) -> None:
    """Raises UserError if anything but a dry run's folder stands there."""
    if out.exists() and (
        not out.is_dir()
        or {p.name for p in out.iterdir()} - {PREPARED, PREPARED + ".part"}
    ):
        raise UserError(f"{out} exists already: choose another folder or remove it.")


def _adopt(out: Path, part: Path) -> None:
    """Takes the folder of a dry run along."""
    if out.exists():
        if (out / PREPARED).exists():
            os.replace(out / PREPARED, part / PREPARED)
        shutil.rmtree(out / (PREPARED + ".part"), ignore_errors=True)
        out.rmdir()


def _as(frames: list[np.ndarray] | None, output_type: str) -> Any:
    if frames is None:
        return None
    whole = np.concatenate(frames)
    if output_type == "np":
        return whole
    return [Image.fromarray(f) for f in whole]
