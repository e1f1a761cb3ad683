"""What preparation found, kept and left out, as numbers and as a page to look at."""

import base64
import collections
import dataclasses
import html
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_pipeline.prepare.examine import Found

_STYLE = (
    "body{font:14px sans-serif;margin:2em}img{height:120px}"
    "td,th{padding:3px 10px;text-align:left;vertical-align:top}.out{color:#a00}"
)
_SHOWN = 100  # clips of each verdict on the page; report.json holds all


def write(
    out: Path,
    found: Sequence[Found],
    told: Mapping[str, Any],
    thumbnail: Callable[[Found], bytes | None],
) -> None:
    """Writes report.json and report.html into `out`.

    Args:
      told: more to be said, by subject.
      thumbnail: JPEG file of a clip.
    """
    out.mkdir(parents=True, exist_ok=True)
    counts = count(found)
    whole = {"kept": counts.pop("kept", 0), "left_out": counts, **told}
    clips = [
        {
            "source": f.source,
            "first": f.first,
            "end": f.end,
            "reason": f.reason,
            "measures": dataclasses.asdict(f.measures) if f.measures else None,
        }
        for f in found
    ]
    text = json.dumps({**whole, "clips": clips}, indent=1)
    (out / "report.json").write_text(text + "\n")
    (out / "report.html").write_text(_page(found, whole, thumbnail))


def count(found: Sequence[Found]) -> dict[str, int]:
    """Number of clips by reason; "kept" where there is none."""
    kinds = (kind(f) for f in found)
    return dict(collections.Counter(kinds).most_common())


def kind(found: Found) -> str:
    """The verdict on a clip without its particulars."""
    if found.reason is None:
        return "kept"
    if found.reason.startswith("duplicate of"):
        return "duplicate"
    # A file that could not be read comes with a whole sentence.
    return "unreadable" if found.reason.endswith(".") else found.reason


def _page(
    found: Sequence[Found],
    told: Mapping[str, Any],
    thumbnail: Callable[[Found], bytes | None],
) -> str:
    facts = {"kept": told["kept"], **told["left_out"]}
    lines = [
        f"<tr{'' if k == 'kept' else ' class=out'}><td>{html.escape(k)}<td>{n}"
        for k, n in facts.items()
    ]
    more = [
        f"<p>{html.escape(name.replace('_', ' '))}: {html.escape(str(what))}"
        for name, what in told.items()
        if name not in ("kept", "left_out")
    ]
    shown, seen = [], collections.Counter[str]()
    for clip in found:
        seen[kind(clip)] += 1
        if seen[kind(clip)] <= _SHOWN:
            shown.append(clip)
    if len(shown) < len(found):
        more.append(f"<p>{_SHOWN} clips of each verdict follow; report.json lists all.")
    rows = [_line(clip, thumbnail(clip)) for clip in shown]
    return (
        f"<!doctype html><meta charset=utf-8><title>Preparation</title>"
        f"<style>{_STYLE}</style><h1>Preparation</h1><table>{''.join(lines)}</table>"
        f"{''.join(more)}<table>{''.join(rows)}</table>\n"
    )


def _line(clip: Found, picture: bytes | None) -> str:
    shown = ""
    if picture:
        code = base64.b64encode(picture).decode()
        shown = f'<img src="data:image/jpeg;base64,{code}">'
    verdict = "kept" if clip.reason is None else html.escape(clip.reason)
    style = "" if clip.reason is None else " class=out"
    numbers = ""
    if clip.measures is not None:
        m = clip.measures
        numbers = (
            f"person {m.seen:.0%} of frames, {m.person_height:.0%} of the height; "
            f"face {m.head:.0%}, hands {m.hands:.0%}; sharpness {m.sharpness:.0f}"
        )
        numbers += "" if m.alone is None else f"; alone {m.alone:.0%}"
        numbers += "" if m.text is None else f"; text covers {m.text:.1%}"
    return (
        f"<tr{style}><td>{shown}<td>{html.escape(clip.source)}<br>"
        f"frames {clip.first} to {clip.end - 1}<td>{verdict}<td>{numbers}"
    )
