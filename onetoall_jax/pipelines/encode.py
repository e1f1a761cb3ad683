"""Clips to latents outside training, on all devices."""

import json
import zlib
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from onetoall_jax import pixels
from onetoall_jax.errors import UserError
from onetoall_jax.geometry import Geometry
from onetoall_jax.models import codec as codecs
from onetoall_jax.pipelines import start
from onetoall_jax.pipelines.settings import RunSettings
from onetoall_jax.sharding import mesh as meshes
from onetoall_jax.sharding import rules


def geometry(settings: RunSettings) -> Geometry:
    """Strides and channels of a run's codec."""
    return codecs.build(settings.codec, settings.model.patch).geometry


class Encoder:
    """The codec of a run: frames u8 [B,F,H,W,3] -> latents [B,f,h,w,C] float32.

    A batch is split over all devices; each size is compiled once.

    Attributes:
      clips: that a batch must be a multiple of.
      fingerprint: of the codec's parameters; see `fingerprint`.

    Raises:
      UserError: the codec's parameters are missing.
    """

    def __init__(self, settings: RunSettings):
        codec = codecs.build(settings.codec, settings.model.patch)
        mesh = meshes.build(settings.mesh)
        self._params = start.codec_params(codec, settings.codec, mesh)
        self._where = rules.batch(mesh)
        self.clips = int(np.prod([mesh.shape[axis] for axis in rules.BATCH_AXES]))
        self.fingerprint = fingerprint(self._params)
        self._encode: Callable[..., jax.Array] = jax.jit(
            lambda params, frames: codec.encode(params, pixels.scaled(frames)),
            out_shardings=self._where,
        )

    def __call__(self, frames_u8: np.ndarray) -> jax.Array:
        placed = jax.device_put(frames_u8, self._where)
        return self._encode(self._params, placed)


def fingerprint(params: object) -> str:
    """CRC-32 of all values of a codec, 8 hexadecimal digits."""
    crc = 0
    for leaf in jax.tree.leaves(params):
        crc = zlib.crc32(np.asarray(leaf).tobytes(), crc)
    return f"{crc:08x}"


def check_stored(folder: str, params: object) -> None:
    """Raises UserError if stored latents were made by a codec of other parameters."""
    path = Path(folder) / "latents.json"
    made_by = json.loads(path.read_text())["codec"] if path.is_file() else None
    if made_by != fingerprint(params):
        raise UserError(
            f"{folder} holds no finished latents of this codec (codec.params): make "
            "them with `python -m data_pipeline.cache_latents`."
        )
