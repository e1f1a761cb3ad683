"""Noise levels of the Euler sampler, of training, and the warm-up of its rate."""

from collections.abc import Iterator, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from onetoall_jax import flow
from onetoall_jax.training import optimizer
from onetoall_jax.training.settings import OptimizerConfig
from tools.parity.case import Row, compare

CEILING = {"sigmas": 1e-6, "timesteps": 1e-3}


def check(table: Mapping[str, Any]) -> Iterator[Row]:
    """A row for sigmas and timesteps of every schedule, the training grid, the rate."""
    allowed = {
        k: {"max_abs": min(table["tolerance"][k], v)} for k, v in CEILING.items()
    }
    for case in table["cases"]:
        name = f"shift {case['shift']}, {case['steps']} steps"
        ours = flow.sampling_sigmas(case["steps"], case["shift"])
        for what, value in (
            ("sigmas", ours),
            ("timesteps", flow.timesteps_of(ours[:-1])),
        ):
            golden = np.asarray(case[what], np.float64)
            yield compare(f"{what}, {name}", value, golden, allowed[what])
    yield from _training(table["training"])
    yield from _rate(table["learning_rate"])


def _training(recorded: Mapping[str, Any]) -> Iterator[Row]:
    """Both ends of the grid that training draws from."""
    middles = (np.arange(flow.TIMESTEPS) + 0.5) / flow.TIMESTEPS
    timesteps = flow.training_timestep(jnp.asarray(middles))
    sigmas = flow.sigma_of(timesteps)
    ours = {"timesteps": np.asarray(timesteps), "sigmas": np.asarray(sigmas)}
    for what, values in ours.items():
        for end in ("head", "tail"):
            golden = np.asarray(recorded[f"{what}_{end}"], np.float64)
            part = values[: len(golden)] if end == "head" else values[-len(golden) :]
            yield compare(f"training {what}, {end}", part, golden, {"max_rel": 1e-7})


def _rate(recorded: Mapping[str, Any]) -> Iterator[Row]:
    config = OptimizerConfig(
        learning_rate=recorded["base"], warmup_steps=recorded["warmup_steps"]
    )
    golden = {int(k): v for k, v in recorded["lr_at_optimizer_step"].items()}
    total = max(golden) + 1
    ours = np.array([optimizer.learning_rate(config, k, total) for k in golden])
    yield compare("rate", ours, np.array(list(golden.values())), {"max_rel": 1e-12})
