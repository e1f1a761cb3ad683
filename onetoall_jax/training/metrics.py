"""What training measures, summed over steps on the device until it is written down."""

import clu.metrics
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

TIME_PARTS = 4


@flax.struct.dataclass
class LossByTime(clu.metrics.Metric):
    """Mean loss in equal parts of the time axis 0..1000.

    Attributes:
      total, count: [TIME_PARTS], summed losses and number of clips.
    """

    total: jax.Array
    count: jax.Array

    @classmethod
    def empty(cls) -> "LossByTime":
        return cls(jnp.zeros(TIME_PARTS), jnp.zeros(TIME_PARTS))

    @classmethod
    def from_model_output(
        cls, losses: jax.Array, timestep: jax.Array, **_: jax.Array
    ) -> "LossByTime":
        part = (timestep * (TIME_PARTS / 1000.0)).astype(jnp.int32)
        part = jnp.minimum(part, TIME_PARTS - 1)  # 1000 itself
        hit = jax.nn.one_hot(part, TIME_PARTS, dtype=jnp.float32)
        return cls(losses @ hit, jnp.sum(hit, axis=0))

    def merge(self, other: "LossByTime") -> "LossByTime":
        return LossByTime(self.total + other.total, self.count + other.count)

    def compute(self) -> np.ndarray:
        """[TIME_PARTS]; a part without clips is NaN."""
        total, count = np.asarray(self.total), np.asarray(self.count)
        return np.where(count > 0, total / np.maximum(count, 1), np.nan)


@flax.struct.dataclass
class Metrics(clu.metrics.Collection):
    """Made by `single_from_model_output(losses [B], timestep [B], grad_norm [])`."""

    loss: clu.metrics.Average.from_output("losses")  # type: ignore[valid-type]
    grad_norm: clu.metrics.Average.from_output("grad_norm")  # type: ignore[valid-type]
    by_time: LossByTime

    def values(self) -> dict[str, float]:
        """Means by name, on the host."""
        made = self.compute()
        parts = {f"loss_time_{i}": float(v) for i, v in enumerate(made.pop("by_time"))}
        return {name: float(value) for name, value in made.items()} | parts
