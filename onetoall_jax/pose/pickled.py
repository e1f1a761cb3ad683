"""Pickled `.npy` files of dictionaries, read without trusting them.

numpy's own classes are not let near the pickle: a false state of theirs ends the
process. Stand-ins take their place and keep plain data.
"""

import pickle
import re
import struct
import tokenize
from typing import Any, BinaryIO

import numpy as np

_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
_NUMBERS = {"f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1"}
# What a broken pickle may raise, and numpy's reading of a broken header.
_BROKEN = (
    pickle.UnpicklingError, EOFError, AttributeError, IndexError, KeyError, TypeError,
    ValueError, OverflowError, MemoryError, RecursionError, SyntaxError,
    AssertionError, struct.error, tokenize.TokenError,
)  # fmt: skip


class RefusedError(Exception):
    """The file is damaged, of other contents, or asks for more than numbers."""


class _Dtype:
    """Stands in for a numpy dtype: its code and byte order."""

    def __init__(self, code: str, *_: Any):
        self.code, self.order = code, "="

    def __setstate__(self, state: tuple) -> None:
        self.order = state[1]

    def of(self, data: bytes) -> np.ndarray:
        """The numbers of `data`, one axis."""
        if self.code not in _NUMBERS:
            raise ValueError(f"it holds {self.code}, not numbers")
        order: Any = self.order
        return np.frombuffer(data, np.dtype(self.code).newbyteorder(order))


class _Array:
    """Stands in for a numpy array; objects are a flat list."""

    value: Any = None

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, by_columns, data = state
        if isinstance(data, list):
            self.value = data
        else:
            self.value = dtype.of(data).reshape(shape, order="F" if by_columns else "C")


class _Unpickler(pickle._Unpickler):
    """Knows numpy arrays and numbers; every other name is refused.

    The one in Python: the fast one reserves gigabytes for a false memo number.
    """

    def find_class(self, module: str, name: str) -> Any:
        module = re.sub(r"^numpy\.core\.", "numpy._core.", module)  # numpy before 2
        # Made anew each time: a pickle may set attributes of what it is given.
        known = {
            "numpy.ndarray": None,
            "numpy.dtype": lambda *words: _Dtype(*words),
            "numpy._core.multiarray._reconstruct": lambda *_: _Array(),
            "numpy._core.multiarray.scalar": lambda dtype, data: dtype.of(data)[0],
        }
        if f"{module}.{name}" not in known:
            raise RefusedError(
                f"asks for {module}.{name} when it is read, which numbers do not need"
            )
        return known[f"{module}.{name}"]


def read(file: BinaryIO) -> list[dict]:
    """The dictionaries of an object array; arrays and numbers in them are numpy's.

    Raises:
      RefusedError: says what is wrong, to be put after the file's name.
    """
    try:
        version = np.lib.format.read_magic(file)
        _, _, dtype = _HEADERS[version](file)
        if dtype != np.dtype(object):
            raise ValueError(f"it holds {dtype}, not dictionaries")
        made = _Unpickler(file).load()
        if not isinstance(made, _Array) or not made.value:
            raise ValueError("it holds no dictionary")
        return [_plain(entry) for entry in made.value]
    except _BROKEN as error:
        raise RefusedError(f"is no array of dictionaries: {error!r}") from error


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    return value.value if isinstance(value, _Array) else value
