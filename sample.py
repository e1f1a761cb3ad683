"""Animates a picture: reference and driving clip in, videos and a report out.

    python sample.py --reference=me.png --driving=dance.mp4 --out=out
    python sample.py --checkpoint=checkpoints/onetoall \\
        --config=configs/stage3.py:1_3b \\
        --reference=me.png --driving=dance.mp4 --out=out
"""

import argparse
import ast
import runpy
import sys
from pathlib import Path

from onetoall_jax import errors
from onetoall_jax.errors import UserError


def _value(text: str) -> tuple[str, object]:
    """ "steps=12" -> ("steps", 12)."""

    name, found, value = text.partition("=")
    if not found:
        raise UserError(f"--set {text}: write name=value, for example steps=12.")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


def _config(text: str | None) -> dict | None:
    """ "configs/stage3.py:1_3b" -> its settings as a dictionary."""
    if text is None:
        return None
    path, _, argument = text.partition(":")
    if not Path(path).is_file():
        raise UserError(f"--config={text}: there is no file {path}.")
    try:
        return runpy.run_path(path)["get_config"](argument).to_dict()
    except (KeyError, ValueError) as error:
        raise UserError(f"--config={text}: {error}.") from error


def _progress(done: int, total: int, left_s: float) -> None:
    print(f"{done} of {total} frames, {left_s:.0f} s left", file=sys.stderr, flush=True)


@errors.reported
def main(argv: list[str]) -> None:
    """Reads the flags and makes the one library call."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reference", type=Path, required=True, help="a picture")
    parser.add_argument(
        "--driving",
        type=Path,
        required=True,
        help="video, picture or key points (.npz)",
    )
    parser.add_argument("--out", type=Path, required=True, help="must not exist")
    parser.add_argument(
        "--checkpoint", type=Path, help="a run; without one, the tiny model shipped"
    )
    parser.add_argument("--config", help="settings instead of the checkpoint's")
    keypoints = ".npz, the release's .npy, or a folder of OpenPose's JSON files"
    parser.add_argument("--reference_keypoints", type=Path, help=keypoints)
    parser.add_argument("--driving_keypoints", type=Path, help=keypoints)
    parser.add_argument(
        "--align", default="auto",
        help="auto, reference, reference-retarget, driving or driving-retarget",
    )  # fmt: skip
    parser.add_argument(
        "--anchor", type=int, default=0,
        help="driving frame that the reference is compared with; -1 looks for one",
    )  # fmt: skip
    parser.add_argument("--height", type=int)
    parser.add_argument("--width", type=int)
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE",
        help="a sampling setting, for example steps=12",
    )  # fmt: skip
    args = parser.parse_args(argv)
    if (args.height is None) != (args.width is None):
        raise UserError("Give both --height and --width, or neither.")
    from onetoall_jax.alignment.align import AlignConfig
    from onetoall_jax.pipelines.animate import SHIPPED, animate

    report = animate(
        args.reference,
        args.driving,
        args.out,
        checkpoint=args.checkpoint or SHIPPED,
        reference_keypoints=args.reference_keypoints,
        driving_keypoints=args.driving_keypoints,
        size=(args.height, args.width) if args.height else None,
        overrides=dict(_value(text) for text in args.set),
        run=_config(args.config),
        alignment=AlignConfig(args.align, args.anchor),
        progress=_progress,
    )
    print(f"{report['frames']} frames in {args.out}")


if __name__ == "__main__":
    main(sys.argv[1:])
