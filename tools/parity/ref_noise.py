"""Noise on the reference with given draws, the released size and the intended one."""

from collections.abc import Iterator

import jax.numpy as jnp
import numpy as np

from onetoall_jax.training import reference_noise
from tools.parity.case import Case

CEILING = {"*": {"max_abs": 1e-5}}
_SIZES = (("intended", False), ("released", True))


def run(case: Case, dtype: jnp.dtype) -> Iterator[tuple[str, np.ndarray]]:
    """Noisy references of every recorded run, and the sizes where noise was drawn."""
    del dtype  # pixels are float32 whatever the network computes in
    inputs = case.inputs
    for sub in case.config["sub"]:
        at = f"s{sub['i']}/"
        reference = _picture(inputs[at + "x"])
        mask = np.zeros(reference.shape[:-1], np.float32)
        if at + "mask" in inputs:
            mask = _picture(inputs[at + "mask"])[..., 0]
        zero = np.zeros(len(reference), np.float32)
        log_size = jnp.asarray(inputs.get(at + "log_sigma", zero))
        noise = np.zeros_like(reference)
        if at + "eps" in inputs:
            noise = _picture(inputs[at + "eps"])
        chosen = sub["clear_draw"] >= case.config["clear_ratio"]
        for name, twice in _SIZES:
            sigma = reference_noise.size(log_size, double_exponential=twice)
            made = reference_noise.add(
                jnp.asarray(reference),
                jnp.asarray(mask),
                jnp.asarray(noise),
                sigma,
                jnp.full(len(reference), chosen),
            )
            if f"{at}sigma_{name}" in case.outputs:
                yield f"{at}sigma_{name}", np.asarray(sigma)
            yield at + name, np.moveaxis(np.asarray(made), -1, 1)[:, :, None]


def _picture(x: np.ndarray) -> np.ndarray:
    """[B,C,1,H,W] -> [B,H,W,C]."""
    return np.moveaxis(x[:, :, 0], 1, -1)
