"""Parameters without a run: written leaf by leaf, read straight to where they belong.

On disk: `params` (Orbax) and `settings.json`. A run, or one step of it, is read
just as well.
"""

import json
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from onetoall_jax import trees
from onetoall_jax.errors import UserError

Tree = Any
_PARAMS, _SETTINGS, _STEPS = "params", "settings.json", "checkpoints"


def save(
    folder: Path, leaves: Iterable[tuple[str, Any]], settings: Mapping[str, Any]
) -> None:
    """Writes parameters one leaf at a time; never holds the whole tree.

    Args:
      folder: must not exist; stands there only when it is complete.
      leaves: ("a/b/c", array) one after another.
      settings: plain dictionary stored as {"settings": ...}.
    Raises:
      UserError: the folder exists, or the disk is full.
    """
    folder = Path(folder).resolve()
    if folder.exists():
        raise UserError(f"{folder} exists already: choose another folder or remove it.")
    half = folder.with_name(folder.name + ".part")
    shutil.rmtree(half, ignore_errors=True)
    half.mkdir(parents=True)
    try:
        for name, array in leaves:
            # A jax.Array takes half the memory of a numpy array on its way to disk.
            leaf = trees.unflatten({name: jax.device_put(array)})
            ocp.v1.partial.save(half / _PARAMS, leaf)
        ocp.v1.partial.finalize(half / _PARAMS)
        text = json.dumps({"settings": settings}, indent=1)
        (half / _SETTINGS).write_text(text + "\n")
        os.replace(half, folder)
    except OSError as error:
        raise UserError(f"{folder} could not be written: {error}.") from error
    finally:
        for left in half.parent.glob(half.name + "*"):
            shutil.rmtree(left, ignore_errors=True)


def settings(folder: Path) -> dict[str, Any]:
    """Settings stored beside parameters or with a run.

    Raises:
      UserError: the folder is missing or holds no settings.
    """
    path = _root(Path(folder)) / _SETTINGS
    try:
        return json.loads(path.read_text())["settings"]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"{folder} is no checkpoint: it has no readable {_SETTINGS}."
        ) from error


def load(folder: Path, expected: Tree) -> Tree:
    """Parameters in the types and shardings of `expected`.

    Args:
      folder: parameters, a run (its newest step is taken) or a step of a run.
      expected: tree of ShapeDtypeStruct; with shardings, arrays go straight there.
    Raises:
      UserError: nothing there, not readable, or other names or shapes than expected.
    """
    item = _item(Path(folder).resolve())
    checkpointer = ocp.PyTreeCheckpointer()
    try:
        stored = checkpointer.metadata(item).item_metadata.tree
        _compare(folder, stored, expected)
        arguments = ocp.checkpoint_utils.construct_restore_args(expected)
        return checkpointer.restore(item, item=expected, restore_args=arguments)
    except (ValueError, OSError, KeyError, AttributeError) as error:
        raise UserError(
            f"The parameters in {folder} cannot be read: the checkpoint is damaged or "
            "incomplete; make it again."
        ) from error


def _compare(folder: Path, stored: Tree, expected: Tree) -> None:
    have = {n: tuple(v.shape) for n, v in trees.flatten(stored).items()}
    want = {n: tuple(v.shape) for n, v in trees.flatten(expected).items()}
    problems = [f"missing {n}" for n in want if n not in have]
    problems += [f"unused {n}" for n in have if n not in want]
    problems += [
        f"{n} is {have[n]}, not {want[n]}"
        for n in want
        if n in have and have[n] != want[n]
    ]
    if problems:
        shown = "; ".join(problems[:5])
        raise UserError(
            f"{folder} holds a model of another size or kind ({len(problems)} leaves "
            f"differ: {shown})."
        )


def _steps(root: Path) -> list[int]:
    folder = root / _STEPS
    if not folder.is_dir():
        return []
    return sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit())


def _root(folder: Path) -> Path:
    """Folder with the settings: of a step, that of its run."""
    if folder.parent.name == _STEPS:
        return folder.parent.parent
    return folder


def _item(folder: Path) -> Path:
    if not folder.is_dir():
        raise UserError(f"There is no checkpoint at {folder}.")
    steps = _steps(folder)
    if steps:
        folder = folder / _STEPS / str(steps[-1])
    item = folder / _PARAMS
    if not item.is_dir():
        raise UserError(f"{folder} holds no parameters.")
    # Written leaf by leaf, Orbax puts the tree one folder further down.
    inner = item / "state"
    return inner if inner.is_dir() else item
