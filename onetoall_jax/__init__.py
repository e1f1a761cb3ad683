"""One-to-All character animation in JAX; importing it imports nothing else."""

from typing import Any

_PUBLIC = {
    "animate": "onetoall_jax.pipelines.animate",
    "load": "onetoall_jax.pipelines.animator",
}
__all__ = list(_PUBLIC)


def __getattr__(name: str) -> Any:
    # Late, or every loader worker that draws a pose would pay for JAX.
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_PUBLIC[name]), name)
