"""UBC Fashion: clips `train/*.mp4` and `test/*.mp4`, lists of addresses beside them."""

import urllib.parse
from pathlib import Path

from data_pipeline.importers import footage
from data_pipeline.importers.footage import Footage, Item

_SPLITS = ("train", "test")


def read(folder: Path) -> Footage:
    """Clips in the folders of the two splits, or loose ones that the lists name.

    Raises:
      UserError: there is none.
    """
    listed = {split: _names(folder / f"fashion_{split}.txt") for split in _SPLITS}
    items, without = [], 0
    for path in footage.listed(folder):
        if not footage.is_video(path):
            continue
        inside = path.relative_to(folder).parts[0]
        splits = [s for s in _SPLITS if inside == s or path.name in listed[s]]
        if not splits:
            without += 1
            continue
        name = path.relative_to(folder).as_posix()
        keypoints = footage.beside(path)
        items.append(Item(name, (path,), keypoints=keypoints, split=splits[0]))
    there = {item.files[0].name for item in items}
    counts = ", ".join(f"{sum(i.split == s for i in items)} to {s}" for s in _SPLITS)
    told = [f"{len(items)} clips: {counts}"]
    absent = [name for names in listed.values() for name in names if name not in there]
    if absent:
        told.append(f"{len(absent)} listed clips are not there, as {absent[0]}")
    if without:
        told.append(f"passed over {without} videos that are in no split")
    wanted = "video in train or test, nor one that fashion_train.txt names"
    return footage.something(folder, wanted, items, told=tuple(told))


def _names(path: Path) -> list[str]:
    """Last parts of the addresses in a list; none where there is no list."""
    if not path.is_file():
        return []
    lines = path.read_text(errors="replace").split()
    return [urllib.parse.unquote(line.rsplit("/", 1)[-1]) for line in lines]
