"""State dicts in PyTorch's zip archives, read without PyTorch, nothing executed."""

import collections
import io
import pickle
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from onetoall_jax.errors import UserError

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
# What a broken pickle may raise besides UnpicklingError.
_BROKEN = (
    pickle.UnpicklingError, EOFError, AttributeError, IndexError, KeyError, TypeError,
    ValueError, OverflowError,
)  # fmt: skip


class Entry(NamedTuple):
    """A tensor's place in the archive; offset and stride count elements."""

    file: str
    dtype: np.dtype
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


class _RefusedError(Exception):
    """The pickle asks for a name that no state dict needs."""


def entries(path: Path) -> dict[str, Entry]:
    """Tensors by name, of a flat state dict or of one under the name "module".

    Raises:
      UserError: no such archive, damaged, or one that asks for more than tensors.
    """
    if not zipfile.is_zipfile(path):
        raise UserError(
            f"{path} is neither safetensors nor a .pth archive: it is cut short or "
            "of another format."
        )
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        pickled = next((n for n in names if n.endswith("/data.pkl")), None)
        if pickled is None:
            raise UserError(f"{path} is a zip archive, but no checkpoint.")
        root = pickled.removesuffix("data.pkl")
        order = root + "byteorder"
        if order in names and archive.read(order) != b"little":
            raise UserError(f"{path} was written big-endian, which is not read here.")
        try:
            made = _Unpickler(io.BytesIO(archive.read(pickled)), f"{root}data/").load()
        except _RefusedError as error:
            raise UserError(
                f"{path} asks for {error}, which no plain state dict needs: refused."
            ) from error
        except (*_BROKEN, zipfile.BadZipFile) as error:
            raise _damaged(path, str(error)) from error
    if isinstance(made, dict) and isinstance(made.get("module"), dict):
        made = made["module"]
    if not isinstance(made, dict) or not all(
        isinstance(k, str) and isinstance(v, Entry) for k, v in made.items()
    ):
        raise UserError(f"{path} holds more than tensors by name: not a state dict.")
    return made


def read(path: Path, name: str, entry: Entry) -> np.ndarray:
    """One tensor, read from the archive.

    Raises:
      UserError: its bytes are missing or too few.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            data = archive.read(entry.file)
    except (KeyError, OSError, zipfile.BadZipFile) as error:
        raise _damaged(path, str(error)) from error
    if not all(entry.shape):
        return np.empty(entry.shape, entry.dtype)
    last = entry.offset + sum(
        (n - 1) * step for n, step in zip(entry.shape, entry.stride, strict=True)
    )
    # Numbers from the file decide what memory is looked at: never past its own bytes.
    inside = entry.offset >= 0 and min((0, *entry.shape, *entry.stride)) >= 0
    if not inside or (last + 1) * entry.dtype.itemsize > len(data):
        raise _damaged(path, f"{name} reaches beyond its bytes")
    count = len(data) // entry.dtype.itemsize
    flat = np.frombuffer(data, entry.dtype, count)[entry.offset :]
    steps = [step * entry.dtype.itemsize for step in entry.stride]
    return np.lib.stride_tricks.as_strided(flat, entry.shape, steps, writeable=False)


def _damaged(path: Path, why: str) -> UserError:
    return UserError(f"{path} is damaged ({why}): fetch it again.")


def _rebuild(storage: tuple, offset: int, size: tuple, stride: tuple, *_: Any) -> Entry:
    file, dtype = storage
    shape, steps = tuple(map(int, size)), tuple(map(int, stride))
    if len(shape) != len(steps):
        raise ValueError("sizes and strides differ in length")
    return Entry(file, dtype, int(offset), shape, steps)


class _Unpickler(pickle.Unpickler):
    """Knows tensors and ordered dictionaries; every other name is refused."""

    _KNOWN = {
        ("collections", "OrderedDict"): collections.OrderedDict,
        ("torch._utils", "_rebuild_tensor_v2"): _rebuild,
        ("torch._utils", "_rebuild_parameter"): lambda data, *_: data,
        ("torch", "Size"): tuple,
    }

    def __init__(self, file: io.BytesIO, folder: str):
        super().__init__(file)
        self._folder = folder

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in self._KNOWN:
            return self._KNOWN[module, name]
        if module in ("torch", "torch.storage") and name in _DTYPES:
            return np.dtype(_DTYPES[name])
        raise _RefusedError(f"{module}.{name}")

    def persistent_load(self, pid: tuple) -> tuple[str, np.dtype]:
        _, dtype, key, _, _ = pid
        if not isinstance(dtype, np.dtype):
            raise _RefusedError(f"a storage of {dtype}")
        return f"{self._folder}{key}", dtype
