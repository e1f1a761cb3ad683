"""What preparation found, kept and left out, as numbers and as a page to look at."""

import base64
import collections
import dataclasses
import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np

from onetoall_jax import media
from onetoall_jax.errors import UserError

_HEIGHT = 120
_STYLE = (
    "body{font:14px sans-serif;margin:2em}img{height:120px}"
    "td,th{padding:3px 10px;text-align:left;vertical-align:top}.out{color:#a00}"
)


class Entry(Protocol):
    """A clip of a source file, as `run.Found` describes it."""

    @property
    def source(self) -> str: ...
    @property
    def first(self) -> int: ...
    @property
    def end(self) -> int: ...
    @property
    def reason(self) -> str | None: ...
    @property
    def measures(self) -> Any: ...


def write(out: Path, folder: Path, found: Sequence[Entry]) -> None:
    """Writes report.json and report.html into `out`."""
    out.mkdir(parents=True, exist_ok=True)
    counts = count(found)
    entries = [
        {
            "source": f.source,
            "first": f.first,
            "end": f.end,
            "reason": f.reason,
            "measures": dataclasses.asdict(f.measures) if f.measures else None,
        }
        for f in found
    ]
    told = {
        "kept": counts.pop("kept", 0),
        "left_out": counts,
        "text_regions": "not looked for: the text mask keeps everything",
        "clips": entries,
    }
    (out / "report.json").write_text(json.dumps(told, indent=1) + "\n")
    (out / "report.html").write_text(_page(folder, found, told))


def count(found: Sequence[Entry]) -> dict[str, int]:
    """Number of clips by reason; "kept" where there is none."""
    kinds = (_kind(f.reason) for f in found)
    return dict(collections.Counter(kinds).most_common())


def _kind(reason: str | None) -> str:
    if reason is None:
        return "kept"
    if reason.startswith("duplicate of"):
        return "duplicate"
    # A file that could not be read comes with a whole sentence.
    return "unreadable" if reason.endswith(".") else reason


def _page(folder: Path, found: Sequence[Entry], told: Mapping[str, Any]) -> str:
    lines = [f"<tr><td>kept<td>{told['kept']}"]
    lines += [
        f"<tr class=out><td>{html.escape(k)}<td>{n}"
        for k, n in told["left_out"].items()
    ]
    thumbnails = _thumbnails(folder, found)
    rows = []
    for entry, picture in zip(found, thumbnails, strict=True):
        shown = f'<img src="data:image/jpeg;base64,{picture}">' if picture else ""
        verdict = "kept" if entry.reason is None else html.escape(entry.reason)
        style = "" if entry.reason is None else " class=out"
        numbers = ""
        if entry.measures is not None:
            m = entry.measures
            numbers = (
                f"person {m.seen:.0%} of frames, {m.person_height:.0%} of the height; "
                f"face {m.head:.0%}, hands {m.hands:.0%}; sharpness {m.sharpness:.0f}"
            )
        rows.append(
            f"<tr{style}><td>{shown}<td>{html.escape(entry.source)}<br>"
            f"frames {entry.first} to {entry.end - 1}<td>{verdict}<td>{numbers}"
        )
    return (
        f"<!doctype html><meta charset=utf-8><title>Preparation</title>"
        f"<style>{_STYLE}</style><h1>Preparation</h1><table>{''.join(lines)}</table>"
        f"<p>Text regions: {told['text_regions']}.</p><table>{''.join(rows)}</table>\n"
    )


def _thumbnails(folder: Path, found: Sequence[Entry]) -> list[str | None]:
    """Middle frame of every clip, JPEG in base64; None where a file is unreadable."""
    wanted: dict[str, dict[int, list[int]]] = {}
    for i, entry in enumerate(found):
        if entry.end > entry.first:
            middle = (entry.first + entry.end) // 2
            wanted.setdefault(entry.source, {}).setdefault(middle, []).append(i)
    made: list[str | None] = [None] * len(found)
    for source, frames in wanted.items():
        path = folder / source
        try:
            if path.suffix.lower() in media.VIDEO_SUFFIXES:
                pictures = enumerate(media.Video(path).frames())
            else:
                pictures = enumerate([media.read_image(path)])
            for number, picture in pictures:
                for i in frames.get(number, ()):
                    made[i] = _coded(picture)
        except UserError:
            continue  # it changed since it was examined: a picture less
    return made


def _coded(picture: np.ndarray) -> str:
    width = max(1, round(picture.shape[1] * _HEIGHT / picture.shape[0]))
    small = cv2.resize(picture, (width, _HEIGHT), interpolation=cv2.INTER_AREA)
    data = cv2.imencode(".jpg", small[..., ::-1])[1].tobytes()
    return base64.b64encode(data).decode()
