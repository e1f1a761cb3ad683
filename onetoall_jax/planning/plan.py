"""A plan: memory, operations, communication and time of a program on a machine."""

import dataclasses
import functools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh

from onetoall_jax.batch import BatchShape
from onetoall_jax.errors import UserError
from onetoall_jax.models import codec as codecs
from onetoall_jax.models.text_attention import MOST
from onetoall_jax.pipelines import devices as animating
from onetoall_jax.pipelines.settings import RunSettings, for_sampling
from onetoall_jax.planning import (
    collectives,
    communication,
    memory,
    program,
    rates,
    store,
    topology,
    work,
)
from onetoall_jax.planning.collectives import Collective
from onetoall_jax.planning.topology import Topology
from onetoall_jax.planning.work import Row, Size
from onetoall_jax.sampling import guidance
from onetoall_jax.sharding import mesh as meshes
from onetoall_jax.sharding import rules
from onetoall_jax.sharding.mesh import MeshConfig

AXES = ("data", "fsdp", "context", "tensor")


@dataclasses.dataclass(frozen=True)
class Request:
    """What is to be planned.

    Attributes:
      name: of the configuration, as --config names it.
      changes: of its settings, dotted name -> value; `settings` has them already.
      batch: clips of a step over all devices, or clips that are sampled together.
      sampler: one segment is sampled, instead of one step trained.
    """

    name: str
    settings: RunSettings
    topology: Topology
    batch: int
    size: Size
    sampler: bool = False
    changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """What a plan can be made from again, ready for JSON."""
        return {
            "config": self.name,
            "changes": dict(self.changes),
            "topology": self.topology.name,
            "batch": self.batch,
            "size": str(self.size),
            "sampler": self.sampler,
        }


@dataclasses.dataclass(frozen=True)
class Plan:
    """Figures of one device; bytes unless said otherwise.

    Attributes:
      arguments: what it holds before the step, by kind; from shapes and shardings.
      temporary: what it holds beside, by kind; from the formula.
      compiled: the compiler's account, or None where only formulas were asked.
      sends: collectives, read from the program where there is one.
      rows: operations of one clip.
      time: of a step or a segment; None for a CPU, which has no rates.
    """

    request: Request
    mesh: Mapping[str, int]
    arguments: Mapping[str, float]
    temporary: Mapping[str, float]
    compiled: program.Compiled | None
    sends: tuple[Collective, ...]
    rows: tuple[Row, ...]
    time: rates.Time | None

    @property
    def tokens(self) -> int:
        """Of one clip, the frame before the video included."""
        return _Case(self.request, self.mesh, {}, (0.0, 0.0)).tokens

    @property
    def estimated(self) -> float:
        """Bytes at the worst moment, by the formula."""
        return sum(self.arguments.values()) + sum(self.temporary.values())

    @property
    def used(self) -> float:
        """Bytes at the worst moment, by the compiler where it was asked."""
        c = self.compiled
        if c is None:
            return self.estimated
        if c.needed:
            return c.needed * rates.GIB
        return c.arguments + c.output - c.shared + c.temporary + c.code

    @property
    def limit(self) -> float | None:
        """Bytes that a program may use."""
        return self.request.topology.memory

    @property
    def fits(self) -> bool:
        """Whether the device has the memory; a compiler may ask for more than that."""
        return self.limit is None or self.used <= self.limit

    @property
    def utilisation(self) -> float | None:
        """Model operations a second by the peak of all devices, 0..1."""
        chip = self.request.topology.chip
        if chip is None or self.time is None:
            return None
        whole = self.request.batch * work.model_operations(self.rows)
        return whole / self.request.topology.devices / self.time.step / chip.peak


def estimate(request: Request) -> Plan:
    """Plan by formulas alone.

    Raises:
      UserError: the mesh does not cover the machine, or the batch not the mesh.
    """
    sizes = mesh_sizes(mesh_config(request), request.topology.devices)
    check(request, sizes)
    arguments, counts = _arguments(request, sizes)
    return _plan(request, sizes, arguments, counts, None, None)


def compiled(request: Request, cache: Path | None = None) -> Plan:
    """Plan of the program, compiled for the machine's devices.

    Args:
      cache: folder of what the compiler said before.
    Raises:
      UserError: as `estimate`; no libtpu; a machine that cannot be compiled for.
    """
    sizes = mesh_sizes(mesh_config(request), request.topology.devices)
    check(request, sizes)

    def make() -> tuple[program.Compiled, list[Collective]]:
        settings = request.settings
        split = mesh_config(request)
        mesh = meshes.build(split, topology.devices(request.topology))
        kind = program.sampling if request.sampler else program.training
        step = kind(settings, mesh, _shape(request))
        made = program.compile_for(mesh, rules.table(settings.mesh.rules), step)
        return made, collectives.read(made.text) if made.text else []

    asked = request.to_dict()
    key = store.key(request.settings, asked)
    record = store.recalled(cache, key, asked, make)
    return restored(request, record)


