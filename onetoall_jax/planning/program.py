"""The programs of a run, compiled for devices that need not exist."""

import dataclasses
import functools
import re
import resource
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from onetoall_jax import trees
from onetoall_jax.batch import BatchShape
from onetoall_jax.models import codec as codecs
from onetoall_jax.models import onetoall
from onetoall_jax.models.codec import Codec
from onetoall_jax.models.text_attention import MOST, Text
from onetoall_jax.pipelines import start, train
from onetoall_jax.pipelines.settings import RunSettings, for_sampling
from onetoall_jax.planning.rates import GIB
from onetoall_jax.sampling.euler import Inputs
from onetoall_jax.sampling.sampler import Carry, Sampler
from onetoall_jax.sharding import mesh as meshes
from onetoall_jax.sharding import rules
from onetoall_jax.training import loop
from onetoall_jax.training.step import Fixed

Tree = Any

# Least effort on speed: on a TPU convolutions then compile five times faster, and the
# memory of those tried came out the same to the byte; a CPU's is settled before.
_OPTIONS: Mapping[str, dict[str, Any]] = {
    "tpu": {"exec_time_optimization_effort": -1.0},
    "cpu": {"xla_backend_optimization_level": 0},
}


class Program(NamedTuple):
    """A function to be compiled, its abstract arguments, and what these are.

    Attributes:
      trace: of the compiled function, called with the arguments.
      kinds: name -> the part of the arguments that it stands for.
    """

    trace: Callable[..., Any]
    args: tuple[Tree, ...]
    kinds: Mapping[str, Tree]


@dataclasses.dataclass(frozen=True)
class Compiled:
    """What the compiler says of a program; bytes are those of one device.

    Attributes:
      arguments, output, shared, temporary, code: bytes; `shared` lie in both arguments
        and output.
      peak: most bytes in use at a time by the compiler's account; 0 where it has none.
      needed: GiB of a program that does not fit, 0 of one that does.
      text: of the compiled program, "" of one that does not fit.
      trace_seconds, compile_seconds: on this machine.
      host_gib: most memory that this process has used so far.
    """

    arguments: int
    output: int
    shared: int
    temporary: int
    code: int
    peak: int
    needed: float
    text: str
    trace_seconds: float
    compile_seconds: float
    host_gib: float


def training(settings: RunSettings, mesh: Mesh, shape: BatchShape) -> Program:
    """The training step, as `pipelines.train` compiles it."""
    codec = codecs.build(settings.codec, settings.model.patch)
    kinds, args = training_arguments(settings, mesh, shape)
    step = train.train_step(settings, codec, args[0])
    return Program(step.trace, args, kinds)


def training_arguments(
    settings: RunSettings, mesh: Mesh | AbstractMesh, shape: BatchShape
) -> tuple[Mapping[str, Tree], tuple[Tree, ...]]:
    """(kinds, arguments) of the training step; see `Program`."""
    codec = codecs.build(settings.codec, settings.model.patch)
    state = train.abstract_state(settings, mesh)  # type: ignore[arg-type]
    text = (settings.text.length, settings.model.text_dim)
    whole = NamedSharding(mesh, PartitionSpec())
    split = NamedSharding(mesh, PartitionSpec(rules.BATCH_AXES))
    fixed = Fixed(_codec(codec, whole), _array(text, jnp.float32, whole))
    latents = bool(settings.data.get("latents"))
    fields = shape.shapes(codec.geometry, latents=latents)
    batch = {
        name: _array(sizes, dtype, split)
        for name, (sizes, dtype) in fields.items()
        if name != "row"
    }
    knobs = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((), leaf.dtype),
        loop.knobs(settings.training, 0),
    )
    kinds = {
        "trained parameters": state.trainable,
        "frozen parameters": state.frozen,
        "optimizer": state.optimizer,
        "running mean": state.ema,
        "codec, prompt": fixed,
        "batch": batch,
    }
    return kinds, (state, fixed, batch, knobs)


def sampling(settings: RunSettings, mesh: Mesh, shape: BatchShape) -> Program:
    """One segment of a clip, as the animator's sampler compiles it."""
    settings = for_sampling(settings)
    codec = codecs.build(settings.codec, settings.model.patch)
    dtype = jnp.dtype(settings.training.dtype)
    functions = onetoall.functions(
        settings.model, dtype=dtype, attention=settings.attention
    )
    sampler = Sampler(functions, codec, settings.sampling)
    kinds, args = sampling_arguments(settings, mesh, shape)
    fn = functools.partial(
        sampler.call.trace,  # type: ignore[attr-defined]
        length=shape.num_frames,
        chained=False,
    )
    return Program(fn, args, kinds)


