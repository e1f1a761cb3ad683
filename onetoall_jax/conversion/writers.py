"""Our parameters as foreign safetensors, written tensor by tensor."""

import json
import os
import shutil
import struct
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

import ml_dtypes
import numpy as np

from onetoall_jax.errors import UserError

_SHARD_BYTES = 4 << 30
_CODES = {
    np.dtype(np.float64): "F64",
    np.dtype(np.float32): "F32",
    np.dtype(np.float16): "F16",
    np.dtype(ml_dtypes.bfloat16): "BF16",
}


class Spec(NamedTuple):
    """What a tensor will be; headers come before the numbers."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize


def write(
    folder: Path,
    specs: Sequence[Spec],
    arrays: Iterable[np.ndarray],
    stem: str = "diffusion_pytorch_model",
) -> None:
    """Shards of at most 4 GiB with an index; the folder appears when it is complete.

    Args:
      specs: all tensors, in the order of `arrays`.
      arrays: read one at a time; memory never holds more.
      stem: the files' names, "<stem>.safetensors" where one file is enough.
    Raises:
      UserError: the folder exists, or it cannot be written.
    """
    folder = Path(folder)
    if folder.exists():
        raise UserError(f"{folder} exists already: choose another folder or remove it.")
    half = folder.with_name(folder.name + ".part")
    try:
        shutil.rmtree(half, ignore_errors=True)
        half.mkdir(parents=True)
        stream = iter(arrays)
        shards = _shards(specs)
        names = _names(stem, len(shards))
        for name, shard in zip(names, shards, strict=True):
            with (half / name).open("wb") as file:
                _write_shard(file, shard, stream)
        if len(shards) > 1:
            index = half / f"{stem}.safetensors.index.json"
            index.write_text(json.dumps(_index(names, shards), indent=1))
        os.replace(half, folder)
    except OSError as error:
        raise UserError(
            f"{folder} could not be written ({error.strerror or error}): nothing is "
            "left of it; make room or choose another place."
        ) from error
    finally:
        shutil.rmtree(half, ignore_errors=True)


def _shards(specs: Sequence[Spec]) -> list[list[Spec]]:
    shards: list[list[Spec]] = [[]]
    room = _SHARD_BYTES
    for spec in specs:
        if spec.nbytes > room and shards[-1]:
            shards.append([])
            room = _SHARD_BYTES
        shards[-1].append(spec)
        room -= spec.nbytes
    return shards


def _names(stem: str, count: int) -> list[str]:
    if count == 1:
        return [f"{stem}.safetensors"]
    return [f"{stem}-{i + 1:05d}-of-{count:05d}.safetensors" for i in range(count)]


def _index(names: Sequence[str], shards: Sequence[Sequence[Spec]]) -> dict:
    total = sum(spec.nbytes for shard in shards for spec in shard)
    pairs = zip(names, shards, strict=True)
    where = {spec.name: file for file, shard in pairs for spec in shard}
    return {"metadata": {"total_size": total}, "weight_map": where}


def _write_shard(
    file: BinaryIO, shard: Sequence[Spec], arrays: Iterator[np.ndarray]
) -> None:
    header: dict = {"__metadata__": {"format": "pt"}}
    start = 0
    for name, shape, dtype in shard:
        end = start + Spec(name, shape, dtype).nbytes
        span = {"shape": list(shape), "data_offsets": [start, end]}
        header[name] = {"dtype": _CODES[dtype], **span}
        start = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # numbers start at a multiple of eight bytes
    file.write(struct.pack("<Q", len(text)) + text)
    for spec in shard:
        array = np.ascontiguousarray(next(arrays), spec.dtype)
        if array.shape != spec.shape:
            raise ValueError(f"{spec.name} is {array.shape}, not {spec.shape}")
        file.write(array.reshape(-1).view(np.uint8).data)
