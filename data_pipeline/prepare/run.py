"""Surveys, screens and stores; what is finished is noted, so a killed run goes on."""

import contextlib
import dataclasses
import fcntl
import functools
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from data_pipeline import builder
from data_pipeline.builder import Coded, Shard
from data_pipeline.importers.footage import Footage
from data_pipeline.prepare import examine, poses, report, store, survey, workers
from data_pipeline.prepare.examine import Found, Seen
from data_pipeline.prepare.screening import ScreenConfig
from data_pipeline.prepare.settings import PrepareConfig
from data_pipeline.prepare.store import Task
from onetoall_jax.errors import UserError

_SHARD = 256 << 20  # bytes of a file, about: as much is held in memory to write it
# (work to do, pieces, result of a piece that was lost, name) -> results in order
Runner = Callable[[Callable, Sequence, Callable, str], list]


class Result(NamedTuple):
    """What became of footage.

    Attributes:
      found: all clips; rows: of the set.
    """

    found: list[Found]
    rows: int


def local(count: int) -> Runner:
    """Runs stages on `count` processes of this machine, with progress and time left."""

    def run(function: Callable, pieces: Sequence, lost: Callable, name: str) -> list:
        made: list[Any] = [None] * len(pieces)
        done = workers.results(function, pieces, count, lost)
        for number, result in tqdm(done, name, len(pieces), mininterval=2):
            made[number] = result
        return made

    return run


def prepare(
    footage: Footage,
    output: Path,
    config: PrepareConfig,
    run: Runner,
    beam: Any = None,
) -> Result:
    """Writes the data set and its report.

    Args:
      run: how stages are run, see `local`.
      beam: TFDS's download config with a Beam runner, which writes the files.
    Raises:
      UserError: nothing good enough, no detector, no room on the disk, a set that is
        there already, or another run at work on it.
    """
    if builder.exists(output):
        raise UserError(f"{output} already holds a data set: choose another.")
    config = _with_detector(footage, config)
    work = output.with_name(output.name + ".work")
    try:
        with _alone(work):
            return _prepared(footage, output, work, config, run, beam)
    except OSError as error:
        if not builder.is_full(error):
            raise
        raise UserError(_full(output)) from error


def _full(output: Path) -> str:
    return (
        f"There is no room left on the disk of {output}: make some and give the same "
        "command again, it goes on where it stood."
    )


def _with_detector(footage: Footage, config: PrepareConfig) -> PrepareConfig:
    """The same with the detector that is meant, if one is needed."""
    if all(item.keypoints is not None for item in footage.items):
        return config
    where = Path(config.models), Path(config.environment)
    return dataclasses.replace(config, detector=poses.chosen(config.detector, *where))


@contextlib.contextmanager
def _alone(work: Path) -> Iterator[None]:
    """Holds the folder of notes; removes it when all went well."""
    work.mkdir(parents=True, exist_ok=True)
    with open(work / "lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"Another run is at work in {work}: wait for it."
            ) from error
        yield
    shutil.rmtree(work)


def _prepared(
    footage: Footage,
    output: Path,
    work: Path,
    config: PrepareConfig,
    run: Runner,
    beam: Any,
) -> Result:
    look = functools.partial(examine.examine, work, config)
    by_item = run(look, footage.items, examine.lost, "looked at")
    found = [clip for clips in by_item for clip in clips]
    for clip in found:
        if report.kind(clip) == "unreadable":
            tqdm.write(f"skipped: {clip.reason}")
    paired = {name for pair in footage.pairs for name in (pair.target, pair.source)}
    found = without_duplicates(found, config.screen, paired)
    rows = _planned(footage, found)
    if not rows:
        out = (report.kind(c) for c in found if c.reason is not None)
        counts = Counter(out).most_common(3)
        why = "; ".join(f"{n} x {kind}" for kind, n in counts)
        raise UserError(f"No clip is good enough to train on: {why}.")
    splits = split([(r.group, r.split) for r in rows], config.test_every)
    keep = functools.partial(store.store, work, config)
    stored = run(keep, [r.task for r in rows], store.lost, "stored")
    lost = [sizes for sizes in stored if isinstance(sizes, str)]
    for sentence in lost:
        tqdm.write(f"skipped: {sentence}")
    shards, sizes = {}, {}
    for name, members in splits.items():
        whole = [i for i in members if not isinstance(stored[i], str)]
        files = [p for i in whole for p in store.paths(work, config, rows[i].task)]
        shards[name], sizes[name] = (
            _shards(files),
            [s for i in whole for s in stored[i]],
        )
    _check_room(output, work)
    builder.write_shards(output, shards, sizes, beam)
    told = {
        "rows": {name: len(every) for name, every in sizes.items()},
        "pairs": sum(r.task.source is not None for r in rows),
        "pairs_left_out": len(footage.pairs)
        - sum(r.task.source is not None for r in rows),
        "lost_while_storing": lost,
        "text_regions": _text_told(config, footage),
        "key_points": _poses_told(config, footage),
        "layout": list(footage.told),
    }
    report.write(output / "report", found, told, _thumbnails(work, config, footage))
    return Result(found, sum(len(every) for every in sizes.values()))


class _Planned(NamedTuple):
    """Rows of one pass, which come into one split."""

    task: Task
    group: str
    split: str | None