def restored(request: Request, record: store.Record) -> Plan:
    """Plan of a program that was compiled before; see `store.records`."""
    sizes = mesh_sizes(mesh_config(request), request.topology.devices)
    arguments, counts = _arguments(request, sizes)
    made, sends = record
    known = None if made.needed else tuple(sends)
    return _plan(request, sizes, arguments, counts, made, known)


def compute(request: Request) -> rates.Time:
    """Time of a step on devices that share it evenly and send nothing."""
    chip, devices = request.topology.chip, request.topology.devices
    assert chip is not None
    case = _Case(request, dict.fromkeys(AXES, 1), {}, (0.0, 0.0))
    load = work.load(case.rows(), case.traffic(), request.batch, devices)
    return rates.predict(chip, load)


def mesh_config(request: Request) -> MeshConfig:
    """The mesh asked for; a sampler that asks for none gets the one of animating."""
    settings = request.settings
    if not request.sampler or settings.mesh != MeshConfig():
        return settings.mesh
    passes = len(guidance.table(settings.sampling))
    return animating.shares(request.topology.devices, passes)


def mesh_sizes(config: MeshConfig, devices: int) -> dict[str, int]:
    """Devices along each axis, -1 filled in.

    Raises:
      UserError: the sizes do not multiply to the number of devices.
    """
    sizes = {axis: getattr(config, axis) for axis in AXES}
    known = math.prod(n for n in sizes.values() if n != -1)
    for axis, n in sizes.items():
        if n == -1:
            sizes[axis] = max(1, devices // known)
            break
    if math.prod(sizes.values()) != devices:
        raise UserError(
            f"A mesh of {sizes} does not cover {devices} devices: make the product "
            "equal, or one size -1."
        )
    return sizes


def check(request: Request, sizes: Mapping[str, int]) -> None:
    """Raises UserError where the clips cannot be shared evenly."""
    if request.sampler:
        return  # fewer clips than devices: several devices draw the same
    over = math.prod(sizes[axis] for axis in rules.BATCH_AXES)
    parts = request.settings.training.optimizer.accumulation
    if request.batch % (over * parts):
        raise UserError(
            f"A batch of {request.batch} clips in {parts} parts cannot be split over "
            f"{over} devices: make --batch a multiple of {over * parts}, or set "
            "--config.mesh.context so that several devices share a clip."
        )


def _plan(
    request: Request,
    sizes: Mapping[str, int],
    arguments: Mapping[str, float],
    counts: tuple[float, float],
    made: program.Compiled | None,
    sends: tuple[Collective, ...] | None,
) -> Plan:
    case = _Case(request, sizes, arguments, counts)
    rows = case.rows()
    temporary = case.temporary()
    if sends is None:
        sends = tuple(case.sends())
    time, chip = None, request.topology.chip
    if chip is not None:
        sent = sum(row.sent for row in sends)
        load = work.load(rows, case.traffic(), case.clips, case.sharing, sent)
        time = rates.predict(chip, load)
    return Plan(request, sizes, arguments, temporary, made, sends, tuple(rows), time)


class _Case:
    """The formulas for one request on one mesh."""

    def __init__(
        self,
        request: Request,
        sizes: Mapping[str, int],
        arguments: Mapping[str, float],
        counts: tuple[float, float],
    ):
        self.request, self.sizes = request, sizes
        self.arguments, self.counts = arguments, counts
        given = request.settings
        self.settings = for_sampling(given) if request.sampler else given
        self.model = self.settings.model
        self.codec = codecs.build(self.settings.codec, self.model.patch)
        self.wide = jnp.dtype(self.settings.training.dtype).itemsize == 4
        table = guidance.table(self.settings.sampling)
        over = math.prod(sizes[axis] for axis in rules.BATCH_AXES)
        # Passes of a clip are shared as clips are; a device that finds neither of its
        # own helps with nothing.
        own = request.batch * (len(table) if request.sampler else 1)
        self.clips = request.batch / min(over, own)
        self.sharing = sizes["context"] * sizes["tensor"]
        clip = request.size.clip(self.codec.geometry, 1)
        f, h, w = clip.grid
        self.tokens = (f + bool(self.model.pose_layers)) * h * w
        self.passes = (
            len(table),
            sum(row.pose_scale != 0 for row in table),
            len({row.reference for row in table}),
        )

    def rows(self) -> list[Row]:
        # No mesh alters them: a search asks for the same few again and again.
        plain = dataclasses.replace(self.settings, mesh=MeshConfig())
        return _rows_of(_Key(plain), self.request.size, self.request.sampler)

    def traffic(self) -> float:
        """Bytes of element-wise code for a clip."""
        if self.request.sampler:
            passes = self.settings.sampling.steps * self.passes[0]
        else:
            passes = 4 if self.settings.training.remat != "none" else 3
        return work.traffic(self.model, self.tokens, passes)

    def temporary(self) -> Mapping[str, float]:
        platform, size = self.request.topology.platform, self.request.size
        run, config = self.settings.training, self.settings.codec
        spread = math.prod(self.sizes[a] for a in (*rules.BATCH_AXES, "context"))
        coding = 0.0
        if config.kind == "wan_vae":
            coding = memory.codec(config, size, self.clips, spread, platform)
        parts = 1 if self.request.sampler else run.optimizer.accumulation
        clips, context = self.clips / parts, self.sizes["context"]
        gathers = self.sizes["fsdp"] * context > 1
        share = memory.Share(clips, context, self.sizes["tensor"], gathers)
        if self.request.sampler:
            text = self.settings.text
            rows = min(text.sampling_length or text.length, MOST)
            alone = self.request.topology.devices == 1
            return memory.sampling(
                self.model, size, share, self.passes, rows, coding, self.wide, alone
            )
        limit = self.request.topology.memory
        made = dict(
            memory.temporary(self.model, size, share, run.remat, self.wide, limit)
        )
        made["gradient"] = self.arguments["trained parameters"]
        stored = bool(self.settings.data.get("latents"))
        if coding > sum(made.values()) and not stored:
            return {"encoding the clips": coding}
        return made

    def sends(self) -> list[Collective]:
        tokens = self.tokens * self.clips / self.sizes["context"]
        each = 4 if self.wide else 2
        parameters, trained = self.counts
        if self.request.sampler:
            passes = self.settings.sampling.steps * self.passes[0]
            return communication.sampling(
                self.model, self.sizes, parameters, tokens, passes, each=each
            )
        return communication.training(
            self.model,
            self.sizes,
            parameters,
            trained,
            tokens,
            each=each,
            repeats=self.settings.training.remat != "none",
        )


def _shape(request: Request) -> BatchShape:
    size = request.size
    return BatchShape(request.batch, size.num_frames, size.height, size.width)


def _arguments(
    request: Request, sizes: Mapping[str, int]
) -> tuple[dict[str, float], tuple[float, float]]:
    """(bytes by kind, (parameters, trained parameters))."""
    # What a device holds depends on neither remat nor how parts come about: few traces
    # serve a whole search. Parameters are split over fsdp and context alike.
    settings, (data, fsdp, context, tensor) = request.settings, sizes.values()
    plain = dataclasses.replace(
        settings,
        mesh=MeshConfig(rules=settings.mesh.rules),
        training=dataclasses.replace(settings.training, remat="none"),
    )
    alike = not settings.mesh.rules
    shape = _shape(request)
    if not alike or request.sampler:
        return _arguments_of(_Key(plain), shape, tuple(sizes.items()), request.sampler)
    parts, clips = fsdp * context, request.batch // (data * fsdp)
    one = dataclasses.replace(shape, batch=parts)
    same = (("data", 1), ("fsdp", parts), ("context", 1), ("tensor", tensor))
    made, counts = _arguments_of(_Key(plain), one, same, False)
    return {**made, "batch": made["batch"] * clips}, counts


@dataclasses.dataclass(frozen=True, eq=False)
class _Key:
    """Settings that can be looked up: their folders are dictionaries."""

    settings: RunSettings

    @functools.cached_property
    def _text(self) -> str:
        return repr(self.settings)

    def __hash__(self) -> int:
        return hash(self._text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and self._text == other._text


@functools.lru_cache
def _rows_of(key: _Key, size: Size, sampler: bool) -> list[Row]:
    codec = codecs.build(key.settings.codec, key.settings.model.patch)
    make = work.sampling if sampler else work.training
    return make(key.settings, codec, size)


@functools.lru_cache
def _arguments_of(
    key: _Key, shape: BatchShape, sizes: tuple[tuple[str, int], ...], sampler: bool
) -> tuple[dict[str, float], tuple[float, float]]:
    names, lengths = zip(*sizes, strict=True)
    mesh = AbstractMesh(lengths, names)
    kind = program.sampling_arguments if sampler else program.training_arguments
    kinds, _ = kind(key.settings, mesh, shape)
    made = {name: float(program.bytes_per_device(tree)) for name, tree in kinds.items()}
    if sampler:
        counts = _count(kinds["parameters"]), 0.0
    else:
        trained = _count(kinds["trained parameters"])
        counts = trained + _count(kinds["frozen parameters"]), trained
    return {name: n for name, n in made.items() if n}, counts


def _count(tree: Any) -> float:
    return float(sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree)))
