"""What the compiler said, kept on disk: compiling a large program takes minutes."""

import dataclasses
import hashlib
import importlib.metadata
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from onetoall_jax import config
from onetoall_jax.planning.collectives import Collective
from onetoall_jax.planning.program import Compiled

Record = tuple[Compiled, list[Collective]]

# Settings that no program depends on.
_IDLE = ("name", "data", "init_from", "init_command", "recipe")


def key(settings: Any, asked: Mapping[str, Any]) -> str:
    """Hash of everything that a program depends on, but for the code.

    Args:
      asked: what else names the program (`Request.to_dict`).
    """
    idle = _IDLE if asked["sampler"] else (*_IDLE, "sampling")
    values = {k: v for k, v in config.to_dict(settings).items() if k not in idle}
    named = {k: v for k, v in asked.items() if k not in ("config", "changes")}
    latents = bool(settings.data.get("latents"))
    text = json.dumps([values, named, latents, _versions()], sort_keys=True)
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
    asked: Mapping[str, Any],
    make: Callable[[], Record],
) -> Record:
    """The stored account of a program, or a new one, which is then stored.

    Args:
      folder: None keeps nothing.
      asked: stored beside the account.
    """
    path = None if folder is None else folder / f"{key}.json"
    if path is not None and path.exists():
        return _read(path)[1]
    made, sends = make()
    if path is not None:
        stored = dataclasses.asdict(made)
        del stored["text"]  # megabytes, and read already
        record = {
            "asked": asked,
            "versions": _versions(),
            "compiled": stored,
            "collectives": [dataclasses.asdict(row) for row in sends],
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_suffix(f".{os.getpid()}")
        beside.write_text(json.dumps(record, indent=1) + "\n")
        beside.rename(path)
    return made, sends


def records(folder: Path) -> list[tuple[dict[str, Any], Record]]:
    """Everything that is stored: (what was asked, the account)."""
    return [_read(path) for path in sorted(folder.glob("*.json"))]


def _read(path: Path) -> tuple[dict[str, Any], Record]:
    stored = json.loads(path.read_text())
    sends = [Collective(**row) for row in stored["collectives"]]
    return stored["asked"], (Compiled(text="", **stored["compiled"]), sends)
