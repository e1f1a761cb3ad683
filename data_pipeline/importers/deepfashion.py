"""DeepFashion In-shop: pictures of people in garments, paired by lists.

Pictures lie in the tree `MEN|WOMEN/<category>/id_00000001/02_1_front.jpg` or in flat
folders under names of these parts, `fashionWOMENBlouses_Shirtsid0000000102_1front.jpg`.
Pairs come from tables with the columns `from` and `to`; without such a table all
pictures of one person in one garment are paired.
"""

import itertools
import re
from collections.abc import Iterator
from pathlib import Path

from data_pipeline.importers import footage
from data_pipeline.importers.footage import Footage, Item, Pair
from onetoall_jax.errors import UserError

_TREE = re.compile(r"(MEN|WOMEN)/([^/]+)/id_(\d{8})/(\d\d)_([^/]+)$")
_FLAT = re.compile(r"fashion(MEN|WOMEN)(.+?)id(\d{8})(\d\d)_(\w+)$")
_SPLITS = ("train", "test")


def read(folder: Path) -> Footage:
    """Pictures under a folder and their pairs.

    Raises:
      UserError: there is no picture of either naming.
    """
    pictures = _pictures(folder)
    splits = {name: s for s in _SPLITS for name in _list(folder, f"{s}.lst")}
    items = [
        Item(
            name,
            (path,),
            keypoints=footage.beside(path),
            group="".join(_parts(name)[:3]),
            split=splits.get(name),
        )
        for name, path in sorted(pictures.items())
    ]
    told = [f"{len(items)} pictures"]
    tables = [p for p in footage.listed(folder) if "pairs" in p.name.lower()]
    tables = [p for p in tables if p.suffix == ".csv"]
    pairs, absent = [], 0
    for table in tables:
        split = next((s for s in _SPLITS if s in table.stem.lower()), None)
        for source, target in _rows(table):
            if source in pictures and target in pictures:
                pairs.append(Pair(target, source, split))
            else:
                absent += 1
    if not tables:
        pairs = list(_same_garment(items))
        told.append("no table of pairs: same person, same garment")
    told.append(f"{len(pairs)} pairs")
    if absent:
        told.append(f"passed over {absent} pairs whose pictures are not there")
    return footage.something(
        folder,
        "MEN/… or WOMEN/… tree of pictures, nor flat fashionMEN…jpg names",
        items,
        pairs=tuple(pairs),
        told=tuple(told),
    )


def flat_name(path: str) -> str | None:
    """Flat name of a picture's path, both without ending; None if it is strange."""
    tree = _TREE.search(path)
    if tree:
        gender, category, person, garment, rest = tree.groups()
        return f"fashion{gender}{category}id{person}{garment}_{rest.replace('_', '')}"
    name = path.rsplit("/", 1)[-1]
    return name if _FLAT.match(name) else None


def _parts(name: str) -> tuple[str, ...]:
    """Gender, category, person, garment and view of a flat name."""
    found = _FLAT.match(name)
    assert found is not None, name
    return found.groups()


def _pictures(folder: Path) -> dict[str, Path]:
    """Pictures by flat name; of two copies the one in a folder of high resolution."""
    found: dict[str, Path] = {}
    for path in footage.listed(folder):
        if not footage.is_picture(path):
            continue
        name = flat_name(path.with_suffix("").as_posix())
        if name and (name not in found or "highres" in path.as_posix()):
            found[name] = path
    return found


def _list(folder: Path, name: str) -> Iterator[str]:
    for path in footage.listed(folder):
        if path.name == name:
            for line in path.read_text(errors="replace").split():
                yield Path(line).stem


def _rows(table: Path) -> Iterator[tuple[str, str]]:
    """(source, target) flat names of a table of pairs.

    Raises:
      UserError: it lacks the columns.
    """
    if not {"from", "to"} <= footage.columns(table):
        raise UserError(f"{table} is no table of pairs: it needs columns from, to.")
    for row in footage.rows(table):
        yield Path(row["from"]).stem, Path(row["to"]).stem


def _same_garment(items: list[Item]) -> Iterator[Pair]:
    by_garment = itertools.groupby(items, lambda item: _parts(item.name)[:4])
    for _, group in by_garment:
        for target, source in itertools.permutations(group, 2):
            yield Pair(target.name, source.name, target.split)
