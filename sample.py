"""Animates a picture: reference and driving clip in, videos and a report out.

    python sample.py --reference=me.png --driving=dance.mp4 --out=out
    python sample.py --reference=me.png --driving=dance.mp4 --out=out --dry_run
    python sample.py --checkpoint=checkpoints/onetoall \\
        --config=configs/stage3.py:1_3b \\
        --reference=me.png --driving=dance.mp4 --out=out
    python sample.py --pairs=pairs.csv --out=results
"""

import argparse
import sys
from pathlib import Path

from onetoall_jax import config, errors
from onetoall_jax.errors import UserError


def _share(text: str) -> tuple[int, int]:
    """ "1/4" -> (1, 4)."""
    index, _, count = text.partition("/")
    if not (index.isdigit() and count.isdigit()):
        raise UserError(f"--share={text}: write for example 0/4.")
    return int(index), int(count)


def _progress(done: int, total: int, left_s: float) -> None:
    print(f"{done} of {total} frames, {left_s:.0f} s left", file=sys.stderr, flush=True)


def _flags() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--reference", type=Path, help="a picture")
    add("--driving", type=Path, help="video, picture or key points (.npz)")
    add("--out", type=Path, required=True, help="a folder of results, not yet there")
    add("--prepared", type=Path, help="folder of the prepared pair, used or made")
    add("--dry_run", action="store_true", help="prepare the pair and stop")
    add("--pairs", type=Path, help="a CSV file of pairs instead of one")
    add(
        "--share", default="0/1", help="0/4: the first of four hosts that share --pairs"
    )
    add("--checkpoint", type=Path, help="a run; without one, the tiny model shipped")
    add("--config", help="settings instead of the checkpoint's")
    keypoints = ".npz, the release's .npy, or a folder of OpenPose's JSON files"
    add("--reference_keypoints", type=Path, help=keypoints)
    add("--driving_keypoints", type=Path, help=keypoints)
    add("--detector", default="offline", help="offline, vitpose or dwpose")
    add("--models", type=Path, help="folder of the networks of vitpose and dwpose")
    add("--colours", default="bgr", help="that vitpose gets: bgr (as released) or rgb")
    who = "only, largest, a number from the left, or a box x0,y0,x1,y1"
    add("--person", default="only", help=f"of the driving clip: {who}")
    add("--reference_person", default="only", help="of the picture: the same")
    modes = "auto, reference, reference-retarget, driving or driving-retarget"
    add("--align", default="auto", help=modes)
    compared = "driving frame that the reference is compared with; -1 looks for one"
    add("--anchor", default="0", help=compared)
    add("--fps", default="native", help="native, or frames a second to take")
    add("--height", default="None")
    add("--width", default="None")
    add("--num_frames", default="None", help="at most so many")
    add("--no_audio", action="store_true", help="leave the driving clip's sound out")
    add("--prompt", help="a text; needs --umt5 and --tokenizer once")
    add("--negative_prompt", help="a text to be guided away from")
    add("--umt5", type=Path, default=Path("checkpoints/umt5"))
    add("--tokenizer", type=Path, default=Path("checkpoints/spiece.model"))
    add("--set", action="append", default=[], metavar="NAME=VALUE",
        help="a setting of sampling (steps=12) or of alignment "
        "(alignment.retarget.same_side_hands=True)")  # fmt: skip
    return parser


@errors.reported
def main(argv: list[str]) -> None:
    """Reads the flags and makes the one library call."""
    args = _flags().parse_args(argv)
    for word in args.set:
        if "=" not in word:
            raise UserError(f"--set {word}: write name=value, for example steps=12.")
    from onetoall_jax.host_memory import give_back_large_arrays
    from onetoall_jax.pipelines import animator, pairs
    from onetoall_jax.pipelines.animate import animate
    from onetoall_jax.pipelines.embed import Encoder
    from onetoall_jax.pipelines.preparing import PrepareConfig
    from onetoall_jax.pose.detect import Search

    give_back_large_arrays()
    flags = {"alignment.mode": args.align, "alignment.anchor": args.anchor}
    names = ("height", "width", "num_frames", "fps", "person", "reference_person")
    flags |= {name: getattr(args, name) for name in names}
    words = [f"{name}={value}" for name, value in flags.items()] + args.set
    preparing, sampling = pairs.options("; ".join(words), PrepareConfig())
    search = Search(detector=args.detector, colours=args.colours)
    if args.models is not None:
        search = search._replace(models=args.models)
    common = dict(
        config=preparing,
        search=search,
        encoder=Encoder(args.umt5, args.tokenizer),
        audio=not args.no_audio,
        output_type="none",
        dry_run=args.dry_run,
        progress=_progress,
        say=print,
    )
    run = None if args.config is None else config.read(args.config).to_dict()
    checkpoint = args.checkpoint or animator.SHIPPED
    model = animator.setup(checkpoint, sampling, run)
    if args.pairs is not None:
        rows = pairs.read(args.pairs)
        del common["output_type"]
        _report(pairs.run(rows, args.out, model, share=_share(args.share), **common))
        return
    _, report = animate(
        args.reference,
        args.driving,
        model=model,
        out=args.out,
        prepared=args.prepared,
        reference_keypoints=args.reference_keypoints,
        driving_keypoints=args.driving_keypoints,
        prompt=args.prompt,
        negative_prompt=args.negative_prompt,
        **common,
    )
    if not args.dry_run:
        print(f"{report['frames']} frames in {args.out}")


def _report(failures: list) -> None:
    if failures:
        print(f"{len(failures)} pairs failed:", file=sys.stderr)
        for name, reason in failures:
            print(f"  {name}: {reason}", file=sys.stderr)
        raise SystemExit(1)


if __name__ == "__main__":
    main(sys.argv[1:])
