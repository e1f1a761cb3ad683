"""Drift over long held-out clips of procedural people, arm by arm.

    python -m benchmarks.drift --clips=4 --seconds=20 --out=runs/drift

Prints one JSON object: for every arm the PSNR and the drift of its segments, and draws
both as a small plot. The arms: the static plan, the release's, the colour anchor, and
segments that know nothing of each other (token replacement off).
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline import synthetic
from data_pipeline.builder import Clip
from data_pipeline.synthetic import SyntheticConfig
from onetoall_jax import errors, media
from onetoall_jax.evaluation import drift, frames, plot
from onetoall_jax.pipelines import animator as animators
from onetoall_jax.pipelines.animator import Animator
from onetoall_jax.sampling import clip

ARMS: dict[str, dict[str, Any]] = {
    "static plan": {},
    "release's plan": {"plan": "release"},
    "static, colour anchor": {"colour_anchor": 1.0},
    "static, no token replacement": {"no context": True},
}


def held_out(count: int, num_frames: int) -> dict[str, np.ndarray]:
    """Clips of the test split as a batch; the reference is the frame in the middle."""
    config = SyntheticConfig(num_frames=num_frames)
    made: list[Clip] = []
    index = 0
    while len(made) < count:
        try:
            made.append(synthetic.make_clip(config, "test", index))
        except ValueError:
            pass  # its camera moves, and in so long a clip off the wall
        index += 1
    middle = num_frames // 2
    first = np.stack([c.frames for c in made])
    poses = np.stack([c.poses for c in made if c.poses is not None])
    return {
        "frames_u8": first,
        "pose_u8": poses,
        "reference_u8": first[:, middle],
        "reference_pose_u8": poses[:, middle],
        "reference_mask_u8": np.zeros(first[:, middle].shape[:3], np.uint8),
    }


def drawn(
    animator: Animator, batch: dict[str, np.ndarray], arm: dict[str, Any]
) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """(frames u8 [B,F,H,W,3], first and last + 1 frame of each segment's own part)."""
    alone = arm.get("no context", False)
    model = animator.changed({k: v for k, v in arm.items() if k != "no context"})
    length = model.sampling.segment_frames
    model = model.changed({"final_lengths": (length,)})
    total = batch["pose_u8"].shape[1]
    starts = [s.start for s in clip.plan(model.sampler, total)]
    parts = [(a, clip.final_end(model.sampler, total, a)) for a in starts]
    if not alone:
        return animators.sample_batch(model, batch), parts
    made = []
    for a, b in parts:
        one = {**batch, "pose_u8": batch["pose_u8"][:, a : a + length]}
        made.append(animators.sample_batch(model, one)[:, : b - a])
    return np.concatenate(made, axis=1), parts


def measured(
    made: np.ndarray, truth: np.ndarray, parts: list[tuple[int, int]], shown: int = 8
) -> dict[str, Any]:
    """PSNR and drift, each a mean over clips, of `shown` stretches of the clip."""
    groups = np.array_split(np.arange(len(parts)), min(shown, len(parts)))
    spans = [(parts[g[0]][0], parts[g[-1]][1]) for g in groups]
    compared = [
        drift.against_first([drift.measure(one[a:b]) for a, b in spans]) for one in made
    ]
    own = [
        drift.against_first([drift.measure(one[a:b]) for a, b in spans])
        for one in truth
    ]

    def mean(of: list, name: str, absolute: bool = False) -> list[float]:
        rows = np.array([[s[name] for s in one] for one in of])
        return (np.abs(rows) if absolute else rows).mean(axis=0).round(3).tolist()

    return {
        "psnr": round(float(frames.psnr(made, truth).mean()), 2),
        "psnr by stretch": [
            round(float(frames.psnr(made[:, a:b], truth[:, a:b]).mean()), 2)
            for a, b in spans
        ],
        "brightness": mean(compared, "brightness", True),
        "colour": mean(compared, "colour"),
        "contrast": mean(compared, "contrast"),
        "sharpness": mean(compared, "sharpness"),
        "truth's brightness": mean(own, "brightness", True),
        "truth's sharpness": mean(own, "sharpness"),
    }


@errors.reported
def main(argv: list[str]) -> None:
    """Draws every arm and prints what was measured."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clips", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--checkpoint", type=Path, default=animators.SHIPPED)
    parser.add_argument("--out", type=Path, required=True, help="for the pictures")
    args = parser.parse_args(argv)
    animator = animators.load(args.checkpoint)
    batch = held_out(args.clips, round(args.seconds * SyntheticConfig().fps))
    found = {}
    rows = [("truth", batch["frames_u8"][0])]
    for name, arm in ARMS.items():
        made, parts = drawn(animator, batch, arm)
        found[name] = measured(made, batch["frames_u8"], parts)
        rows.append((name, made[0]))
        print(name, found[name]["psnr"], file=sys.stderr)
    args.out.mkdir(parents=True, exist_ok=True)
    panels = [
        plot.lines(
            title, {n: f[key] for n, f in found.items()}, size=(170, 640), names=200
        )
        for title, key in (
            ("PSNR, dB, along the clip", "psnr by stretch"),
            ("change of brightness, levels", "brightness"),
            ("sharpness against the first stretch", "sharpness"),
        )
    ]
    media.write_image(args.out / "drift.png", np.concatenate(panels))
    media.write_image(args.out / "clips.png", media.contact_sheet(rows, columns=10))
    print(json.dumps({"clips": args.clips, "seconds": args.seconds, **found}, indent=1))


if __name__ == "__main__":
    main(sys.argv[1:])
