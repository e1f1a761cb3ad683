"""Names of machines, and devices to compile for where the machine itself is not here.

"v5p:4x4x4" (libtpu's names), "cpu:8", "gpu:h100:8".
"""

import dataclasses
import math
import os
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from onetoall_jax.errors import UserError
from onetoall_jax.planning import rates

if TYPE_CHECKING:
    import jax

# Chip -> number of axes of its torus.
_TORUS = {"v4": 3, "v5p": 3, "v5e": 2, "v6e": 2}
_GPUS = ("a100", "h100", "h200")
_EXAMPLES = "v4:2x2x2, v5e:4x4, v5p:4x4x4, v6e:4x4, cpu:8, gpu:h100:8"

# Read by libtpu when it is loaded: there is no TPU whose metadata it could ask for, and
# several plans may be made at a time.
_LIBTPU = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5p-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_STDERR_LOG_LEVEL": "3",
    "TPU_MIN_LOG_LEVEL": "3",
}


@dataclasses.dataclass(frozen=True)
class Topology:
    """A machine.

    Attributes:
      name: as it was given.
      platform: "tpu", "gpu" or "cpu".
      devices: how many of them.
      chip: what each of them is; None for a CPU, which has no place in the table.
    """

    name: str
    platform: str
    devices: int
    chip: rates.Chip | None

    @property
    def memory(self) -> float | None:
        """Bytes that a program may use of one device; None where nobody knows."""
        return None if self.chip is None else self.chip.memory * rates.GIB


def parse(name: str) -> Topology:
    """Topology of a name.

    Raises:
      UserError: no such machine; examples are listed.
    """
    kind, _, rest = name.partition(":")
    if kind == "cpu" and rest.isdigit() and int(rest):
        return Topology(name, "cpu", int(rest), None)
    gpu, _, count = rest.partition(":")
    if kind == "gpu" and gpu in _GPUS and count.isdigit() and int(count):
        return Topology(name, "gpu", int(count), rates.CHIPS[gpu])
    if kind in _TORUS and re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", rest):
        sides = [int(side) for side in rest.split("x")]
        if len(sides) == _TORUS[kind]:
            return Topology(name, "tpu", math.prod(sides), rates.CHIPS[kind])
    raise UserError(f"There is no topology {name!r}: name one as in {_EXAMPLES}.")


def prepare(topology: Topology) -> None:
    """Sets what JAX and libtpu read when they start; call before JAX is first used."""
    import jax

    jax.config.update("jax_platforms", "cpu")  # libtpu would look for a TPU to run on
    for key, value in _LIBTPU.items():
        os.environ.setdefault(key, value)
    if topology.platform == "cpu":
        count = f"--xla_force_host_platform_device_count={topology.devices}"
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {count}".strip()


def devices(topology: Topology) -> "Sequence[jax.Device]":
    """Devices that a program can be compiled for; they cannot run one unless CPUs.

    Raises:
      UserError: too few CPU devices, no libtpu, or a shape that libtpu does not know.
    """
    import jax

    if topology.platform == "cpu":
        here = jax.devices("cpu")
        if len(here) < topology.devices:
            raise UserError(
                f"{topology.name} needs {topology.devices} CPU devices, but JAX has "
                f"started with {len(here)}: plan it in a process of its own."
            )
        return here[: topology.devices]
    if topology.platform != "tpu":
        raise UserError(f"Programs for {topology.name} cannot be compiled here.")
    from jax.experimental import topologies

    kind, _, shape = topology.name.partition(":")
    # A v4 chip's two cores work as one device, as they do in a pod.
    options: dict[str, Any] = {"chip_config_name": "megacore"} if kind == "v4" else {}
    if topology.devices == 1:  # libtpu takes hosts of four by itself
        options["chips_per_host_bounds"] = (1, 1, 1)
    try:
        described = topologies.get_topology_desc(topology.name, "tpu", **options)
    except (RuntimeError, ValueError) as error:
        said = str(error).splitlines()[0]
        raise UserError(
            f"libtpu gives no topology {topology.name} ({said}): install it with "
            "`pip install 'onetoall-jax[tpu]'`, and give a shape that exists."
        ) from error
    return described.devices
