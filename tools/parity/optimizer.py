"""AdamW with clipping: five steps on given gradients."""

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from onetoall_jax.training import optimizer
from onetoall_jax.training.settings import OptimizerConfig
from tools.parity.case import Row, compare

CEILING = {"max_abs": 5e-5}


def config_of(recorded: Mapping[str, Any]) -> OptimizerConfig:
    """Our settings from a case's optimiser, at a constant rate."""
    return OptimizerConfig(
        learning_rate=recorded["lr"],
        beta1=recorded["beta1"],
        beta2=recorded["beta2"],
        eps=recorded["eps"],
        weight_decay=recorded["weight_decay"],
        clip_norm=recorded["clip_global_norm"],
        warmup_steps=0,
    )


def check(table: Mapping[str, Any]) -> Iterator[Row]:
    """Gradient norm and every parameter after each step."""
    bounds = {k: min(v, CEILING[k]) for k, v in table["tolerance"].items()}
    config = config_of(table["optimizer"])
    tx = optimizer.transform(config)
    params = _arrays(table["initial"])
    state = tx.init(params)
    steps = zip(table["gradients"], table["after_step"], strict=True)
    for step, (gradient, after) in enumerate(steps):
        norm = optax.tree.norm(_arrays(gradient))
        direction, state = tx.update(_arrays(gradient), state, params)
        params = optimizer.apply(params, direction, config.learning_rate)
        ours = {"global_norm": norm, **params}
        for name, golden in after.items():
            yield compare(
                f"step {step + 1} {name}", ours[name], np.asarray(golden), bounds
            )


def _arrays(tree: Mapping[str, Any]) -> dict[str, jax.Array]:
    return {name: jnp.asarray(value, jnp.float32) for name, value in tree.items()}
