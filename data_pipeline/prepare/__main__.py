"""From a folder of footage to a data set.

    python -m data_pipeline.prepare --input=footage --output=runs/footage

Every video and picture under the folder is surveyed, cut at shot changes, given key
points, screened and stored. Key points come from an `.npz` file of the same name beside
the footage where there is one, else from the offline detector. Killed, it goes on where
it stood: each finished file is noted in OUTPUT.work, and the set appears when it is
whole. Text on screen is not looked for, so that the text mask keeps everything.
"""

import argparse
import dataclasses
import os
import sys
from pathlib import Path
from typing import Any

from data_pipeline.prepare.run import PrepareConfig, prepare
from data_pipeline.prepare.screening import ScreenConfig
from onetoall_jax import errors


@errors.reported
def main(argv: list[str]) -> None:
    """Prepares a folder."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--input", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    _flags(parser, PrepareConfig, ("screen",))
    _flags(parser, ScreenConfig)
    args = vars(parser.parse_args(argv))
    screen = ScreenConfig(**_taken(args, ScreenConfig))
    config = PrepareConfig(**_taken(args, PrepareConfig), screen=screen)
    made = prepare(args["input"], args["output"], config, args["workers"])
    kept = sum(c.reason is None for c in made)
    print(f"{kept} clips kept, {len(made) - kept} left out; {args['output']}/report")


def _flags(
    parser: argparse.ArgumentParser, cls: type, without: tuple[str, ...] = ()
) -> None:
    for field in dataclasses.fields(cls):
        if field.name in without:
            continue
        if isinstance(field.default, bool):
            parser.add_argument(f"--{field.name}", action="store_true")
        else:
            parser.add_argument(
                f"--{field.name}", type=type(field.default), default=field.default
            )


def _taken(args: dict[str, Any], cls: type) -> dict[str, Any]:
    names = {f.name for f in dataclasses.fields(cls)}
    return {n: v for n, v in args.items() if n in names}


if __name__ == "__main__":
    main(sys.argv[1:])