def _planned(footage: Footage, found: Sequence[Found]) -> list[_Planned]:
    """All rows to be made: of items in order, then of pairs."""
    items = {item.name: item for item in footage.items}
    kept: dict[str, list[tuple[int, int]]] = {}
    for clip in found:
        if clip.reason is None:
            kept.setdefault(clip.source, []).append((clip.first, clip.end))
    paired = {name for pair in footage.pairs for name in (pair.target, pair.source)}
    made = []
    for name, clips in kept.items():
        item = items[name]
        if name not in paired:
            task = Task(item, tuple(clips))
            made.append(_Planned(task, item.group or name, item.split))
    for pair in footage.pairs:
        if pair.target in kept and pair.source in kept:
            target = items[pair.target]
            task = Task(target, ((0, 1),), items[pair.source], pair.caption)
            where = pair.split or target.split
            made.append(_Planned(task, target.group or target.name, where))
    return made


def split(
    members: Sequence[tuple[str, str | None]], test_every: int
) -> dict[str, list[int]]:
    """Numbers of the members (group, split or None) by split.

    Groups whose split is not told are counted; every `test_every`-th is for tests.

    Raises:
      UserError: too few groups for that.
    """
    groups = list(dict.fromkeys(group for group, told in members if told is None))
    test = set(groups[test_every - 1 :: test_every]) if test_every else set()
    if test_every and groups and (not test or len(test) == len(groups)):
        raise UserError(
            f"{len(groups)} files or people cannot give every {test_every}th to the "
            "test split: change --test_every."
        )
    made: dict[str, list[int]] = {"train": [], "test": []}
    for i, (group, told) in enumerate(members):
        made[told or ("test" if group in test else "train")].append(i)
    return {name: numbers for name, numbers in made.items() if numbers}


def without_duplicates(
    found: Sequence[Found], screen: ScreenConfig, paired: set[str]
) -> list[Found]:
    """The same clips; of those that look alike, all but the first are left out.

    Parts of one file are not compared: neighbours in a shot look alike. Nor are
    pictures that pairs name, which somebody chose.
    """
    made = list(found)
    if screen.duplicate_bits < 0:
        return made
    bits, colour = screen.duplicate_bits, screen.duplicate_colour
    for pictures in (True, False):
        kept: list[int] = []
        marks = np.zeros((len(found), 3, 56), np.uint8)
        # The middle's shapes alone, as one number each: most clips differ there.
        shapes = np.zeros(len(found), np.uint64)
        for i, clip in enumerate(found):
            one = clip.end - clip.first == 1
            if clip.reason is not None or clip.mark is None or one != pictures:
                continue
            if clip.source in paired:
                continue
            shape = np.ascontiguousarray(clip.mark[1, :8]).view(np.uint64)[0]
            near = np.bitwise_count(shapes[: len(kept)] ^ shape) <= bits
            near[near] = survey.alike(clip.mark, marks[: len(kept)][near], bits, colour)
            twins = [kept[k] for k in np.flatnonzero(near)]
            twin = next((k for k in twins if found[k].source != clip.source), None)
            if twin is not None:
                what = f"duplicate of {found[twin].source}, frame {found[twin].first}"
                made[i] = dataclasses.replace(clip, reason=what)
                continue
            marks[len(kept)], shapes[len(kept)] = clip.mark, shape
            kept.append(i)
    return made


def _shards(files: Sequence[Path]) -> list[Shard]:
    """Rows cut into files of a bounded size."""
    groups: list[list[Path]] = [[]]
    size = 0
    for path in files:
        if groups[-1] and size > _SHARD:
            groups.append([])
            size = 0
        groups[-1].append(path)
        size += path.stat().st_size
    return [functools.partial(_read_all, group) for group in groups]


def _read_all(files: Sequence[Path]) -> Iterator[Coded]:
    return map(store.read, files)


def _check_room(output: Path, work: Path) -> None:
    needed = sum(path.stat().st_size for path in work.glob("*.row"))
    free = shutil.disk_usage(output.parent).free
    if needed > free:
        raise UserError(f"{_full(output)} {(needed - free) / 1e9:.3g} GB are missing.")


def _text_told(config: PrepareConfig, footage: Footage) -> str:
    if config.text_detector:
        return f"looked for in every {config.text_every}th frame"
    if any(item.text_boxes for item in footage.items):
        return "as the layout tells"
    return "not looked for: the text mask keeps everything"


def _poses_told(config: PrepareConfig, footage: Footage) -> str:
    given = sum(item.keypoints is not None for item in footage.items)
    told = f"of {given} files given"
    if given < len(footage.items):
        told += f", of {len(footage.items) - given} from the detector {config.detector}"
    counted = config.detector == poses.DWPOSE and given < len(footage.items)
    return told + ("" if counted else "; people not counted")


def _thumbnails(
    work: Path, config: PrepareConfig, footage: Footage
) -> Callable[[Found], bytes | None]:
    items = {item.name: item for item in footage.items}

    @functools.lru_cache(maxsize=1)
    def seen(name: str) -> Seen | str | None:
        return examine.read(examine.note_of(work, config, items[name]))

    def thumbnail(clip: Found) -> bytes | None:
        known = seen(clip.source)
        if not isinstance(known, Seen) or clip.end <= clip.first:
            return None
        return known.survey.thumbnail((clip.first + clip.end) // 2)

    return thumbnail
