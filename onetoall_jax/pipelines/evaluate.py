"""How well a checkpoint animates people it has never seen, against lazy answers."""

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from onetoall_jax import media, pixels
from onetoall_jax.evaluation import frames as measures
from onetoall_jax.pipelines.animator import Animator, sample_batch

RESULT = "result"
Batch = dict[str, np.ndarray]


def joined(batches: Iterable[Mapping[str, np.ndarray]]) -> Batch:
    """Batches of equal sizes as one."""
    every = list(batches)
    return {name: np.concatenate([b[name] for b in every]) for name in every[0]}


def mean_frame(batches: Iterable[Mapping[str, np.ndarray]]) -> np.ndarray:
    """[H,W,3], the mean of all frames: the best guess that looks at nothing."""
    total, count = 0.0, 0
    for batch in batches:
        total = total + batch["frames_u8"].astype(np.float64).sum(axis=(0, 1))
        count += int(np.prod(batch["frames_u8"].shape[:2]))
    return np.clip(np.round(total / count), 0, 255).astype(np.uint8)  # type: ignore[attr-defined]


def candidates(animator: Animator, clips: Batch, mean: np.ndarray) -> dict[str, Any]:
    """Frames u8 [B,F,H,W,3] of the result and of everything it must beat.

    Shuffling takes the next clip's poses, or the next clip's reference with its pose,
    so that the drawings are as good but belong to somebody else.
    """
    truth = clips["frames_u8"]
    other = {name: np.roll(value, 1, axis=0) for name, value in clips.items()}
    references = ("reference_u8", "reference_mask_u8", "reference_pose_u8")
    return {
        RESULT: sample_batch(animator, clips),
        "repeat the reference": np.broadcast_to(
            clips["reference_u8"][:, None], truth.shape
        ),
        "mean frame of the training set": np.broadcast_to(mean, truth.shape),
        "result, poses shuffled": sample_batch(
            animator, {**clips, "pose_u8": other["pose_u8"]}
        ),
        "result, references shuffled": sample_batch(
            animator, {**clips, **{name: other[name] for name in references}}
        ),
        "codec's round trip": round_trip(animator, truth),
    }


def round_trip(animator: Animator, frames_u8: np.ndarray) -> np.ndarray:
    """Frames after encoding and decoding: the ceiling of every result."""
    codec = animator.codec

    @jax.jit
    def both(params: Any, frames_u8: jax.Array) -> jax.Array:
        back = codec.decode(params, codec.encode(params, pixels.scaled(frames_u8)))
        return jnp.round((back.astype(jnp.float32) / 2 + 0.5) * 255).astype(jnp.uint8)

    return np.asarray(both(animator.codec_params, frames_u8))


@dataclasses.dataclass(frozen=True)
class Report:
    """Scores of every candidate.

    Attributes:
      whole, inside: name -> PSNR of each clip, of the picture and of the figure's box.
      result: the candidate that the others are set against.
    """

    whole: Mapping[str, np.ndarray]
    inside: Mapping[str, np.ndarray]
    result: str = RESULT

    def table(self) -> str:
        """Text with means, standard errors and paired differences."""
        return measures.table(self.whole, self.inside, self.result)

    def summary(self) -> dict[str, Any]:
        """Means and paired gains, ready for JSON."""
        made: dict[str, Any] = {}
        for area, scores in (("whole", self.whole), ("inside", self.inside)):
            for name, own in scores.items():
                gain = None
                if name != self.result:
                    gain = measures.gain(scores[self.result], own)
                made.setdefault(name, {})[area] = {
                    "psnr": float(np.nanmean(own)),
                    "result_above": None if gain is None else gain._asdict(),
                }
        return made


def scored(
    made: Mapping[str, np.ndarray], clips: Batch, result: str = RESULT
) -> Report:
    """Scores of frames u8 [B,F,H,W,3] by name, against the clips themselves."""
    box, truth = measures.figure_box(clips["pose_u8"]), clips["frames_u8"]
    return Report(
        {name: measures.psnr(x, truth) for name, x in made.items()},
        {name: measures.psnr(x, truth, box) for name, x in made.items()},
        result,
    )


def evaluate(
    animator: Animator,
    clips: Batch,
    mean: np.ndarray,
    out: Path,
    say: Callable[[str], None] = print,
) -> Report:
    """Scores held-out clips and writes what people would rather look at.

    Writes into `out`: held_out.png, held_out.mp4 (reference, pose, truth, result of the
    first clips) and report.json.
    """
    made = candidates(animator, clips, mean)
    report = scored(made, clips)
    _written(report, clips, {RESULT: made[RESULT]}, out, say)
    return report


def compare(
    animators: Mapping[str, Animator],
    clips: Batch,
    out: Path,
    say: Callable[[str], None] = print,
) -> Report:
    """Scores of several checkpoints on the same held-out clips, the first against all.

    Writes into `out` what `evaluate` writes, with the results of all.
    """
    drawn = {
        name: sample_batch(animator, clips) for name, animator in animators.items()
    }
    first, any_ = next(iter(drawn)), next(iter(animators.values()))
    ceiling = {"codec's round trip": round_trip(any_, clips["frames_u8"])}
    report = scored({**drawn, **ceiling}, clips, first)
    _written(report, clips, drawn, out, say)
    return report


def _written(
    report: Report,
    clips: Batch,
    drawn: Mapping[str, np.ndarray],
    out: Path,
    say: Callable[[str], None],
) -> None:
    say(report.table())
    out.mkdir(parents=True, exist_ok=True)
    (out / "report.json").write_text(json.dumps(report.summary(), indent=1) + "\n")
    _pictures(clips, drawn, out)


def _pictures(clips: Batch, drawn: Mapping[str, np.ndarray], out: Path) -> None:
    rows, videos = [], []
    for i in range(min(6, len(clips["frames_u8"]))):
        reference, pose = clips["reference_u8"][i], clips["pose_u8"][i]
        truth = clips["frames_u8"][i]
        blank = np.full_like(reference, 255)
        rows += [
            (f"clip {i}: reference, driving pose", np.stack([reference, *pose])),
            ("truth", np.stack([blank, *truth])),
        ]
        rows += [(name, np.stack([blank, *made[i]])) for name, made in drawn.items()]
        made = [frames[i] for frames in drawn.values()]
        videos.append(media.side_by_side(reference, pose, truth, *made))
    sheet = media.contact_sheet(rows, columns=len(truth) + 1, height=96)
    media.write_image(out / "held_out.png", sheet)
    grid = media.enlarged(np.concatenate(videos, axis=1), 3)
    # Three times, because nine frames are over in a second.
    media.write_video(out / "held_out.mp4", np.concatenate([grid] * 3), 8)
