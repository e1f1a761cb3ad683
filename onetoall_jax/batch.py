"""The fields, shapes and types of a training batch: what the loader promises."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from onetoall_jax.geometry import Geometry

# Field -> (axes, dtype). B clips; F frames of H x W pixels; f, h, w latent grid.
FIELDS: Mapping[str, tuple[str, type]] = {
    "frames_u8": ("B F H W 3", np.uint8),  # the clip to learn, RGB 0..255
    "pose_u8": ("B F H W 3", np.uint8),  # drawn driving poses, black = no pose
    "reference_u8": ("B H W 3", np.uint8),  # reference; black where masked or dropped
    "reference_mask_u8": ("B H W", np.uint8),  # 1 = to be generated, 0 = visible
    "reference_pose_u8": ("B H W 3", np.uint8),  # pose of the reference
    "region_u8": ("B f h w", np.uint8),  # 1 = face or hand, weighted in the loss
    "keep_u8": ("B f h w", np.uint8),  # 0 = on-screen text, left out of the loss
    "row": ("B", np.int64),  # row of the data set, for logs and determinism
}
# Where latents of clips are stored, a batch has them in the place of "frames_u8".
LATENTS: tuple[str, type] = ("B f h w C", np.float32)


def sizes(batch: Mapping[str, Any]) -> tuple[int, int, int, int]:
    """(clips, frames, height, width) of a batch, with frames or with latents."""
    b, f, h, w, _ = batch["frames_u8" if "frames_u8" in batch else "pose_u8"].shape
    return b, f, h, w


@dataclasses.dataclass(frozen=True)
class BatchShape:
    """Sizes of one bucket's batch: one compiled program each."""

    batch: int
    num_frames: int
    height: int
    width: int

    def shapes(
        self, geometry: Geometry, *, latents: bool = False
    ) -> dict[str, tuple[tuple[int, ...], type]]:
        """Field -> (shape, dtype) of a batch of these sizes.

        Args:
          latents: of clips are there, rather than frames.
        """
        sizes = {
            "B": self.batch,
            "F": self.num_frames,
            "H": self.height,
            "W": self.width,
            "f": geometry.latent_frames(self.num_frames),
            "h": self.height // geometry.spatial,
            "w": self.width // geometry.spatial,
            "C": geometry.channels,
            "3": 3,
        }
        fields = dict(FIELDS)
        if latents:
            del fields["frames_u8"]
            fields["latents"] = LATENTS
        return {
            name: (tuple(sizes[a] for a in axes.split()), dtype)
            for name, (axes, dtype) in fields.items()
        }


def check(batch: Mapping[str, np.ndarray], geometry: Geometry) -> BatchShape:
    """Sizes of `batch`; ValueError names the first field that breaks the contract."""
    shape = BatchShape(*sizes(batch))
    latents = "latents" in batch
    for name, (want, dtype) in shape.shapes(geometry, latents=latents).items():
        if name not in batch:
            raise ValueError(f"the batch lacks {name!r}")
        have = batch[name]
        if have.shape != want or have.dtype != dtype:
            raise ValueError(
                f"{name} is {have.dtype} {have.shape}, not {np.dtype(dtype)} {want}"
            )
    return shape
