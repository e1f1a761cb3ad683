"""The TikTok data set: folders of frames, `NNNNN/images/NNNN.png` at 30 fps.

The archive nests its folder twice; any folder above the sequences will do. Masks and
dense poses beside the frames are not used.
"""

import itertools
from pathlib import Path

from data_pipeline.importers import footage
from data_pipeline.importers.footage import Footage, Item

_FPS = 30.0


def read(folder: Path) -> Footage:
    """Every sequence under a folder, in order; one that lacks frames is cut there.

    Raises:
      UserError: there is none.
    """
    items, gaps, strange = [], 0, 0
    for images in sorted(p for p in folder.rglob("images") if p.is_dir()):
        if not images.parent.name.isdigit():
            continue
        pictures = [p for p in images.iterdir() if footage.is_picture(p)]
        numbered = sorted((int(p.stem), p) for p in pictures if p.stem.isdigit())
        strange += len(pictures) - len(numbered)
        runs = _runs(numbered)
        gaps += len(runs) - 1 if runs else 0
        name = images.relative_to(folder).as_posix()
        for run in runs:
            whole = len(runs) == 1
            items.append(
                Item(
                    name if whole else f"{name} from {run[0].stem}",
                    tuple(run),
                    fps=_FPS,
                    keypoints=footage.beside(images) if whole else None,
                    group=name,
                )
            )
    told = [f"{len(items)} sequences of frames"]
    if gaps:
        told.append(f"cut at {gaps} places where frames are missing")
    if strange:
        told.append(f"passed over {strange} pictures whose names are no numbers")
    return footage.something(
        folder, "folder NNNNN/images with numbered frames", items, told=tuple(told)
    )


def _runs(numbered: list[tuple[int, Path]]) -> list[list[Path]]:
    """Frames cut where their numbers jump."""
    places = enumerate(numbered)
    grouped = itertools.groupby(places, lambda entry: entry[1][0] - entry[0])
    return [[path for _, (_, path) in group] for _, group in grouped]
