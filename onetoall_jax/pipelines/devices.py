"""One clip over several devices: their mesh, parameters in shards, programs in it."""

import contextlib
from collections.abc import Callable

import jax
from jax.sharding import Mesh

from onetoall_jax.errors import UserError
from onetoall_jax.sampling import guidance
from onetoall_jax.sampling.settings import SamplingConfig
from onetoall_jax.sharding import mesh as meshes
from onetoall_jax.sharding import rules
from onetoall_jax.sharding.mesh import MeshConfig


def shares(devices: int, passes: int) -> MeshConfig:
    """Devices divided between the passes of a step and the tokens of each pass.

    A split of passes that leaves no device idle comes first, for passes exchange
    nothing but their sum. Parameters lie in shards over all devices.
    """
    splits = [d for d in range(1, devices + 1) if devices % d == 0]
    # Time is as rounds of passes by devices that a pass does not get.
    best = min(splits, key=lambda d: (-(-passes // d) * d, -d))
    return MeshConfig(data=1, fsdp=best, context=devices // best)


def mesh_of(config: SamplingConfig) -> Mesh | None:
    """Mesh of `config.devices`; None for one device, which needs none.

    Raises:
      UserError: more devices than there are.
    """
    there = jax.devices()
    count = config.devices or len(there)
    if count > len(there):
        raise UserError(
            f"sampling.devices={count}, but there are {len(there)} devices: give that "
            "or less, or 0 for all."
        )
    if count == 1:
        return None
    split = shares(count, len(guidance.table(config)))
    return meshes.build(split, there[:count])


def scope(mesh: Mesh) -> Callable[[], contextlib.AbstractContextManager]:
    """What a program has to be traced and called in."""
    return lambda: meshes.use(mesh, rules.RULES)
