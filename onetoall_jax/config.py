"""Reads configurations; builds frozen settings dataclasses from them, and back."""

import dataclasses
import difflib
import runpy
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from onetoall_jax.errors import UserError

T = TypeVar("T")


def read(text: str) -> Any:
    """ConfigDict of a file and the argument of its `get_config`.

    Args:
      text: as in configs/stage3.py:1_3b.
    Raises:
      UserError: no such file, or one without such a configuration.
    """
    path, _, argument = text.partition(":")
    if not Path(path).is_file():
        raise UserError(f"--config={text}: there is no file {path}.")
    try:
        return runpy.run_path(path)["get_config"](argument)
    except (KeyError, ValueError) as error:
        raise UserError(f"--config={text}: {error}.") from error


def build(cls: type[T], values: Mapping[str, Any], where: str = "config") -> T:
    """Makes `cls` from `values`, recursing into dataclass fields.

    Args:
      cls: a frozen dataclass type.
      values: plain dictionary, for example `ConfigDict.to_dict()`; lists become tuples.
      where: dotted name of `values`, for messages.
    Raises:
      UserError: an unknown key (the nearest known one is named), a missing key or a
        value of another type.
    """
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in values:
        if key not in fields:
            near = difflib.get_close_matches(key, fields, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"it has {sorted(fields)}."
            raise UserError(f"{where} has no setting {key!r}: {hint}")
    made = {}
    for name, field in fields.items():
        if name in values:
            made[name] = _convert(hints[name], values[name], f"{where}.{name}")
        elif (
            field.default is dataclasses.MISSING
            and field.default_factory is dataclasses.MISSING
        ):
            raise UserError(f"{where}.{name} is missing: set it.")
    return cls(**made)


def to_dict(settings: Any) -> dict[str, Any]:
    """Plain dictionary of a settings dataclass, ready for JSON."""
    return dataclasses.asdict(settings)


def _convert(hint: Any, value: Any, where: str) -> Any:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        options = [a for a in typing.get_args(hint) if a is not type(None)]
        if value is None:
            return None
        hint = options[0]
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        if isinstance(value, hint):
            return value
        if not isinstance(value, Mapping):
            raise UserError(f"{where} must be a group of settings, not {value!r}.")
        return build(hint, value, where)
    if typing.get_origin(hint) is tuple or hint is tuple:
        if not isinstance(value, (list, tuple)):
            raise UserError(f"{where} must be a tuple, not {value!r}.")
        inner = typing.get_args(hint)
        item = inner[0] if inner else Any
        return tuple(
            _convert(item if len(inner) < 2 or inner[1] is ... else inner[i], v, where)
            for i, v in enumerate(value)
        )
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint in (int, float, str, bool) and (
        not isinstance(value, hint) or (hint is int and isinstance(value, bool))
    ):
        raise UserError(f"{where} must be {hint.__name__}, not {value!r}.")
    return value
