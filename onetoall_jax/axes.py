"""Logical axis names, the strict constraint, and the kind of device compiled for."""

import math

import flax.linen as nn
import jax
from flax.linen.spmd import RulesFallback
from jax.sharding import AxisType, PartitionSpec

# Activations.
BATCH = "batch"  # clips
TOKENS = "tokens"  # query tokens: prefix frame, then the video's
REFERENCE_COPIES = "reference_copies"  # one whole reference for each shard of TOKENS
STRIPS = "strips"  # parts of pictures, clip by clip
TEXT_TOKENS = "text_tokens"
EMBED = "embed"  # residual stream, activations
HEADS = "heads"  # attention heads, or the N*K width they are flattened into
MLP = "mlp"
FRAMES = "frames"  # latent or pixel frames
HEIGHT = "height"
WIDTH = "width"
CHANNELS = "channels"
# Parameters only.
PARAM_EMBED = "param_embed"  # the D side of a matrix: what FSDP splits
PARAM_HEADS = "param_heads"  # the N*K side of an attention matrix
PARAM_MLP = "param_mlp"
LAYERS = "layers"
MODULATION = "modulation"
NORM = "norm"  # scales and biases
CONV_IN = "conv_in"
CONV_OUT = "conv_out"
VOCAB = "vocab"

ALL = tuple(v for k, v in list(vars().items()) if k.isupper() and isinstance(v, str))


def constrain(x: jax.Array, *names: str | None) -> jax.Array:
    """Pins the sharding of `x` by logical axis names; None leaves an axis whole.

    Without rules in force it does nothing, so single-device code needs no mesh.

    Raises:
      ValueError: a name that `ALL` does not list, a rank that differs, or rules without
        a mesh, under which JAX would drop the constraint in silence.
    """
    _check(names)
    if len(names) != x.ndim:
        raise ValueError(f"{len(names)} axis names for an array of rank {x.ndim}")
    if nn.get_logical_axis_rules() and jax.sharding.get_abstract_mesh().empty:
        raise ValueError("rules are in force without a mesh: enter sharding.mesh.use")
    return nn.with_logical_constraint(x, names, fallback=RulesFallback.RAISE_ERROR)


def spec(*names: str | None) -> PartitionSpec:
    """Mesh axes of logical ones under the rules in force; everything whole without."""
    _check(names)
    if not nn.get_logical_axis_rules():
        return PartitionSpec(*[None] * len(names))
    return PartitionSpec(*(nn.logical_to_mesh_axes(names) or ()))


def shards(name: str) -> int:
    """Parts into which the mesh in force splits a logical axis; 1 without a mesh."""
    (axis,) = spec(name)
    return size(axis)


def size(axis: str | tuple[str, ...] | None) -> int:
    """Devices along mesh axes that the compiler (not the caller) shares work over."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return 1
    kinds = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))
    parts = (axis,) if isinstance(axis, str) else tuple(axis or ())
    return math.prod(mesh.shape[a] for a in parts if kinds[a] == AxisType.Auto)


def alone() -> bool:
    """Does one device hold everything, parameters included?"""
    mesh = jax.sharding.get_abstract_mesh()
    return mesh.empty or mesh.size == 1


def _check(names: tuple[str | None, ...]) -> None:
    for name in names:
        if name is not None and name not in ALL:
            raise ValueError(f"{name!r} is not a logical axis; known are {ALL}")


def platform() -> str:
    """The kind of device that the traced program will run on: "cpu", "gpu" or "tpu".

    The devices of the mesh in force decide, so that a program can be compiled for
    devices which this machine lacks; without a mesh, JAX's default backend.
    """
    device = jax.sharding.get_abstract_mesh().abstract_device
    return jax.default_backend() if device is None else device.platform


def free_bytes() -> float | None:
    """Memory of a device beside what lies there while a program is traced.

    None where that is unknown: on a CPU, and when compiled for another machine.
    """
    device = jax.local_devices()[0]
    stats = device.memory_stats() if device.platform == platform() else None
    return stats["bytes_limit"] - stats["bytes_in_use"] if stats else None
