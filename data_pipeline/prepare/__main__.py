"""From a folder of footage to a data set.

    python -m data_pipeline.prepare --input=footage --output=runs/footage

Every video and picture under the folder is looked at, cut at shot changes, given key
points, screened and stored. Key points come from a file of the same name beside the
footage where there is one, else from a detector: the released networks where they are,
otherwise the offline one. `--layout` reads public data sets as they are laid out, with
their lists and pairs. Killed, it goes on where it stood: what is finished is noted in
OUTPUT.work, and the set appears when it is whole.
"""

import argparse
import dataclasses
import os
import sys
from pathlib import Path
from typing import Any

from data_pipeline.importers import layouts
from data_pipeline.prepare import beam, report, run
from data_pipeline.prepare.screening import ScreenConfig
from data_pipeline.prepare.settings import PrepareConfig
from onetoall_jax import errors


@errors.reported
def main(argv: list[str]) -> None:
    """Prepares a folder."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--input", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--layout", default="folder", help=", ".join(layouts.LAYOUTS))
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count(), help="0 starts no process"
    )
    parser.add_argument(
        "--beam", help='run on Apache Beam: its options, as "--runner=DirectRunner"'
    )
    _flags(parser, PrepareConfig, ("screen",))
    _flags(parser, ScreenConfig)
    args = vars(parser.parse_args(argv))
    screen = ScreenConfig(**_taken(args, ScreenConfig))
    config = PrepareConfig(**_taken(args, PrepareConfig), screen=screen)
    footage = layouts.read(args["layout"], args["input"])
    for sentence in footage.told:
        print(sentence)
    runner, writing = run.local(args["workers"]), None
    if args["beam"] is not None:
        runner, writing = beam.open_runner(args["beam"])
    made = run.prepare(footage, args["output"], config, runner, writing)
    counts = report.count(made.found)
    print(", ".join(f"{n} {kind}" for kind, n in counts.items()))
    print(f"{made.rows} rows; {args['output']}/report/report.html")


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
