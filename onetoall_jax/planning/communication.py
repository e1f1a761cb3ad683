"""Bytes that one device sends in a training step, by a formula."""

from collections.abc import Mapping

from onetoall_jax.models.settings import ModelConfig
from onetoall_jax.planning.collectives import Collective

# A gradient lies in float32, like its parameter.
_GRADIENT = 4


def training(
    model: ModelConfig,
    mesh: Mapping[str, int],
    parameters: float,
    trained: float,
    tokens: float,
    *,
    each: int,
    repeats: bool,
) -> list[Collective]:
    """Collectives of a step, with Ulysses where devices share tokens.

    Args:
      mesh: devices along each axis.
      parameters, trained: counts of all and of the trained ones.
      tokens: of one device.
      each: bytes of a value that is computed with.
      repeats: blocks are computed again in the backward pass.
    """
    data, fsdp, context, tensor = (
        mesh[axis] for axis in ("data", "fsdp", "context", "tensor")
    )
    blocks = model.num_layers + model.pose_layers
    passes = 3 if repeats else 2
    rows = []

    def add(kind: str, calls: float, bytes_each: float, devices: int) -> None:
        if devices > 1:
            sent = calls * bytes_each * (devices - 1) / devices
            rows.append(Collective(kind, calls, sent))

    # Devices that share a clip's tokens share the parameters as well.
    parts = fsdp * context
    add("all-gather", 2 * blocks, parameters * each / tensor / blocks, parts)
    add("reduce-scatter", blocks, trained * _GRADIENT / tensor / blocks, parts)
    add("all-reduce", blocks, 2 * trained * _GRADIENT / parts / tensor / blocks, data)
    # Queries, keys and values go to the heads' devices, the result comes back.
    add("all-to-all", passes * blocks, 4 * tokens * model.dim * each, context)
    # Outputs of attention, text attention and feed-forward are sums over devices.
    sums = 3 * passes * blocks
    add("all-reduce", sums, 2 * tokens * model.dim * each, tensor)
    return rows


def sampling(
    model: ModelConfig,
    mesh: Mapping[str, int],
    parameters: float,
    tokens: float,
    passes: int,
    *,
    each: int,
) -> list[Collective]:
    """Collectives of `passes` forward passes; arguments as for `training`."""
    parts, tensor = mesh["fsdp"] * mesh["context"], mesh["tensor"]
    blocks = passes * (model.num_layers + model.pose_layers)
    rows = []
    for kind, calls, bytes_each, devices in (
        ("all-gather", blocks, passes * parameters * each / tensor / blocks, parts),
        ("all-to-all", blocks, 4 * tokens * model.dim * each, mesh["context"]),
        ("all-reduce", 3 * blocks, 2 * tokens * model.dim * each, tensor),
    ):
        if devices > 1:
            sent = calls * bytes_each * (devices - 1) / devices
            rows.append(Collective(kind, calls, sent))
    return rows
