"""Parameters without a run: written leaf by leaf, read straight to where they belong.

On disk: `params` (Orbax) and `settings.json`. A run, or one step of it, is read
just as well.
"""

import contextlib
import ctypes
import gc
import json
import logging
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from onetoall_jax import trees
from onetoall_jax.checkpoints import disk
from onetoall_jax.errors import UserError

Tree = Any
_PARAMS, _SETTINGS, _STEPS = "params", "settings.json", "checkpoints"
# Small leaves share a write: each write costs a fraction of a second.
_BATCH_BYTES = 32 << 20


def save(
    folder: Path, leaves: Iterable[tuple[str, Any]], settings: Mapping[str, Any]
) -> None:
    """Writes parameters one leaf at a time; never holds the whole tree.

    Memory peaks at twice the largest leaf; the giver of `leaves` should not keep them.

    Args:
      folder: must not exist; stands there only when it is complete.
      leaves: ("a/b/c", array) one after another.
      settings: plain dictionary stored as {"settings": ...}.
    Raises:
      UserError: the folder exists, or the disk is full.
    """
    folder = Path(folder).resolve()
    check_new(folder)
    half = folder.with_name(folder.name + ".part")
    try:
        shutil.rmtree(half, ignore_errors=True)
        half.mkdir(parents=True)
        for batch in _batches(leaves):
            jax.block_until_ready(batch)
            _give_back_memory()  # what the batch was copied from
            ocp.v1.partial.save(half / _PARAMS, trees.unflatten(batch))
            batch.clear()
            _give_back_memory()
        ocp.v1.partial.finalize(half / _PARAMS)
        # It names the passing folder; ours appears whole, by its renaming.
        (half / _PARAMS / "commit_success.txt").unlink(missing_ok=True)
        text = json.dumps({"settings": settings}, indent=1)
        (half / _SETTINGS).write_text(text + "\n")
        os.replace(half, folder)
    except Exception as error:  # Orbax wraps the cause in types of its own
        if not isinstance(error, OSError) and not disk.is_full(error):
            raise
        raise UserError(
            f"{folder} could not be written ({disk.reason(error)}): nothing is left of "
            "it; make room or choose another place."
        ) from error
    finally:
        shutil.rmtree(half, ignore_errors=True)


def check_new(folder: Path) -> None:
    """Raises UserError if something stands at `folder`: nothing is overwritten."""
    if Path(folder).exists():
        raise UserError(f"{folder} exists already: choose another folder or remove it.")


def _batches(leaves: Iterable[tuple[str, Any]]) -> Iterator[dict[str, jax.Array]]:
    held: dict[str, jax.Array] = {}
    stream = iter(leaves)
    while True:
        name, array = next(stream, (None, None))
        if name is not None:
            # A jax.Array takes half the memory of a numpy array on its way to disk.
            held[name] = jax.device_put(array)
        # Not to be kept while the next leaf is made.
        del array
        if held and (name is None or _nbytes(held) >= _BATCH_BYTES):
            yield held
            held = {}
        if name is None:
            return


def _nbytes(arrays: Mapping[str, Any]) -> int:
    return sum(array.nbytes for array in arrays.values())


def _give_back_memory() -> None:
    """Returns freed buffers to the system; JAX and glibc would keep some for a while.

    JAX lets go of host arrays at a collection, glibc of freed pieces when asked to.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


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


def is_ours(folder: Path) -> bool:
    """Does a folder hold parameters or a run of ours?"""
    folder = Path(folder)
    return folder.is_dir() and (_root(folder) / _SETTINGS).is_file()


def load(folder: Path, expected: Tree) -> Tree:
    """Parameters in the types and shardings of `expected`.

    Args:
      folder: parameters, a run (its newest step is taken) or a step of a run.
      expected: tree of ShapeDtypeStruct; with shardings, arrays go straight there.
    Raises:
      UserError: nothing there, not readable, or other names or shapes than expected.
    """
    check(folder, stored(folder), expected)
    item = _item(Path(folder).resolve())
    return _restore(folder, ocp.PyTreeCheckpointer(), item, expected, partial=False)


def reader(folder: Path) -> Callable[[str], np.ndarray]:
    """Function that reads one stored leaf by name "a/b/c", in its stored type.

    Raises:
      UserError: nothing there, or not readable.
    """
    leaves = trees.flatten(stored(folder))
    item = _item(Path(folder).resolve())
    checkpointer = ocp.PyTreeCheckpointer()

    def read(name: str) -> np.ndarray:
        part = trees.unflatten({name: leaves[name]})
        made = _restore(folder, checkpointer, item, part, partial=True)
        return np.asarray(trees.flatten(made)[name])

    return read


def stored(folder: Path) -> Tree:
    """Shapes and types on disk, as a tree of ShapeDtypeStruct.

    Raises:
      UserError: nothing there, or not readable.
    """
    item = _item(Path(folder).resolve())
    try:
        with _quiet():
            tree = ocp.PyTreeCheckpointer().metadata(item).item_metadata.tree
        return trees.unflatten(
            {
                name: jax.ShapeDtypeStruct(tuple(leaf.shape), leaf.dtype)
                for name, leaf in trees.flatten(tree).items()
            }
        )
    except (ValueError, OSError, KeyError, AttributeError, TypeError) as error:
        raise _damaged(folder) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without Orbax's warning that one item of a checkpoint is no whole one."""
    logger = logging.getLogger("absl")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def check(folder: Path, have: Tree, expected: Tree) -> None:
    """Raises UserError naming the leaves in which two trees differ."""
    ours = {n: tuple(v.shape) for n, v in trees.flatten(have).items()}
    want = {n: tuple(v.shape) for n, v in trees.flatten(expected).items()}
    problems = [f"missing {n}" for n in want if n not in ours]
    problems += [f"unused {n}" for n in ours if n not in want]
    problems += [
        f"{n} is {ours[n]}, not {want[n]}"
        for n in want
        if n in ours and ours[n] != want[n]
    ]
    if problems:
        shown = "; ".join(problems[:5])
        raise UserError(
            f"{folder} holds a model of another size or kind ({len(problems)} leaves "
            f"differ: {shown}): give the checkpoint of this model."
        )


def _restore(
    folder: Path,
    checkpointer: ocp.PyTreeCheckpointer,
    item: Path,
    expected: Tree,
    *,
    partial: bool,
) -> Tree:
    arguments = ocp.checkpoint_utils.construct_restore_args(expected)
    try:
        with _silent_threads():
            return checkpointer.restore(
                item,
                args=ocp.args.PyTreeRestore(
                    item=expected, restore_args=arguments, partial_restore=partial
                ),
            )
    except (ValueError, OSError, KeyError, AttributeError) as error:
        raise _damaged(folder) from error


@contextlib.contextmanager
def _silent_threads() -> Iterator[None]:
    """Hides what reading threads print by themselves when one of them fails.

    Their tracebacks come from outside Python, a moment later, and would bury the one
    sentence that helps.
    """
    sys.stderr.flush()
    shown, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    except BaseException:
        time.sleep(0.5)
        raise
    finally:
        os.dup2(shown, 2)
        os.close(shown)
        os.close(nowhere)


def _damaged(folder: Path) -> UserError:
    return UserError(
        f"The parameters in {folder} cannot be read: the checkpoint is damaged or "
        "incomplete; make it again."
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
