"""Saving and restoring a run's state, and what a save costs the steps beside it.

    python -m benchmarks.checkpoint --config=configs/stage2.py:1_3b --folder=/data
    python -m benchmarks.checkpoint --config=configs/stage2.py:tiny --size=5x48x32

Restoring reads what was just written, which the system may still hold in memory. Steps
without and with a checkpoint that is written meanwhile take turns; CPU seconds are
those of the whole process, writers included.
"""

import argparse
import math
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jax

from benchmarks import report
from benchmarks.drawn import Drawn, Steps
from onetoall_jax import config, errors
from onetoall_jax.checkpoints.state import Store
from onetoall_jax.pipelines import train
from onetoall_jax.planning.work import Size
from onetoall_jax.training.state import TrainState


@errors.reported
def main(argv: list[str]) -> None:
    """Times saving, restoring and the steps beside a save, and prints the table."""
    parser = report.parser(__doc__)
    parser.add_argument("--config", required=True, help="as train.py takes it")
    parser.add_argument("--size", type=Size.parse, default=Size(29, 512, 512))
    parser.add_argument("--clips", type=int, default=1, help="of a step")
    parser.add_argument("--folder", type=Path, help="on the disk to be measured")
    args, words = parser.parse_known_args(argv)
    run = Drawn.build(args.config, words)
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        bench = Bench(run, Path(folder), args)
        rows = [*bench.alone(), *bench.beside_steps()]
    report.publish("checkpoint", args, rows)


class Bench:
    """Checkpoints of one run in one folder, a new one for each round."""

    def __init__(self, run: Drawn, folder: Path, args: argparse.Namespace):
        self._run, self._folder, self._args = run, folder, args
        made = run.program(args.size, args.clips * run.shards)
        self._steps = run.steps(made, args.size, args.clips * run.shards)
        self._steps()
        self._written = 1.0  # seconds, until it is known
        self._bytes = size_bytes(run, self._steps.state)

    def alone(self) -> Iterator[report.Row]:
        """Rows of a save while nothing else happens, and of restoring it."""
        target = train.kept(
            self._run.settings,
            train.abstract_state(self._run.settings, self._run.mesh),
        )
        names = ("save, until steps go on", "save, until on disk", "restore")
        times: dict[str, list[float]] = {name: [] for name in names}
        for _ in range(self._args.rounds):
            store, begun = self._store(), time.perf_counter()
            save(self._run, store, self._steps.state)
            times[names[0]].append(time.perf_counter() - begun)
            store.close()
            times[names[1]].append(time.perf_counter() - begun)
            store, begun = self._store(), time.perf_counter()
            jax.block_until_ready(store.restore(*target))
            times[names[2]].append(time.perf_counter() - begun)
            store.close()
            self._clear()
        self._written = statistics.median(times[names[1]])
        what = f"{self._bytes / report.GIB:.3f} GiB"
        for name in names:
            made = report.row(name, what, times[name])
            made["gb_per_s"] = self._bytes / made["seconds"] / 1e9
            yield made

    def beside_steps(self) -> Iterator[report.Row]:
        """Rows of as many steps as it takes to write a checkpoint, without and with."""
        begun = time.perf_counter()
        self._steps()
        one = time.perf_counter() - begun
        count = 2 + math.ceil(2 * self._written / one)
        names = (f"{count} steps", f"{count} steps, a save after the first")
        walls: dict[str, list[float]] = {name: [] for name in names}
        cpus: dict[str, list[float]] = {name: [] for name in names}
        for _ in range(self._args.rounds):
            for name, saves in zip(names, (False, True), strict=True):
                store = self._store()
                wall, cpu = time.perf_counter(), time.process_time()
                _through(self._steps, count, self._saving(store) if saves else None)
                walls[name].append(time.perf_counter() - wall)
                store.close()  # nothing is left of it, or the steps were too few
                cpus[name].append(time.process_time() - cpu)
                self._clear()
        with report.profile(self._args.trace):
            store = self._store()
            _through(self._steps, count, self._saving(store))
            store.close()
        for name in names:
            made = report.row(name, str(self._args.size), walls[name])
            yield made | {"cpu_s": statistics.median(cpus[name])}

    def _saving(self, store: Store) -> Callable[[], None]:
        return lambda: save(self._run, store, self._steps.state)

    def _store(self) -> Store:
        return Store(self._folder)

    def _clear(self) -> None:
        for path in self._folder.iterdir():
            shutil.rmtree(path)


def _through(steps: Steps, count: int, save: Callable[[], None] | None) -> None:
    for i in range(count):
        steps()
        if i == 0 and save is not None:
            save()


def save(run: Drawn, store: Store, state: TrainState) -> None:
    """Starts a checkpoint as training does."""
    kept = train.kept(run.settings, state)
    store.save(int(state.step), *kept, config.to_dict(run.settings))


def size_bytes(run: Drawn, state: TrainState) -> int:
    """Of what a checkpoint holds."""
    return sum(leaf.nbytes for leaf in jax.tree.leaves(train.kept(run.settings, state)))


if __name__ == "__main__":
    main(sys.argv[1:])
