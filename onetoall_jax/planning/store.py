"""What the compiler said, kept on disk: compiling a large program takes minutes."""

import dataclasses
import hashlib
import importlib.metadata
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from onetoall_jax import config
from onetoall_jax.planning.collectives import Collective
from onetoall_jax.planning.program import Compiled

# Settings that no program depends on.
_IDLE = ("name", "data", "init_from", "init_command", "recipe")


def key(settings: Any, **more: Any) -> str:
    """Hash of everything that a program depends on, but for the code.

    Args:
      more: what else names the program: topology, batch, sizes, which one.
    """
    values = {k: v for k, v in config.to_dict(settings).items() if k not in _IDLE}
    text = json.dumps([values, more, _versions()], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _versions() -> dict[str, str]:
    made = {"jax": importlib.metadata.version("jax")}
    try:
        made["libtpu"] = importlib.metadata.version("libtpu")
    except importlib.metadata.PackageNotFoundError:
        made["libtpu"] = ""
    return made


def recalled(
    folder: Path | None,
    key: str,
    make: Callable[[], tuple[Compiled, list[Collective]]],
) -> tuple[Compiled, list[Collective]]:
    """The stored account of a program, or a new one, which is then stored.

    Args:
      folder: None keeps nothing.
    """
    path = None if folder is None else folder / f"{key}.json"
    if path is not None and path.exists():
        stored = json.loads(path.read_text())
        sends = [Collective(**row) for row in stored.pop("collectives")]
        return Compiled(text="", **stored), sends
    made, sends = make()
    if path is not None:
        stored = dataclasses.asdict(made)
        del stored["text"]  # megabytes, and read already
        stored["collectives"] = [dataclasses.asdict(row) for row in sends]
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_suffix(f".{os.getpid()}")
        beside.write_text(json.dumps(stored, indent=1))
        beside.rename(path)
    return made, sends