def sampling_arguments(
    settings: RunSettings, mesh: Mesh | AbstractMesh, shape: BatchShape
) -> tuple[Mapping[str, Tree], tuple[Tree, ...]]:
    """(kinds, arguments) of a sampled segment; prompts have the most rows that merge.

    Parameters are in the type that is computed with, as the animator reads them.
    """
    settings = for_sampling(settings)
    codec = codecs.build(settings.codec, settings.model.patch)
    model, table = settings.model, rules.table(settings.mesh.rules)
    boxed = start.boxed(model)
    params = trees.retyped(
        start.abstract(boxed, mesh, table),  # type: ignore[arg-type]
        settings.training.dtype,
    )
    whole = NamedSharding(mesh, PartitionSpec())
    b, frames, height, width = dataclasses.astuple(shape)
    rows = settings.text.sampling_length or settings.text.length
    prompt: Any = _array((b, min(rows, MOST), model.text_dim), jnp.float32, whole)
    if rows > MOST:
        prompt = Text(prompt, _array((b, MOST), jnp.float32, whole))
    grid = height // codec.geometry.spatial, width // codec.geometry.spatial
    reference = (1, *grid, model.reference_channels)
    inputs = Inputs(
        prompt=prompt,
        negative=prompt,
        reference=_array((b, *reference), jnp.float32, whole),
        black=_array((1, *reference), jnp.float32, whole),
        reference_pose_u8=_array((b, 1, height, width, 3), jnp.uint8, whole),
    )
    carry = Carry(
        _array((b, settings.sampling.overlap, height, width, 3), jnp.uint8, whole),
        _array((), jnp.int32, whole),
        _array((b, 2, 3), jnp.float32, whole),
    )
    pose = _array((1, b, frames, height, width, 3), jnp.uint8, whole)
    offset, seed = _array((1,), jnp.int32, whole), _array((), jnp.uint32, whole)
    fixed = trees.retyped(_codec(codec, whole), settings.codec.dtype)
    kinds = {
        "parameters": params,
        "codec": fixed,
        "pictures, prompts": (inputs, carry, pose),
    }
    return kinds, (params, fixed, inputs, carry, pose, offset, seed)


def bytes_per_device(tree: Tree) -> int:
    """Bytes that one device holds of abstract arrays."""

    def one(leaf: Any) -> int:
        shape = leaf.shape
        if leaf.sharding is not None:
            shape = leaf.sharding.shard_shape(shape)
        size = leaf.dtype.itemsize
        for side in shape:
            size *= side
        return size

    return sum(map(one, jax.tree.leaves(tree)))


def compile_for(mesh: Mesh, table: rules.Rules, program: Program) -> Compiled:
    """Compiles for the devices of a mesh; allocates nothing on any device.

    Args:
      table: from logical axes to the mesh's.
    """
    began = time.monotonic()
    platform = mesh.devices.flat[0].platform
    with meshes.use(mesh, table):
        traced = program.trace(*program.args)
        lowered = traced.lower(lowering_platforms=(platform,))
    traced_at = time.monotonic()
    made, needed = None, 0.0
    try:
        made = lowered.compile(_OPTIONS[platform])
    except jax.errors.JaxRuntimeError as error:
        needed = _needed(str(error))
    seconds = (traced_at - began, time.monotonic() - traced_at)
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB
    if made is None:
        return Compiled(0, 0, 0, 0, 0, 0, needed, "", *seconds, host)
    stats = made.memory_analysis()
    return Compiled(
        arguments=stats.argument_size_in_bytes,
        output=stats.output_size_in_bytes,
        shared=stats.alias_size_in_bytes,
        temporary=stats.temp_size_in_bytes,
        code=stats.generated_code_size_in_bytes,
        peak=stats.peak_memory_in_bytes,
        needed=0.0,
        text=made.as_text(),
        trace_seconds=seconds[0],
        compile_seconds=seconds[1],
        host_gib=host,
    )


def _needed(message: str) -> float:
    """GiB that a program would use, from the compiler's refusal of it."""
    said = re.search(
        r"(?:[Uu]sed |required for HLO temporaries \()([\d.]+)([KMGT])", message
    )
    if "RESOURCE_EXHAUSTED" not in message or said is None:
        raise RuntimeError(message)
    return float(said[1]) * {"K": 2**-20, "M": 2**-10, "G": 1, "T": 2**10}[said[2]]


def _codec(codec: Codec, where: NamedSharding) -> Tree:
    plain = nn.meta.unbox(jax.eval_shape(codec.init, jax.random.key(0)))
    return jax.tree.map(lambda leaf: _array(leaf.shape, leaf.dtype, where), plain)


def _array(shape: tuple[int, ...], dtype: Any, where: NamedSharding) -> Any:
    return jax.ShapeDtypeStruct(shape, dtype, sharding=where)
