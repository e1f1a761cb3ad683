"""The page of plans: compiled rows, recommended meshes, estimates, the whole recipe."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from onetoall_jax.planning import plan, rates, report, search, store, topology, work
from onetoall_jax.planning.plan import Plan, Request
from onetoall_jax.planning.rates import GIB
from onetoall_jax.planning.work import Size

# (configuration, changes) -> settings; the page's command knows where they lie.
Load = Callable[[str, Mapping[str, Any]], Any]

_STORED = {"data.latents": "runs/latents"}
_TRAIN, _SAMPLE = "29x768x768", "81x576x1024"
_STRIP = 150_000  # pixels that the VAE of one chip works on at once


@dataclasses.dataclass(frozen=True)
class Case:
    """A program to be compiled for the page; see `Request`."""

    config: str
    topology: str
    batch: int
    changes: Mapping[str, Any]
    sampler: bool = False

    def asked(self) -> dict[str, Any]:
        """As `Request.to_dict` has it."""
        return {
            "config": self.config,
            "changes": dict(self.changes),
            "topology": self.topology,
            "batch": self.batch,
            "size": _SAMPLE if self.sampler else _TRAIN,
            "sampler": self.sampler,
        }

    def words(self) -> list[str]:
        """Flags of the command that compiles it."""
        made = [
            f"--config={self.config}",
            f"--topology={self.topology}",
            f"--batch={self.batch}",
            f"--size={self.asked()['size']}",
        ]
        made += [f"--config.{name}={value}" for name, value in self.changes.items()]
        return made + ["--sampler"] * self.sampler


def _train(size: str, machine: str, batch: int, remat: str = "", **mesh: int) -> Case:
    changes = {**_STORED, **{f"mesh.{axis}": n for axis, n in mesh.items()}}
    if remat:
        changes["training.remat"] = remat
    return Case(f"configs/stage2.py:{size}", machine, batch, changes)


def _sample(size: str, machine: str, **codec: int) -> Case:
    changes = {f"codec.{name}": value for name, value in codec.items()}
    return Case(f"configs/stage3.py:{size}", machine, 1, changes, sampler=True)


# One clip for each device or group of devices that shares its tokens.
CASES = (
    _train("1_3b", "v5p:2x2x2", 8),
    _sample("1_3b", "v6e:1x1", most_pixels=_STRIP),
    _sample("14b", "v5p:1x1x1", most_pixels=_STRIP),
    _train("1_3b", "v6e:2x4", 8),
    _sample("14b", "v5p:2x2x2"),
    _train("14b", "v5p:4x4x4", 64),
    _sample("14b", "v6e:2x4"),
    _train("1_3b", "v4:2x2x2", 8),
    _sample("1_3b", "v5e:2x4"),
    _sample("14b", "v4:2x2x2"),
    _train("1_3b", "v5e:4x4", 4, context=4),
    _train("14b", "v6e:8x8", 64),
    _sample("1_3b", "v5p:2x2x2"),
    _train("14b", "v4:4x4x4", 64),
    _train("14b", "v5e:16x16", 64, context=4),
    _train("14b", "v5e:16x16", 32, context=8),
    _train("14b", "v6e:8x8", 64, "offload"),
    _train("14b", "v4:4x4x4", 64, "offload"),
)
# Machines whose best mesh is searched, with clips of a step.
_SEARCHED = {
    "1_3b": {"v4:2x2x2": 8, "v5e:4x4": 4, "v5p:2x2x2": 8, "v6e:2x4": 8},
    "14b": {"v4:4x4x4": 32, "v5e:16x16": 16, "v5p:4x4x4": 64, "v6e:8x8": 32},
}
_CHIPS = ("v4", "v5e", "v5p", "v6e", "h100", "h200")
# Steps of eight clips, by the paper; six clips to a picture. Share of clips at 768.
_STEPS = {"1_3b": (40_000, 40_000, 20_000), "14b": (30_000, 30_000, 20_000)}
_BATCH, _CLIPS_OF_SEVEN = 8, 6
_AT_768 = (0.0, 0.5, 0.8)


def missing(folder: Path) -> list[Case]:
    """Cases without a record in the folder."""
    done = [asked for asked, _ in store.records(folder)]
    return [case for case in CASES if case.asked() not in done]


def page(folder: Path, load: Load) -> str:
    """The whole page in Markdown.

    Args:
      folder: of the compiler's records.
    """
    parts = [*_compiled(folder, load), *_best(load), *_estimates(load), *_recipe(load)]
    return "\n".join(parts) + "\n"


def _compiled(folder: Path, load: Load) -> Iterator[str]:
    known = [case.asked() for case in CASES]
    plans = [
        plan.restored(request(asked, load), record)
        for asked, record in store.records(folder)
        if asked in known
    ]
    yield f"## Compiled: {len(plans)} programs\n"
    yield from _rows(
        "program | machine | mesh | remat | GiB | of limit | margin GiB | formula "
        "(error) | step s | MFU | compiled in s | host GiB",
        (_compiled_row(made) for made in plans),
    )
    for case in missing(folder):
        yield f"- not compiled yet: `{' '.join(case.words())}`"


def _compiled_row(made: Plan) -> Sequence[str]:
    assert made.compiled is not None and made.limit is not None
    c, asked = made.compiled, made.request
    name = asked.name.removeprefix("configs/").replace(".py:", " ")
    what = "sampler" if asked.sampler else f"step of {asked.batch}"
    error = f"{made.estimated / GIB:.1f} ({made.estimated / made.used - 1:+.0%})"
    margin = f"{(made.limit - made.used) / GIB:.1f}"
    over = margin if made.fits else "does not fit"
    return (
        f"{name}, {what} {asked.size}",
        asked.topology.name,
        report.mesh(made.mesh),
        "" if asked.sampler else asked.settings.training.remat,
        f"{made.used / GIB:.1f}",
        f"{made.used / made.limit:.0%}",
        over,
        error,
        *_speed(made),
        f"{c.compile_seconds:.0f}",
        f"{c.host_gib:.1f}",
    )


def _best(load: Load) -> Iterator[str]:
    yield "\n## Recommended meshes (formula)\n"
    rows = []
    for size, machines in _SEARCHED.items():
        for machine, batch in machines.items():
            case = _train(size, machine, batch)
            ranked = search.ranked(request(case.asked(), load))
            rows.append(_best_row(ranked[0], search.recommended(ranked) is not None))
    yield from _rows(
        "size | machine | clips | mesh | remat | GiB | margin GiB | step s | MFU", rows
    )


def _best_row(made: Plan, fits: bool) -> Sequence[str]:
    assert made.limit is not None
    margin = f"{(made.limit - made.used) / GIB:.1f}"
    return (
        made.request.name.rpartition(":")[2],
        made.request.topology.name,
        str(made.request.batch),
        report.mesh(made.mesh)
        if fits
        else f"none fits; nearest {report.mesh(made.mesh)}",
        made.request.settings.training.remat,
        f"{made.used / GIB:.1f}",
        margin,
        *_speed(made),
    )


def _estimates(load: Load) -> Iterator[str]:
    yield "\n## Seconds of one clip on one chip (formula)\n"
    rows = []
    for size in _STEPS:
        for stage in (1, 2, 3):
            for side in (512, 768) if stage > 1 else (512,):
                name = f"{size}, stage {stage}, 29x{side}x{side}"
                cells = [
                    f"{_seconds(load, size, stage, Size(29, side, side), chip):.2f}"
                    for chip in _CHIPS
                ]
                rows.append([name, *cells])
    yield from _rows(" | ".join(["step", *_CHIPS]), rows)


def _recipe(load: Load) -> Iterator[str]:
    yield "\n## The three stages (formula): device-hours, and days on 8 devices\n"
    rows = []
    for size, steps in _STEPS.items():
        cells = []
        for chip in _CHIPS:
            hours = [
                count * _BATCH * _mean(load, size, stage, chip) / 3600
                for stage, count in enumerate(steps, 1)
            ]
            split = " + ".join(f"{n:.0f}" for n in hours)
            cells.append(f"{split} = {sum(hours):.0f} h; {sum(hours) / 192:.1f} d")
        rows.append([size, *cells])
    yield from _rows(" | ".join(["size", *_CHIPS]), rows)


def _mean(load: Load, size: str, stage: int, chip: str) -> float:
    """Seconds of a sample: clips of two resolutions, and pictures among them."""
    large = _AT_768[stage - 1]

    def of(frames: int) -> float:
        return sum(
            share * _seconds(load, size, stage, Size(frames, side, side), chip)
            for side, share in ((768, large), (512, 1 - large))
            if share
        )

    return (_CLIPS_OF_SEVEN * of(29) + (7 - _CLIPS_OF_SEVEN) * of(1)) / 7


def _seconds(load: Load, size: str, stage: int, clip: Size, chip: str) -> float:
    machine = topology.Topology(chip, "", 1, rates.CHIPS[chip])
    changes = {**_STORED, "training.remat": "block"}
    settings = load(f"configs/stage{stage}.py:{size}", changes)
    return plan.compute(Request("", settings, machine, 1, clip)).step


def _speed(made: Plan) -> Sequence[str]:
    if made.time is None or made.utilisation is None:
        return "", ""
    return f"{made.time.step:.2f}", f"{made.utilisation:.0%}"


def request(asked: Mapping[str, Any], load: Load) -> Request:
    """The request that `Request.to_dict` came from."""
    return Request(
        asked["config"],
        load(asked["config"], asked["changes"]),
        topology.parse(asked["topology"]),
        asked["batch"],
        work.Size.parse(asked["size"]),
        asked["sampler"],
        asked["changes"],
    )


def _rows(head: str, rows: "Iterator | Sequence") -> Iterator[str]:
    yield f"| {head} |"
    yield "|" + " --- |" * (head.count("|") + 1)
    for row in rows:
        yield f"| {' | '.join(row)} |"
