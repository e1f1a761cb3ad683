"""Trains one stage: `python train.py --config=configs/stage1.py:tiny`.

A run lives in its folder (--workdir, by default runs/<name of the config>): records,
metrics, checkpoints. Started again with the same settings, it goes on where it stood.
"""

import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import app, flags, logging
from ml_collections import config_flags

from onetoall_jax import config, errors
from onetoall_jax.pipelines import settings as run_settings

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "configs/stageN.py, with :tiny, :1_3b or :14b for the size."
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.")
_MULTIHOST = flags.DEFINE_bool(
    "multihost", False, "Join the other processes of a TPU pod or a Slurm job."
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "host:port of the first process, where no scheduler tells."
)
_PROCESSES = flags.DEFINE_integer("processes", None, "Processes, with --coordinator.")
_PROCESS = flags.DEFINE_integer("process", None, "This one, with --coordinator.")


@errors.reported
def main(argv: Sequence[str]) -> None:
    """Reads settings, wires the rooms together, trains."""
    del argv
    logging.set_verbosity(logging.WARNING)  # JAX tells of every backend it lacks
    if _CONFIG.value is None:
        raise errors.UserError("Give --config=configs/stage1.py:tiny or another one.")
    settings = run_settings.build(_CONFIG.value.to_dict())
    from data_pipeline import builder, loader, plan
    from data_pipeline.settings import DataConfig
    from onetoall_jax.pipelines import train
    from onetoall_jax.sharding import hosts

    data = config.build(DataConfig, settings.data, "config.data")
    # A missing data set is said before any work.
    rows = builder.Rows(data.root, data.split)
    print(plan.told(data, rows.sizes), file=sys.stderr)
    # Before any array exists.
    hosts.start(_MULTIHOST.value, _COORDINATOR.value, _PROCESSES.value, _PROCESS.value)
    workdir = Path(_WORKDIR.value or f"runs/{settings.name}")
    run = train.assemble(settings, workdir)
    batches = loader.build(
        data,
        run.geometry,
        places=run.places(data.batch),
        start_step=run.first_step,
    )
    with contextlib.closing(batches):  # ends the processes that read
        run(batches)


def _flags(argv: list[str]) -> list[str]:
    """Parses the flags; a setting that the configuration lacks is one sentence."""
    try:
        return app.parse_flags_with_usage(argv)
    except (AttributeError, KeyError) as error:
        cause: object = error  # the library wraps one exception in another
        while isinstance(cause, BaseException) and cause.args:
            cause = cause.args[0]
        said = " ".join(str(cause).split())
        print(f"error: --config has no setting {said}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    app.run(main, flags_parser=_flags)
