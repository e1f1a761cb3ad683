"""Our parameters as foreign safetensors."""

import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from onetoall_jax.errors import UserError

_SHARD_BYTES = 4 << 30
_STEM = "diffusion_pytorch_model"


def write(folder: Path, tensors: Iterable[tuple[str, np.ndarray]]) -> None:
    """Shards of at most 4 GiB with an index; the folder appears when it is complete.

    Raises:
      UserError: the folder exists, or the disk is full.
    """
    folder = Path(folder)
    if folder.exists():
        raise UserError(f"{folder} exists already: choose another folder or remove it.")
    half = folder.with_name(folder.name + ".part")
    shutil.rmtree(half, ignore_errors=True)
    half.mkdir(parents=True)
    try:
        shards = _shards(half, tensors)
        _name(half, shards)
        os.replace(half, folder)
    except OSError as error:
        shutil.rmtree(half, ignore_errors=True)
        raise UserError(f"{folder} could not be written: {error}.") from error


def _shards(half: Path, tensors: Iterable[tuple[str, np.ndarray]]) -> list[list[str]]:
    """Writes numbered files; -> the names in each."""
    shards: list[list[str]] = []
    held: dict[str, np.ndarray] = {}

    def flush() -> None:
        if held:
            save_file(held, half / f"{len(shards)}", metadata={"format": "pt"})
            shards.append(list(held))
            held.clear()

    for name, tensor in tensors:
        if sum(t.nbytes for t in held.values()) + tensor.nbytes > _SHARD_BYTES:
            flush()
        held[name] = tensor
    flush()
    return shards


def _name(half: Path, shards: list[list[str]]) -> None:
    if len(shards) == 1:
        os.replace(half / "0", half / f"{_STEM}.safetensors")
        return
    where, total = {}, 0
    for i, names in enumerate(shards):
        file = f"{_STEM}-{i + 1:05d}-of-{len(shards):05d}.safetensors"
        os.replace(half / f"{i}", half / file)
        total += (half / file).stat().st_size
        where.update(dict.fromkeys(names, file))
    index = {"metadata": {"total_size": total}, "weight_map": where}
    (half / f"{_STEM}.safetensors.index.json").write_text(json.dumps(index, indent=1))
