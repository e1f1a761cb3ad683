"""Converts PyTorch checkpoints to ours, and ours back.

    python tools/convert_torch_weights.py --src=Wan2.1-T2V-1.3B/transformer --out=wan
    python tools/convert_torch_weights.py --src=wan --out=start --init=stage1
    python tools/convert_torch_weights.py --src=runs/stage2 --out=export --export

Reads safetensors files, folders of shards, the original .pth archives, and parameters
or runs of ours; leaf by leaf, so that memory holds about twice the largest one.
"""

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path

from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from onetoall_jax import errors  # noqa: E402
from onetoall_jax.pipelines import convert  # noqa: E402


def _progress(leaves: Iterable, total: int) -> Iterable:
    return tqdm(leaves, "leaves", total, mininterval=1)


@errors.reported
def main(argv: list[str]) -> None:
    """Reads the flags and calls the one function that they ask for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--src", type=Path, required=True)
    parser.add_argument("--out", type=Path, help="must not exist")
    parser.add_argument(
        "--kind",
        default="auto",
        choices=["auto", "onetoall", "stage1", "wan", "vae", "umt5"],
    )
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--init", choices=["stage1", "stage2"])
    parser.add_argument("--head_dim", type=int, default=128)
    parser.add_argument("--dry_run", action="store_true", help="read headers only")
    parser.add_argument("--export", action="store_true", help="ours to safetensors")
    args = parser.parse_args(argv)
    if args.out is None and not args.dry_run:
        parser.error("--out is needed unless --dry_run is given")
    if args.export:
        print(convert.export(args.src, args.out, dtype=args.dtype, progress=_progress))
        return
    said = convert.convert(
        args.src,
        args.out,
        kind=args.kind,
        dtype=args.dtype,
        init=args.init,
        head_dim=args.head_dim,
        dry_run=args.dry_run,
        progress=_progress,
    )
    print(said)


if __name__ == "__main__":
    main(sys.argv[1:])
