"""Several processes as one run: their start, and which of them this is."""

import jax


def start(multihost: bool) -> None:
    """Joins the processes of a pod, a Slurm job or a JAX_COORDINATOR_ADDRESS group.

    Must run before any array exists; a single process does nothing.
    """
    if multihost:
        jax.distributed.initialize()


def index() -> int:
    """Number of this process, 0 writes what is written once."""
    return jax.process_index()


def count() -> int:
    """Processes in the run."""
    return jax.process_count()
