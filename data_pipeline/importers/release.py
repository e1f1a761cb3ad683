"""The official release's data: tables of videos and picture pairs, and pose files.

A table is known by its columns. Where the combined table lies beside the others, it is
taken alone, as the release does. Paths are looked for as they stand, under the table's
folder, and under it without their first parts, for tables written on another machine.
"""

import ast
import os
from collections.abc import Mapping
from pathlib import Path

from data_pipeline.importers import footage
from data_pipeline.importers.footage import Footage, Item, Pair
from onetoall_jax.errors import UserError

_VIDEO = {"path", "pose_path", "height", "width", "num_frames"}
_PICTURE = {"path", "target_path", "pose_path"}
_COMBINED = {"path", "img_pairs"}
_LARGEST = 1e9  # of any number in a table
_MORE_SECONDS = 2  # that the release lets a clip go on past its end
Row = Mapping[str, str]


def read(folder: Path) -> Footage:
    """Clips and pairs of all tables in a folder.

    Raises:
      UserError: no table of the release, or one whose rows name no file.
    """
    tables = {path: footage.columns(path) for path in sorted(folder.glob("*.csv"))}
    combined = [p for p, columns in tables.items() if columns >= _COMBINED]
    chosen = combined or [
        p for p, columns in tables.items() if columns >= _VIDEO or columns >= _PICTURE
    ]
    found, told = _Found(folder), []
    for path in chosen:
        before = len(found.items), len(found.pairs)
        for row in footage.rows(path):
            found.add(row)
        told.append(
            f"{path.name}: {len(found.items) - before[0]} videos and pictures, "
            f"{len(found.pairs) - before[1]} pairs"
        )
    passed = [p.name for p in tables if p not in chosen]
    if passed:
        told.append(f"passed over the tables {', '.join(passed)}")
    if found.passed:
        told.append(f"passed over {len(found.passed)} rows, first: {found.passed[0]}")
    wanted = "table of the release whose files are there"
    pairs, items = tuple(found.pairs), list(found.items.values())
    return footage.something(folder, wanted, items, pairs=pairs, told=tuple(told))


class _Found:
    """Items and pairs of the rows seen so far."""

    def __init__(self, folder: Path):
        self._folder = folder
        self.items: dict[str, Item] = {}
        self.pairs: list[Pair] = []
        self.passed: list[str] = []

    def add(self, row: Row) -> None:
        """Takes one row of any table."""
        try:
            if _text(row, "img_pairs"):
                for entry in _pairs(row["img_pairs"]):
                    names = ("src_path", "tgt_path", "tgt_pose_path")
                    self._pair([_text(entry, n) for n in names], entry, row)
            elif _text(row, "target_path"):
                names = ("path", "target_path", "pose_path")
                self._pair([_text(row, n) for n in names], row, row)
            else:
                self._video(row)
        except UserError as error:  # of a hundred thousand rows some are broken
            self.passed.append(str(error))

    def _video(self, row: Row) -> None:
        path, poses = (self._there(_text(row, n)) for n in ("path", "pose_path"))
        fps, first, end = (_number(row, n) for n in ("fps", "start_frame", "end_frame"))
        total = _number(row, "num_frames")
        if end is not None and total is not None:
            end = min(end + _MORE_SECONDS * (fps or 0), total)
        name = row["path"]
        if first is not None:
            name += f" from {first:.0f}"
        if name in self.items:
            return
        self.items[name] = Item(
            name,
            (path,),
            fps=fps or None,
            keypoints=poses,
            size=_size(row),
            first=int(first or 0),
            end=None if end is None else int(end),
            cut=False,
            group=row["path"],
            caption=_text(row, "qwen_caption"),
            text_boxes=_text(row, "all_ocr_bbox") or "[]",
            starts=_frames(row, "train_start_index"),
            references=_frames(row, "refimg_index"),
        )

    def _pair(self, paths: list[str], told: Row, row: Row) -> None:
        source, target, pose = paths
        beside = os.path.splitext(source)[0] + "_pose.npy"
        names = []
        for picture, points in ((target, pose), (source, beside)):
            path, poses = self._there(picture), self._there(points)
            self.items.setdefault(
                picture, Item(picture, (path,), keypoints=poses, size=_size(row))
            )
            names.append(picture)
        caption = _text(told, "qwen_caption")
        self.pairs.append(Pair(names[0], names[1], caption=caption))

    def _there(self, text: str) -> Path:
        """The file of a path in a table."""
        path = footage.there(self._folder, text)
        if path is None:
            raise UserError(f"There is no file {text}.")
        return path


def _text(row: Row, name: str) -> str:
    text = row.get(name) or ""
    return "" if text.lower() == "nan" else text


def _number(row: Row, name: str) -> float | None:
    """A number of a row; None where the row has none.

    Raises:
      UserError: it is none, negative or without end.
    """
    text = _text(row, name)
    try:
        number = float(text) if text else None
    except ValueError:
        number = -1
    if number is not None and not 0 <= number < _LARGEST:
        raise UserError(f"A table gives {text[:60]!r} as {name}: give a number.")
    return number


def _frames(row: Row, name: str) -> tuple[int, ...]:
    """Numbers of frames, as Python writes a list or one of them.

    Raises:
      UserError: something else.
    """
    text = _text(row, name)
    try:
        told = ast.literal_eval(text) if text else []
        numbers = [
            float(n) for n in (told if isinstance(told, list | tuple) else [told])
        ]
        if not all(n.is_integer() and 0 <= n < _LARGEST for n in numbers):
            raise ValueError
        return tuple(int(n) for n in numbers)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise UserError(
            f"A table gives {text[:60]!r} as {name}: give a list of frames."
        ) from error


def _size(row: Row) -> tuple[int, int] | None:
    height, width = _number(row, "height"), _number(row, "width")
    return (int(height), int(width)) if height and width else None


def _pairs(text: str) -> list[dict[str, str]]:
    """Pairs of a group, as Python writes lists of dictionaries.

    Raises:
      UserError: broken.
    """
    try:
        entries = ast.literal_eval(text.replace(": nan", ": ''"))
        return [{k: str(v) for k, v in entry.items()} for entry in entries]
    except (
        ValueError, SyntaxError, AttributeError, TypeError, MemoryError, RecursionError
    ) as error:  # fmt: skip
        raise UserError(f"The pairs {text[:60]!r}… of the table are broken.") from error
