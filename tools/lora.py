"""Adapter files of other programs, ours, and the base they change.

python tools/lora.py import --src=FILE.safetensors --base=CHECKPOINT --out=DIR
python tools/lora.py export --src=runs/lora_1_3b --out=FILE.safetensors --form=original
python tools/lora.py merge --src=runs/lora_1_3b --out=DIR
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from onetoall_jax import errors  # noqa: E402
from onetoall_jax.conversion import lora  # noqa: E402
from onetoall_jax.pipelines import adapters  # noqa: E402


@errors.reported
def main(argv: list[str]) -> None:
    """Reads the flags and calls the one function that they ask for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["import", "export", "merge"])
    parser.add_argument("--src", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="must not exist")
    parser.add_argument("--base", type=Path, help="of an imported file")
    parser.add_argument("--form", choices=lora.FORMS, default="diffusers")
    parser.add_argument(
        "--partial", action="store_true", help="leave out what fits no layer"
    )
    args = parser.parse_args(argv)
    if args.what == "import":
        if args.base is None:
            parser.error("import needs --base")
        print(adapters.take_in(args.src, args.base, args.out, partial=args.partial))
    elif args.what == "export":
        print(adapters.give_out(args.src, args.out, args.form))
    else:
        print(adapters.merge(args.src, args.out))


if __name__ == "__main__":
    main(sys.argv[1:])
