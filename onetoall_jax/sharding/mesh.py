"""The mesh of devices and the place where it is put in force."""

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from onetoall_jax.errors import UserError
from onetoall_jax.sharding.rules import Rules

AXES = ("data", "fsdp", "context", "tensor")


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Devices along each axis; -1 for one of them takes what is left.

    Attributes:
      data: copies of the whole model.
      fsdp: parameters and optimiser split, gathered where used; also splits the batch.
      context: tokens of one clip split.
      tensor: heads and feed-forward width split.
    """

    data: int = 1
    fsdp: int = -1
    context: int = 1
    tensor: int = 1


def build(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Mesh over `devices` (default all).

    Raises:
      UserError: the sizes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = [getattr(config, axis) for axis in AXES]
    known = int(np.prod([s for s in sizes if s != -1]))
    if sizes.count(-1) == 1 and known and len(devices) % known == 0:
        sizes[sizes.index(-1)] = len(devices) // known
    if int(np.prod(sizes)) != len(devices) or min(sizes) < 1:
        raise UserError(
            f"A mesh of {dict(zip(AXES, sizes, strict=True))} does not cover "
            f"{len(devices)} devices: make the product equal, or one size -1."
        )
    # Explicit axes, the default of jax.make_mesh, would turn constraints into checks.
    return Mesh(
        np.asarray(devices).reshape(sizes), AXES, axis_types=(AxisType.Auto,) * 4
    )


@contextlib.contextmanager
def use(mesh: Mesh, rules: Rules) -> Iterator[None]:
    """Puts mesh and rules in force: `axes.constrain` takes effect inside."""
    with jax.set_mesh(mesh), nn.logical_axis_rules(rules):
        yield
