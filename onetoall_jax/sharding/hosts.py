"""Several processes as one run: their start, their shares, and a request to stop."""

import signal
import types
from typing import Any

import jax
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from onetoall_jax.sharding import rules


def start(
    multihost: bool,
    coordinator: str | None = None,
    processes: int | None = None,
    index: int | None = None,
) -> None:
    """Joins the other processes of a run; a single process does nothing.

    Must run before any array exists.

    Args:
      multihost: find the others as a TPU pod, Slurm or Open MPI tells of them.
      coordinator: host:port of the first process, where nothing tells of them; then
        `processes` says how many there are and `index` which this is.
    """
    if multihost or coordinator:
        jax.distributed.initialize(coordinator, processes, index)


def index() -> int:
    """Number of this process, 0 writes what is written once."""
    return jax.process_index()


def count() -> int:
    """Processes in the run."""
    return jax.process_count()


def rows(mesh: Mesh, batch: int) -> tuple[int, ...]:
    """Places in a batch of the clips that this process reads: those its devices hold.

    Processes whose devices share clips read the same ones.
    """
    held = rules.batch(mesh).addressable_devices_indices_map((batch,))
    places: set[int] = set()
    for (part,) in filter(None, held.values()):
        places.update(range(*part.indices(batch)))
    return tuple(sorted(places))


class Stop:
    """A request to stop, by SIGTERM, as schedulers send it before they take a machine.

    Several processes agree on the step after which all of them stop; JAX listens for
    the signal then. A process alone listens for itself while inside the context.
    """

    def __init__(self) -> None:
        self._asked = False
        self._before: Any = None

    def __enter__(self) -> "Stop":
        if count() == 1:
            self._before = signal.signal(signal.SIGTERM, self._ask)
        return self

    def __exit__(self, *_: Any) -> None:
        if count() == 1:
            signal.signal(signal.SIGTERM, self._before)

    def _ask(self, number: int, frame: types.FrameType | None) -> None:
        self._asked = True

    def after(self, step: int) -> bool:
        """Is `step`, of which all processes ask in order, the last one to do?"""
        if count() > 1:
            return multihost_utils.reached_preemption_sync_point(step)
        return self._asked
