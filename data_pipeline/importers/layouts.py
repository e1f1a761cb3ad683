"""All layouts by name."""

from collections.abc import Callable
from pathlib import Path

from data_pipeline.importers import deepfashion, plain, release, tiktok, ubc_fashion
from data_pipeline.importers.footage import Footage
from onetoall_jax.errors import UserError

LAYOUTS: dict[str, Callable[[Path], Footage]] = {
    "folder": plain.read,
    "onetoall": release.read,
    "tiktok": tiktok.read,
    "ubc_fashion": ubc_fashion.read,
    "deepfashion": deepfashion.read,
}


def read(layout: str, folder: Path) -> Footage:
    """What a folder of a layout holds.

    Raises:
      UserError: an unknown layout, no such folder, or nothing in it that fits.
    """
    if layout not in LAYOUTS:
        raise UserError(
            f"There is no layout {layout!r}: choose from {sorted(LAYOUTS)}."
        )
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder}.")
    return LAYOUTS[layout](folder)
