"""Communication of a compiled program, read from its text."""

import dataclasses
import functools
import math
import re
from collections.abc import Iterator, Mapping

KINDS = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
)
_BYTES = {"pred": 1, "bf16": 2, "f16": 2, "c64": 8, "c128": 16}
_HEADER = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{$")
_CALL = re.compile(
    rf"= (?P<type>.*?) (?P<kind>{'|'.join(KINDS)})(?P<start>-start)?\((?P<rest>.*)"
)
_SHAPE = re.compile(r"\b([a-z]\w*)\[([\d,]*)\]")
# A called computation, or several in braces.
_CALLEE = re.compile(
    r"\b(?:calls|to_apply|body|condition|branch_computations|true_computation|"
    r"false_computation|called_computations)=(?:\{([^}]*)\}|(%?[\w.\-]+))"
)
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
# The end of a counted loop, as its condition has it; counters start at 0 and go by 1.
_END = re.compile(r"= [su]32\[\]\S* constant\((\d+)\)")


@dataclasses.dataclass(frozen=True)
class Collective:
    """What a program does with one kind of collective.

    Attributes:
      calls: in one run, those in loops as often as the loop goes round.
      sent: bytes that one device sends in one run.
    """

    kind: str
    calls: float
    sent: float


def read(text: str) -> list[Collective]:
    """Collectives of a compiled program (`Compiled.as_text()`), by kind.

    Raises:
      ValueError: a loop with a collective whose length the compiler does not tell.
    """
    program = _computations(text)
    entry = re.search(r"^ENTRY %?([\w.\-]+)", text, re.MULTILINE)
    if entry is None:
        raise ValueError("the text holds no program")

    @functools.cache
    def total(name: str) -> tuple[tuple[str, float, float], ...]:
        sums: dict[str, list[float]] = {}
        for line in program.get(name, ()):
            rows: list[tuple[str, float, float]] = [*_own(name, line), *inner(line)]
            for kind, calls, sent in rows:
                had = sums.setdefault(kind, [0.0, 0.0])
                had[0] += calls
                had[1] += sent
        return tuple((kind, had[0], had[1]) for kind, had in sums.items())

    def inner(line: str) -> Iterator[tuple[str, float, float]]:
        named = [several or one for several, one in _CALLEE.findall(line)]
        callees = [name.strip(" %") for names in named for name in names.split(",")]
        found = [row for callee in callees for row in total(callee)]
        if not found or " while(" not in line:
            yield from found
            return
        trips = _trips(line, program)
        for kind, calls, sent in found:
            yield kind, calls * trips, sent * trips

    rows = {kind: (calls, sent) for kind, calls, sent in total(entry[1])}
    return [Collective(kind, *rows[kind]) for kind in KINDS if kind in rows]


def _computations(text: str) -> Mapping[str, list[str]]:
    program: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in text.splitlines():
        header = _HEADER.match(line)
        if header:
            lines = program.setdefault(header[1], [])
        elif line.startswith("  "):
            lines.append(line)
    return program


def _trips(line: str, program: Mapping[str, list[str]]) -> int:
    """How often a loop goes round: what the compiler noted, else its condition."""
    noted = _TRIPS.search(line)
    if noted:
        return int(noted[1])
    condition = re.search(r"\bcondition=%?([\w.\-]+)", line)
    lines = program.get(condition[1], []) if condition else []
    ends = [end[1] for end in map(_END.search, lines) if end]
    if len(ends) != 1 or "direction=LT" not in lines[-1]:
        raise ValueError(f"a loop of unknown length: {line.strip()[:120]}")
    return int(ends[0])


def _own(computation: str, line: str) -> Iterator[tuple[str, float, float]]:
    call = _CALL.search(line)
    if call is None:
        return
    kind, started = call["kind"], call["start"] is not None
    made = sum(map(_bytes, _SHAPE.finditer(call["type"])))
    n = _group(line)
    if kind == "all-gather":
        # A started one lists what goes in beside what comes out.
        sent = (made * n / (n + 1) if started else made) * (n - 1) / n
    elif kind == "reduce-scatter":
        sent = (made / (n + 1) if started else made) * (n - 1)
    elif kind == "all-reduce":
        sent = 2 * made * (n - 1) / n
        if computation.startswith("all-reduce-scatter"):  # TPU: sum, keep own part
            kind, sent = "reduce-scatter", sent / 2
    elif kind == "all-to-all":
        sent = (made / 2 if started else made) * (n - 1) / n
    else:
        sent = made / 2 if started else made
    yield kind, 1.0, sent


def _bytes(shape: re.Match[str]) -> float:
    name, sizes = shape[1], shape[2]
    digits = re.search(r"\d+", name)
    each = _BYTES.get(name, int(digits[0]) / 8 if digits else 0)
    return each * math.prod(int(size) for size in sizes.split(",") if size)


def _group(line: str) -> int:
    """Devices that take part together."""
    iota = re.search(r"replica_groups=\[\d+,(\d+)\]", line)
    if iota:
        return int(iota[1])
    named = re.search(r"replica_groups=mesh\[(.*?)\] \{(.*?)\}", line)
    if named:
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", named[1]))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'(\w+)'", named[2]))
    listed = re.search(r"replica_groups=\{\{([\d,]*)\}", line)
    return len(listed[1].split(",")) if listed else 2
