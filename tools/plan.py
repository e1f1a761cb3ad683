"""Plans a run on a machine that need not be here: memory, time, communication.

    python tools/plan.py --config=configs/stage2.py:14b --topology=v5p:4x4x4 --batch=64
    python tools/plan.py --config=configs/stage2.py --topology=gpu:h100:8 --search=0
    python tools/plan.py --config=configs/stage2.py:tiny --topology=cpu:4

    python tools/plan.py --table=docs/plan.md --cache=docs/plan
    python tools/plan.py --growth=docs/growth.png --cache=docs/plan

Compiles the real training step ahead of time for TPUs (`pip install
'onetoall-jax[tpu]'`) and CPUs; GPUs by formula, as --formula does for all.
"""

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import app, flags, logging
from ml_collections import config_flags

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from data_pipeline import buckets  # noqa: E402
from onetoall_jax import config, errors, media  # noqa: E402
from onetoall_jax.pipelines import settings as run_settings  # noqa: E402
from onetoall_jax.pipelines.settings import RunSettings  # noqa: E402
from onetoall_jax.planning import (  # noqa: E402
    growth,
    plan,
    report,
    search,
    table,
    topology,
)
from onetoall_jax.planning.plan import Plan, Request  # noqa: E402
from onetoall_jax.planning.work import Size  # noqa: E402

_CONFIG = config_flags.DEFINE_config_file("config", None, "As train.py takes it.")
_TOPOLOGY = flags.DEFINE_string("topology", None, "v5p:4x4x4, cpu:8, gpu:h100:8, ...")
_BATCH = flags.DEFINE_integer("batch", None, "Clips of a step; default data.batch.")
_SIZE = flags.DEFINE_string(
    "size", None, "frames x height x width; default the first square bucket's."
)
_SAMPLER = flags.DEFINE_bool(
    "sampler", False, "Sample a segment of 81x576x1024, or --size, instead of training."
)
_SEARCH = flags.DEFINE_integer(
    "search", None, "Try meshes and remat policies by formula, compile so many of them."
)
_FORMULA = flags.DEFINE_bool("formula", False, "Compile nothing.")
_CACHE = flags.DEFINE_string(
    "cache", "~/.cache/onetoall_jax/plans", "Folder of what the compiler said."
)

_TABLE = flags.DEFINE_string(
    "table",
    None,
    "Compile what --cache lacks of the page of plans, and write the page.",
)
_GROWTH = flags.DEFINE_string(
    "growth", None, "Draw time and memory against tokens and devices to this PNG."
)
_SHOWN = 12  # lines of a search's ranking
_ROOT = Path(__file__).resolve().parent.parent
_MARK = "<!-- below: written by tools/plan.py --table -->"


@errors.reported
def main(argv: Sequence[str]) -> None:
    """Reads the flags and prints a plan, or the best of many."""
    del argv
    logging.set_verbosity(logging.WARNING)
    if _TABLE.value is not None:
        _table(Path(_TABLE.value), Path(_CACHE.value).expanduser())
        return
    if _GROWTH.value is not None:
        folder = Path(_CACHE.value).expanduser()
        media.write_image(
            Path(_GROWTH.value), growth.draw(growth.panels(folder, _load))
        )
        return
    if _CONFIG.value is None or _TOPOLOGY.value is None:
        raise errors.UserError(
            "Give --config=configs/stage2.py:14b and --topology=v5p:4x4x4 or others."
        )
    machine = topology.parse(_TOPOLOGY.value)
    topology.prepare(machine)
    settings = run_settings.build(_CONFIG.value.to_dict())
    request = Request(
        name=config_flags.get_config_filename(flags.FLAGS["config"]),
        settings=settings,
        topology=machine,
        batch=_BATCH.value or (1 if _SAMPLER.value else settings.data["batch"]),
        size=_size(settings),
        sampler=_SAMPLER.value,
        changes=config_flags.get_override_values(flags.FLAGS["config"]),
    )
    if _SEARCH.value is not None:
        _search(request, _SEARCH.value)
        return
    print(report.text(_planned(request)))


def _planned(request: Request) -> Plan:
    if _FORMULA.value or request.topology.platform == "gpu":
        return plan.estimate(request)
    return plan.compiled(request, Path(_CACHE.value).expanduser())


def _search(request: Request, count: int) -> None:
    """Prints the best meshes and policies, then the plans of the first `count`."""
    plans = search.ranked(request)
    print(f"{len(plans)} meshes and policies by formula; the best:")
    print(report.ranking(plans[:_SHOWN]))
    for made in plans[:count]:
        print("\n" + report.text(_planned(made.request)))


def _table(path: Path, folder: Path) -> None:
    """Writes the page; programs without a record are compiled, each by a process."""
    for case in [] if _FORMULA.value else table.missing(folder):
        words = [sys.argv[0], f"--cache={folder}", *case.words()]
        print("$ python " + " ".join(words), flush=True)
        subprocess.run([sys.executable, *words], check=False)
    text = path.read_text() if path.exists() else ""
    path.write_text(text.split(_MARK)[0] + _MARK + "\n\n" + table.page(folder, _load))


def _load(name: str, changes: Mapping[str, Any]) -> RunSettings:
    """Settings of a configuration such as configs/stage2.py:14b."""
    values = config.read(str(_ROOT / name))
    with values.unlocked():
        values.update_from_flattened_dict(changes)
    return run_settings.build(values.to_dict())


def _size(settings: RunSettings) -> Size:
    """Sizes of a clip: as asked, or the usual ones."""
    if _SIZE.value is not None:
        return Size.parse(_SIZE.value)
    if _SAMPLER.value:
        return Size(81, 576, 1024)
    table = buckets.TABLES[settings.data["resolutions"][0]["table"]]
    _, height, width = min(table.sizes, key=lambda row: abs(row[0] - 1))
    return Size(settings.data["num_frames"], height, width)


if __name__ == "__main__":
    app.run(main)
