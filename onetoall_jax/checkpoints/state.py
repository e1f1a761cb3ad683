"""Saves and resumes a run: parameters, training state, settings; whole or not at all.

On disk, under `<workdir>/checkpoints/<step>/`: `params` (the whole network, readable
without the rest), `training` (what it takes to go on) and `settings`.
"""

import contextlib
import errno
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from onetoall_jax.checkpoints import disk
from onetoall_jax.errors import UserError

Tree = Any
FOLDER = "checkpoints"
SETTINGS = "settings.json"


class Store:
    """Checkpoints of one run, written in the background.

    A checkpoint is written under another name and renamed when it is complete, so a
    process killed in between leaves none; what it leaves is removed at the next start.
    """

    def __init__(self, workdir: Path, keep: int = 2):
        self.folder = workdir.resolve() / FOLDER
        # What goes wrong in the background is raised here as well.
        logging.getLogger("absl").setLevel(logging.CRITICAL)
        with _disk(self.folder):
            self._manager = ocp.CheckpointManager(
                self.folder,
                options=ocp.CheckpointManagerOptions(
                    max_to_keep=keep,
                    enable_async_checkpointing=True,
                    cleanup_tmp_directories=True,
                ),
            )

    def latest(self) -> int | None:
        """Step of the newest complete checkpoint."""
        return self._manager.latest_step()

    def save(
        self, step: int, params: Tree, training: Tree, settings: Mapping[str, Any]
    ) -> None:
        """Starts writing a checkpoint; returns once the arrays are copied.

        Raises:
          UserError: the disk is full (also found at the next save or at `close`).
        """
        with _disk(self.folder):
            _need(self.folder, (params, training))
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    params=ocp.args.StandardSave(params),
                    training=ocp.args.StandardSave(training),
                    settings=ocp.args.JsonSave({"settings": settings, "step": step}),
                ),
            )

    def restore(self, params: Tree, training: Tree) -> tuple[Tree, Tree]:
        """(params, training) of the newest checkpoint.

        Args:
          params, training: trees of ShapeDtypeStruct with shardings; the arrays go
            straight there.
        Raises:
          UserError: there is none, or it cannot be read.
        """
        step = self.latest()
        if step is None:
            raise UserError(f"{self.folder} holds no complete checkpoint.")
        try:
            made = self._manager.restore(
                step,
                args=ocp.args.Composite(
                    params=ocp.args.StandardRestore(params),
                    training=ocp.args.StandardRestore(training),
                ),
            )
        except (ValueError, OSError, KeyError) as error:
            where = self.folder / str(step)
            raise UserError(
                f"The checkpoint {where} cannot be read ({_first_line(error)}): delete "
                "that folder to go on from the one before it."
            ) from error
        return made.params, made.training

    def close(self) -> None:
        """Waits for what is still being written."""
        with _disk(self.folder):
            self._manager.wait_until_finished()
            self._manager.close()


def _need(folder: Path, tree: Tree) -> None:
    """Raises OSError where the disk has no room for a tree, before any is written."""
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(tree))
    if shutil.disk_usage(folder).free < 1.1 * size + (1 << 20):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@contextlib.contextmanager
def _disk(folder: Path) -> Iterator[None]:
    """Turns a full disk into a sentence."""
    try:
        yield
    except Exception as error:  # the writers wrap the cause in types of their own
        if not disk.is_full(error):
            raise
        whole = [int(p.name) for p in folder.glob("*") if p.name.isdigit()]
        kept = f"that of step {max(whole)}" if whole else "none"
        raise UserError(
            f"The disk is full, so a checkpoint could not be written to {folder}; the "
            f"last whole one is {kept}: free some space and start again."
        ) from error


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0][:200]


def check_owner(
    workdir: Path, settings: Mapping[str, Any], free: tuple[str, ...]
) -> None:
    """Checks that `workdir` is new or was started with these settings.

    Args:
      settings: the run's whole settings.
      free: dotted names, whole groups among them, that may differ from the first
        start.
    Raises:
      UserError: the folder belongs to other settings; the first that differs is named.
    """
    path = workdir / SETTINGS
    if not path.exists():
        return
    theirs = json.loads(path.read_text())["settings"]
    different = _difference(theirs, json.loads(json.dumps(settings)), free)
    if different:
        name, old, new = different
        raise UserError(
            f"{workdir} belongs to a run with {name}={old!r}, not {new!r}: give "
            "another --workdir, or the settings it was started with."
        )


def claim(workdir: Path, settings: Mapping[str, Any]) -> None:
    """Writes the settings into `workdir`: from now on it is this run's."""
    with _disk(workdir):
        workdir.mkdir(parents=True, exist_ok=True)
        path = workdir / SETTINGS
        beside = path.with_suffix(".part")
        beside.write_text(json.dumps({"settings": settings}, indent=1) + "\n")
        os.replace(beside, path)


def _difference(
    old: Any, new: Any, free: tuple[str, ...], name: str = ""
) -> tuple[str, Any, Any] | None:
    if name in free:
        return None
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted({*old, *new}):
            inner = f"{name}.{key}" if name else key
            found = _difference(old.get(key), new.get(key), free, inner)
            if found:
                return found
        return None
    return None if old == new else (name, old, new)
