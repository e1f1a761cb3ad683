"""The official release's data: tables of videos and picture pairs, and pose files.

A table is known by its columns. Where the combined table lies beside the others, it is
taken alone, as the release does. Paths are looked for as they stand, under the table's
folder, and under it without their first parts, for tables written on another machine.
"""

import ast
import csv
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from data_pipeline.importers import footage
from data_pipeline.importers.footage import Footage, Item, Pair
from onetoall_jax.errors import UserError

_VIDEO = {"path", "pose_path", "height", "width", "num_frames"}
_PICTURE = {"path", "target_path", "pose_path"}
_COMBINED = {"path", "img_pairs"}
_MORE_SECONDS = 2  # that the release lets a clip go on past its end
Row = Mapping[str, str]


class _AbsentError(Exception):
    """A row names a file that is not there."""


def read(folder: Path) -> Footage:
    """Clips and pairs of all tables in a folder.

    Raises:
      UserError: no table of the release, or one whose rows name no file.
    """
    csv.field_size_limit(sys.maxsize)  # boxes of a long video are a long field
    tables = {path: _columns(path) for path in sorted(folder.glob("*.csv"))}
    combined = [p for p, columns in tables.items() if columns >= _COMBINED]
    chosen = combined or [
        p for p, columns in tables.items() if columns >= _VIDEO or columns >= _PICTURE
    ]
    found, told = _Found(folder), []
    for path in chosen:
        before = len(found.items), len(found.pairs)
        for row in _rows(path):
            found.add(row)
        told.append(
            f"{path.name}: {len(found.items) - before[0]} videos and pictures, "
            f"{len(found.pairs) - before[1]} pairs"
        )
    passed = [p.name for p in tables if p not in chosen]
    if passed:
        told.append(f"passed over the tables {', '.join(passed)}")
    if found.absent:
        told.append(
            f"passed over {len(found.absent)} rows whose files are not there, as "
            f"{found.absent[0]}"
        )
    wanted = "table of the release whose files are there"
    pairs, items = tuple(found.pairs), list(found.items.values())
    return footage.something(folder, wanted, items, pairs=pairs, told=tuple(told))


def _columns(path: Path) -> set[str]:
    with open(path, newline="", errors="replace") as file:
        return set(next(csv.reader(file), ()))


def _rows(path: Path) -> Iterator[Row]:
    with open(path, newline="", errors="replace") as file:
        try:
            yield from csv.DictReader(file)
        except csv.Error as error:
            raise UserError(f"{path} is no table: {error}.") from error


class _Found:
    """Items and pairs of the rows seen so far."""

    def __init__(self, folder: Path):
        self._folder = folder
        self.items: dict[str, Item] = {}
        self.pairs: list[Pair] = []
        self.absent: list[str] = []

    def add(self, row: Row) -> None:
        """Takes one row of any table."""
        try:
            if _text(row, "img_pairs"):
                for entry in _pairs(row["img_pairs"]):
                    self._pair(entry["src_path"], entry["tgt_path"],
                               entry["tgt_pose_path"], entry, row)  # fmt: skip
            elif _text(row, "target_path"):
                self._pair(row["path"], row["target_path"], row["pose_path"], row, row)
            else:
                self._video(row)
        except _AbsentError as error:
            self.absent.append(str(error))

    def _video(self, row: Row) -> None:
        path, poses = self._there(row["path"]), self._there(row["pose_path"])
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
            fps=fps,
            keypoints=poses,
            size=_size(row),
            first=int(first or 0),
            end=None if end is None else int(end),
            cut=False,
            group=row["path"],
            caption=_text(row, "qwen_caption"),
            text_boxes=_text(row, "all_ocr_bbox") or "[]",
        )

    def _pair(self, source: str, target: str, pose: str, told: Row, row: Row) -> None:
        beside = str(Path(source).with_suffix("")) + "_pose.npy"
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
            raise _AbsentError(text)
        return path


def _text(row: Row, name: str) -> str:
    text = row.get(name) or ""
    return "" if text.lower() == "nan" else text


def _number(row: Row, name: str) -> float | None:
    """A number of a row; None where the row has none.

    Raises:
      UserError: it is no number.
    """
    text = _text(row, name)
    try:
        return float(text) if text else None
    except ValueError as error:
        raise UserError(
            f"The table gives {text!r} as {name}: give a number."
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
    except (ValueError, SyntaxError, AttributeError, TypeError, MemoryError) as error:
        raise UserError(f"The pairs {text[:60]!r}… of the table are broken.") from error
