"""A folder of videos and pictures in any order."""

from collections import Counter
from pathlib import Path

from data_pipeline.importers import footage
from data_pipeline.importers.footage import Footage, Item


def read(folder: Path) -> Footage:
    """Every video and picture under a folder, with key points that lie beside it.

    Raises:
      UserError: there is none.
    """
    items, others = [], Counter[str]()
    for path in footage.listed(folder):
        if footage.is_video(path) or footage.is_picture(path):
            name = path.relative_to(folder).as_posix()
            items.append(Item(name, (path,), keypoints=footage.beside(path)))
        elif path.suffix not in (".npz", ".npy"):
            others[path.suffix or "without an ending"] += 1
    told = [f"{len(items)} videos and pictures"]
    if others:
        names = ", ".join(f"{n} x {suffix}" for suffix, n in others.most_common())
        told.append(f"passed over other files: {names}")
    return footage.something(folder, "video and no picture", items, told=tuple(told))
