"""Foreign files: tensors by name, read one at a time, nothing executed."""

import collections
import io
import json
import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from onetoall_jax.conversion import kinds
from onetoall_jax.errors import UserError


class Source(NamedTuple):
    """Tensors of a checkpoint.

    Attributes:
      shapes: name -> shape.
      read: name -> array, from the file at each call.
    """

    shapes: Mapping[str, tuple[int, ...]]
    read: Callable[[str], np.ndarray]


def open_source(path: Path) -> Source:
    """A file, or a folder of safetensors with or without an index.

    Raises:
      UserError: nothing there, unreadable, or a name that stands in two files.
    """
    path = Path(path)
    if path.is_dir():
        files = sorted(path.glob("*.safetensors"))
        if not files:
            raise UserError(f"{path} holds no *.safetensors file.")
        return _aliased(_safetensors(files))
    if not path.is_file():
        raise UserError(f"There is no file or folder {path}.")
    if path.suffix == ".safetensors":
        return _aliased(_safetensors([path]))
    if zipfile.is_zipfile(path):
        return _aliased(_pth(path))
    raise UserError(
        f"{path} is neither safetensors nor a .pth archive: it may be cut short."
    )


def _aliased(source: Source) -> Source:
    """One name for tensors that files call differently."""
    names = {kinds.ALIASES.get(name, name): name for name in sorted(source.shapes)}
    shapes = {new: source.shapes[old] for new, old in names.items()}
    return Source(shapes, lambda name: source.read(names[name]))


def _safetensors(files: list[Path]) -> Source:
    where: dict[str, Path] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for file in files:
        for name, shape in _header(file).items():
            if name in where:
                raise UserError(f"{name} stands in {where[name].name} and {file.name}.")
            where[name], shapes[name] = file, shape

    def read(name: str) -> np.ndarray:
        with safe_open(where[name], framework="numpy") as opened:
            return opened.get_tensor(name)

    return Source(shapes, read)


def _header(file: Path) -> dict[str, tuple[int, ...]]:
    try:
        with safe_open(file, framework="numpy") as opened:
            return {k: tuple(opened.get_slice(k).get_shape()) for k in opened.keys()}
    except (SafetensorError, OSError, json.JSONDecodeError) as error:
        raise UserError(
            f"{file} is not a whole safetensors file ({error}): fetch it again."
        ) from error


_DTYPES = {
    "FloatStorage": np.float32,
    "DoubleStorage": np.float64,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}


class _Lazy(NamedTuple):
    """A tensor's place in the archive."""

    entry: str
    dtype: np.dtype
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


def _rebuild(storage: tuple, offset: int, size: tuple, stride: tuple, *_: Any) -> _Lazy:
    entry, dtype = storage
    return _Lazy(entry, dtype, offset, tuple(size), tuple(stride))


class _Unpickler(pickle.Unpickler):
    """Knows tensors and ordered dictionaries; every other name is refused."""

    _KNOWN = {
        ("collections", "OrderedDict"): collections.OrderedDict,
        ("torch._utils", "_rebuild_tensor_v2"): _rebuild,
        ("torch._utils", "_rebuild_parameter"): lambda data, *_: data,
        ("torch", "Size"): tuple,
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in self._KNOWN:
            return self._KNOWN[module, name]
        if module in ("torch", "torch.storage") and name in _DTYPES:
            return np.dtype(_DTYPES[name])
        raise pickle.UnpicklingError(f"{module}.{name}")

    def persistent_load(self, pid: tuple) -> tuple[str, np.dtype]:
        _, dtype, key, _, _ = pid
        return key, dtype


def _pth(path: Path) -> Source:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        pickled = next((n for n in names if n.endswith("/data.pkl")), None)
        if pickled is None:
            raise UserError(f"{path} is a zip archive, but no checkpoint.")
        root = pickled.removesuffix("data.pkl")
        if (
            root + "byteorder" in names
            and archive.read(root + "byteorder") != b"little"
        ):
            raise UserError(f"{path} was written big-endian, which is not read here.")
        try:
            tensors = _Unpickler(io.BytesIO(archive.read(pickled))).load()
        except pickle.UnpicklingError as error:
            raise UserError(
                f"{path} asks for {error}, which no plain state dict needs: refused."
            ) from error
    if not all(isinstance(v, _Lazy) for v in tensors.values()):
        raise UserError(f"{path} holds more than tensors by name: not a state dict.")

    def read(name: str) -> np.ndarray:
        lazy = tensors[name]
        with zipfile.ZipFile(path) as archive:
            flat = np.frombuffer(archive.read(f"{root}data/{lazy.entry}"), lazy.dtype)
        if not all(lazy.shape):
            return np.empty(lazy.shape, lazy.dtype)
        steps = [s * lazy.dtype.itemsize for s in lazy.stride]
        return np.lib.stride_tricks.as_strided(flat[lazy.offset :], lazy.shape, steps)

    return Source({name: lazy.shape for name, lazy in tensors.items()}, read)
