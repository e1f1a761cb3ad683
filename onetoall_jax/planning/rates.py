"""Devices as a plan sees them: memory, links, and how near they come to their peak."""

import dataclasses

from onetoall_jax.training import flops

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """One device.

    The shares of the peak are assumptions until a measurement replaces them: those of
    the H100 and the v5p are chosen so that published times come out, the others follow
    the chip most like them.

    Attributes:
      kind: as JAX names it (`device_kind`); `flops.peak` has its operations a second.
      memory: GiB that a program may use; of TPUs as their compiler enforces it.
      bandwidth: TB/s of the device's memory, by the vendor.
      links: GB/s to other devices of the slice or host, both directions, by the vendor.
      matmul, attention, attention_backward, convolution: share of the peak reached.
    """

    kind: str
    memory: float
    bandwidth: float
    links: float
    matmul: float
    attention: float
    attention_backward: float
    convolution: float

    @property
    def peak(self) -> float:
        """Dense bfloat16 operations a second."""
        value = flops.peak(self.kind)
        assert value is not None, self.kind
        return value * 1e12


CHIPS = {
    "v4": Chip("TPU v4", 30.75, 1.23, 600, 0.65, 0.45, 0.38, 0.35),
    "v5e": Chip("TPU v5 lite", 15.75, 0.82, 400, 0.65, 0.45, 0.38, 0.35),
    "v5p": Chip("TPU v5", 95.74, 2.77, 1200, 0.65, 0.45, 0.38, 0.35),
    "v6e": Chip("TPU v6 lite", 31.25, 1.64, 800, 0.55, 0.33, 0.27, 0.30),
    "h100": Chip("H100", 79.0, 3.35, 900, 0.70, 0.60, 0.48, 0.25),
    "h200": Chip("H200", 140.0, 4.80, 900, 0.70, 0.62, 0.50, 0.25),
    "a100": Chip("A100", 79.0, 2.04, 600, 0.75, 0.65, 0.53, 0.35),
}

# Of the memory bandwidth, by fused element-wise code; of one direction of the links.
_STREAMED = 0.8
_LINKED = 0.9


@dataclasses.dataclass(frozen=True)
class Load:
    """What one device does in a step.

    Attributes:
      matmul, attention, attention_backward, convolution: operations.
      bytes: read and written by element-wise code.
      sent: bytes to other devices.
    """

    matmul: float
    attention: float
    attention_backward: float
    convolution: float
    bytes: float
    sent: float = 0.0


@dataclasses.dataclass(frozen=True)
class Time:
    """Predicted seconds of a step; parts of `compute` by what sets their pace."""

    matmul: float
    attention: float
    convolution: float
    elementwise: float
    sending: float

    @property
    def compute(self) -> float:
        """Seconds without communication."""
        return self.matmul + self.attention + self.convolution + self.elementwise

    @property
    def step(self) -> float:
        """Seconds of a step: what is sent travels while the device computes."""
        return max(self.compute, self.sending)


def predict(chip: Chip, load: Load) -> Time:
    """Time of a step by constant rates; see the columns of `Chip`."""
    backward = load.attention_backward / chip.attention_backward
    return Time(
        matmul=load.matmul / chip.matmul / chip.peak,
        attention=(load.attention / chip.attention + backward) / chip.peak,
        convolution=load.convolution / chip.convolution / chip.peak,
        elementwise=load.bytes / (_STREAMED * chip.bandwidth * 1e12),
        sending=load.sent / (_LINKED * chip.links / 2 * 1e9),
    )
