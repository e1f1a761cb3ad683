"""The mesh of devices and the place where it is put in force."""

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Sequence

import flax.linen as nn
import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

from onetoall_jax.errors import UserError
from onetoall_jax.sharding.rules import MESH_AXES, Rules

# Which rules are in force is part of what a compiled program is remembered by; of the
# rules that the constraints read, JAX knows nothing.
_IN_FORCE = jax.make_user_context(None)


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Devices along each axis; -1 for one of them takes what is left.

    Attributes:
      data: copies of the whole model.
      fsdp: parameters and optimiser split, gathered where used; also splits the batch.
      context: tokens of one clip split.
      tensor: heads and feed-forward width split.
      rules: rows that take the place of the table's own (`rules.table`), as
        (("param_embed", ()),) for parameters that lie whole on every device.
    """

    data: int = 1
    fsdp: int = -1
    context: int = 1
    tensor: int = 1
    rules: tuple[tuple[str, tuple[str, ...]], ...] = ()


def build(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Mesh over `devices` (default all).

    Raises:
      UserError: the sizes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = [getattr(config, axis) for axis in MESH_AXES]
    known = math.prod(s for s in sizes if s != -1)
    if sizes.count(-1) == 1 and known and len(devices) % known == 0:
        sizes[sizes.index(-1)] = len(devices) // known
    if math.prod(sizes) != len(devices) or min(sizes) < 1:
        raise UserError(
            f"A mesh of {dict(zip(MESH_AXES, sizes, strict=True))} does not cover "
            f"{len(devices)} devices: make the product equal, or one size -1."
        )
    # Explicit axes, the default of jax.make_mesh, would turn constraints into checks.
    kinds = (AxisType.Auto,) * len(MESH_AXES)
    return Mesh(_arranged(sizes, devices), MESH_AXES, axis_types=kinds)


def _arranged(sizes: Sequence[int], devices: Sequence[jax.Device]) -> np.ndarray:
    """Devices so that neighbours along an axis are neighbours in a TPU's network."""
    if devices[0].platform != "tpu" or len(devices) == 1:
        return np.asarray(devices).reshape(sizes)
    return mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)


@contextlib.contextmanager
def use(mesh: Mesh, rules: Rules) -> Iterator[None]:
    """Puts mesh and rules in force: `axes.constrain` takes effect inside."""
    rules = tuple(rules)
    with jax.set_mesh(mesh), nn.logical_axis_rules(rules), _IN_FORCE(rules):
        yield
