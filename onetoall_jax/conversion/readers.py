"""Foreign files: tensors by name, read one at a time, nothing executed."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from onetoall_jax.conversion import kinds, torch_archive
from onetoall_jax.errors import UserError

_FLOATS = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}


class Source(NamedTuple):
    """Tensors of a checkpoint.

    Attributes:
      shapes, dtypes: by name, from the headers.
      read: name -> array, from the file at each call.
    """

    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, np.dtype]
    read: Callable[[str], np.ndarray]


def open_source(path: Path) -> Source:
    """A file, or a folder of safetensors with or without an index.

    Raises:
      UserError: nothing there, unreadable, a name that stands in two files, or a type
        that is no plain float.
    """
    path = Path(path)
    if path.is_dir():
        return _aliased(_safetensors(_files(path)))
    if not path.is_file():
        raise UserError(f"There is no file or folder {path}.")
    if path.suffix == ".safetensors":
        return _aliased(_safetensors([path]))
    entries = torch_archive.entries(path)
    return _aliased(
        Source(
            {name: entry.shape for name, entry in entries.items()},
            _floats({name: (path, str(e.dtype)) for name, e in entries.items()}),
            lambda name: torch_archive.read(path, name, entries[name]),
        )
    )


def _files(folder: Path) -> list[Path]:
    files = sorted(folder.glob("*.safetensors"))
    if files:
        return files
    below = sorted({p.parent.name for p in folder.glob("*/*.safetensors")})
    hint = f"give one of its folders {', '.join(below)}" if below else "give another"
    raise UserError(f"{folder} holds no *.safetensors file: {hint}.")


def _aliased(source: Source) -> Source:
    """One name for tensors that files call differently."""
    names = {kinds.ALIASES.get(name, name): name for name in sorted(source.shapes)}
    shapes = {new: source.shapes[old] for new, old in names.items()}
    dtypes = {new: source.dtypes[old] for new, old in names.items()}
    return Source(shapes, dtypes, lambda name: source.read(names[name]))


def _safetensors(files: list[Path]) -> Source:
    where: dict[str, Path] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    types: dict[str, tuple[Path, str]] = {}
    for file in files:
        for name, (shape, dtype) in _header(file).items():
            if name in where:
                raise UserError(
                    f"{name} stands in both {where[name].name} and {file.name}: "
                    "leave one of them in the folder."
                )
            where[name], shapes[name], types[name] = file, shape, (file, dtype)

    def read(name: str) -> np.ndarray:
        try:
            with safe_open(where[name], framework="numpy") as opened:
                return opened.get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise _damaged(where[name], error) from error

    return Source(shapes, _floats(types), read)


def _header(file: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    try:
        with safe_open(file, framework="numpy") as opened:
            slices = {key: opened.get_slice(key) for key in opened.keys()}
            return {k: (tuple(s.get_shape()), s.get_dtype()) for k, s in slices.items()}
    except (SafetensorError, OSError, json.JSONDecodeError) as error:
        raise _damaged(file, error) from error


def _damaged(file: Path, error: Exception) -> UserError:
    return UserError(
        f"{file} is not a whole safetensors file ({error}): fetch it again."
    )


def _floats(types: Mapping[str, tuple[Path, str]]) -> dict[str, np.dtype]:
    """Checked types of all tensors, from the names that files have for them."""
    known = _FLOATS | {str(dtype): dtype for dtype in _FLOATS.values()}
    strange = [name for name, (_, dtype) in types.items() if dtype not in known]
    if strange:
        path, dtype = types[strange[0]]
        raise UserError(
            f"{path} holds {len(strange)} tensors that are no plain floats "
            f"({strange[0]} is {dtype}): give a file in float32, bfloat16 or float16."
        )
    return {name: known[dtype] for name, (_, dtype) in types.items()}
