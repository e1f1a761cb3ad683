"""Many pairs from one list: a result folder each, resumable, failures at the end.

A CSV file with the columns `reference` and `driving`, and any of `name`, `prompt`,
`negative_prompt`, `seed`, `reference_keypoints`, `driving_keypoints` and `options`
("steps=12; fps=16; alignment.mode=driving"). Paths are relative to the file.
"""

import ast
import contextlib
import csv
import dataclasses
import difflib
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from onetoall_jax import config
from onetoall_jax.errors import UserError
from onetoall_jax.pipelines import animate as animating
from onetoall_jax.pipelines import animator as animators
from onetoall_jax.pipelines import embed
from onetoall_jax.pipelines.animate import Say
from onetoall_jax.pipelines.animator import Animator, Setup
from onetoall_jax.pipelines.embed import Encoder
from onetoall_jax.pipelines.preparing import PrepareConfig
from onetoall_jax.sampling.settings import SamplingConfig

_NEEDED = ("reference", "driving")
_OPTIONAL = (
    "name", "prompt", "negative_prompt", "seed", "reference_keypoints",
    "driving_keypoints", "options",
)  # fmt: skip
_FILES = ("reference", "driving", "reference_keypoints", "driving_keypoints")
_SAMPLING = {f.name for f in dataclasses.fields(SamplingConfig)}


class Row(NamedTuple):
    """One pair of the list.

    Attributes:
      name: of its folder.
      files: what to animate, by what: arguments of `animate`.
      texts: prompts, where given.
      seed: or None.
      options: text, "name=value; name=value".
    """

    name: str
    files: dict[str, Path]
    texts: dict[str, str]
    seed: int | None
    options: str


class Failure(NamedTuple):
    """A pair that could not be drawn, and why."""

    name: str
    reason: str


def read(path: Path) -> list[Row]:
    """Rows of a CSV file.

    Raises:
      UserError: no such file, a missing or unknown column, a name twice, a seed that is
        no number.
    """
    path = Path(path)
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns = reader.fieldnames or ()
            lines = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is no list of pairs that can be read.") from error
    missing = [c for c in _NEEDED if c not in columns]
    if missing:
        raise UserError(
            f"{path} lacks the column {', '.join(missing)}: its first line must name "
            f"{', '.join(_NEEDED)} and may name {', '.join(_OPTIONAL)}."
        )
    for column in columns:
        if column not in (*_NEEDED, *_OPTIONAL):
            near = difflib.get_close_matches(column, (*_NEEDED, *_OPTIONAL), n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {_OPTIONAL}."
            raise UserError(f"{path} has an unknown column {column!r}: {hint}")
    rows = [_row(path, i, line) for i, line in enumerate(lines)]
    names = [r.name for r in rows]
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise UserError(
            f"{path} names {', '.join(twice)} twice: results would collide."
        )
    return rows


def _row(path: Path, index: int, line: Mapping[str, Any]) -> Row:
    cells = {k: v.strip() for k, v in line.items() if k and v and v.strip()}
    where = f"{path}, row {index + 1}"
    for column in _NEEDED:
        if column not in cells:
            raise UserError(f"{where} has no {column}.")
    if line.get(None):  # type: ignore[call-overload]
        raise UserError(f"{where} has more cells than there are columns: quote commas.")
    files = {k: path.parent / cells[k] for k in _FILES if k in cells}
    stems = f"{files['reference'].stem}_{files['driving'].stem}"
    name = cells.get("name", f"{index:04d}_{stems}")
    if Path(name).name != name or name in (".", ".."):
        raise UserError(f"{where}: the name {name!r} is no name of a folder.")
    try:
        seed = int(cells["seed"]) if "seed" in cells else None
    except ValueError as error:
        raise UserError(f"{where}: the seed {cells['seed']!r} is no number.") from error
    texts: dict[str, str] = {
        k: cells[k] for k in ("prompt", "negative_prompt") if k in cells
    }
    return Row(name, files, texts, seed, cells.get("options", ""))


def options(text: str, before: PrepareConfig) -> tuple[PrepareConfig, dict[str, Any]]:
    """(settings of preparing, values of sampling) of "name=value; name=value".

    Args:
      before: settings that the others are taken from.
    Raises:
      UserError: no such setting, or a value of another type.
    """
    preparing = config.to_dict(before)
    sampling: dict[str, Any] = {}
    for word in filter(None, (w.strip() for w in text.split(";"))):
        name, found, value = (part.strip() for part in word.partition("="))
        if not found:
            raise UserError(f"The option {word!r} has no value: write name=value.")
        try:
            made = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            made = value
        if name in _SAMPLING:
            sampling[name] = made
            continue
        group = preparing
        *outer, last = name.split(".")
        for key in outer:
            group = group.setdefault(key, {})
            if not isinstance(group, dict):
                raise UserError(f"There is no setting {name!r}.")
        known = type(group.get(last)) is str
        group[last] = value if known else made
    return config.build(PrepareConfig, preparing, "options"), sampling


def run(
    rows: Sequence[Row],
    out: Path,
    model: Animator | Setup,
    *,
    share: tuple[int, int] = (0, 1),
    config: PrepareConfig = PrepareConfig(),  # noqa: B008
    encoder: Encoder = Encoder(),  # noqa: B008
    dry_run: bool = False,
    say: Say = print,
    draw: Callable[..., Any] = animating.animate,
    **more: Any,
) -> list[Failure]:
    """Draws the pairs whose folder is not there yet.

    Args:
      out: holds a folder for each row.
      model: one that is not loaded yet is, after all prompts have been embedded.
      share: (index, count): every count-th row from the index on, so that many hosts
        share a list without knowing of each other.
      config: of preparing, where a row's options say nothing else.
      more: further arguments of `animate`.
    Returns:
      the pairs that failed; none of them ends the run.
    """
    index, count = share
    if not 0 <= index < count:
        raise UserError(f"share {index}/{count}: the first must be below the second.")
    todo = []
    for row in list(rows)[index::count]:
        if (Path(out) / row.name / "report.json").exists():
            say(f"{row.name}: there already")
        else:
            todo.append(row)
    if isinstance(model, Setup) and not dry_run:
        model = _loaded(model, todo, encoder)
    failures = []
    models: dict[SamplingConfig, Animator | Setup] = {model.sampling: model}
    for row in todo:
        try:
            preparing, sampling = options(row.options, config)
            seed = sampling.pop("seed", None)
            changed = model.changed(sampling)
            # Equal settings share their compiled programs.
            changed = models.setdefault(changed.sampling, changed)
            draw(
                **row.files,
                **row.texts,
                model=changed,
                out=Path(out) / row.name,
                seed=seed if row.seed is None else row.seed,
                config=preparing,
                encoder=encoder,
                dry_run=dry_run,
                output_type="none",
                say=lambda note, name=row.name: say(f"{name}: {note}"),
                **more,
            )
            say(f"{row.name}: done")
        except UserError as error:
            failures.append(Failure(row.name, str(error)))
        except Exception as error:  # whatever it is, the others can still be drawn
            traceback.print_exc()
            failures.append(Failure(row.name, f"{type(error).__name__}: {error}"))
    return failures


def _loaded(model: Setup, rows: Sequence[Row], encoder: Encoder) -> Animator:
    """The model, read after umT5 is gone."""
    texts = list(dict.fromkeys(text for row in rows for text in row.texts.values()))
    # What cannot be embedded is told with the row whose prompt it is.
    with contextlib.suppress(UserError):
        embed.cached(texts, encoder, model.settings.text)
    return animators.loaded(model)
