"""Reads a recorded case and judges outputs against it."""

import dataclasses
import fnmatch
import functools
import hashlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from PIL import Image
from safetensors import safe_open

from onetoall_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the report: an output, its errors and what they may be."""

    name: str
    errors: Mapping[str, float]
    allowed: Mapping[str, float]

    @property
    def passed(self) -> bool:
        """Every bound holds; a NaN is never within a bound."""
        return all(self.errors[k] <= bound for k, bound in self.allowed.items())


@dataclasses.dataclass(frozen=True)
class Case:
    """A case directory: `case.json` and its arrays."""

    path: Path
    info: Mapping[str, Any]

    @property
    def kind(self) -> str:
        return self.info["kind"]

    @property
    def config(self) -> Mapping[str, Any]:
        return self.info["config"]

    @functools.cached_property
    def inputs(self) -> dict[str, np.ndarray]:
        return self._arrays("inputs.safetensors")

    @functools.cached_property
    def outputs(self) -> dict[str, np.ndarray]:
        return self._arrays("outputs.safetensors")

    def weights(self, part: str | None = None) -> dict[str, np.ndarray]:
        """Official tensors, bfloat16, of the case or of one of its parts."""
        where = self.info["weights"]
        if part is not None:
            where = where[part]
        path = (self.path / where).resolve()
        if path.suffix == ".json":
            return generate(json.loads(path.read_text()))
        ignored = self.info.get("ignored_weight_keys") or ()

        def wanted(key: str) -> bool:
            return not any(
                fnmatch.fnmatchcase(key, p) or fnmatch.fnmatchcase(key, p + ".*")
                for p in ignored
            )

        return {k: v for k, v in read_safetensors(path).items() if wanted(k)}

    def tolerance(self, name: str) -> dict[str, float]:
        """Bounds of an output: its own, or those of "*"."""
        table = self.info["tolerance"]
        return dict(table.get(name, table.get("*", {})))

    def _arrays(self, file: str) -> dict[str, np.ndarray]:
        arrays = {}
        for key, value in read_safetensors(self.path / file).items():
            if key.endswith(".tiles.png"):
                name = key.removesuffix(".tiles.png")
                arrays[name] = _png(value).reshape(self.config["tiles"][name])
            elif key.endswith(".png"):
                picture = _png(value)
                channel = picture.ndim == 2
                arrays[key.removesuffix(".png")] = (
                    picture[..., None] if channel else picture
                )
            else:
                arrays[key] = value
        return arrays


def load(path: Path) -> Case:
    """Case of a directory that holds `case.json`."""
    try:
        return Case(path, json.loads((path / "case.json").read_text()))
    except (OSError, json.JSONDecodeError) as error:
        raise UserError(f"{path} holds no readable case.json: {error}.") from error


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """All arrays of a file."""
    with safe_open(path, framework="numpy") as file:
        return {key: file.get_tensor(key) for key in file.keys()}


def _png(data: np.ndarray) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data.tobytes())))


def draw(
    seed: int, name: str, shape: tuple[int, ...], mean: float, amp: float
) -> np.ndarray:
    """Reproducible bfloat16 values, uniform in [mean - amp, mean + amp).

    A counter run through the splitmix64 finaliser, started from a hash of the name:
    exact integer arithmetic, the same everywhere.
    """
    n = int(np.prod(shape))
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    start = np.uint64(int.from_bytes(digest[:8], "little"))
    with np.errstate(over="ignore"):
        z = start + np.arange(1, n + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    u = (z >> np.uint64(40)).astype(np.float64) / 2**23 - 1.0
    return (mean + amp * u).astype(np.float32).astype(ml_dtypes.bfloat16).reshape(shape)


def generate(rule: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Tensors described by a seed; checked against the recorded hash.

    Raises:
      UserError: the hash differs, so the numbers would prove nothing.
    """
    tensors = {
        name: draw(rule["seed"], name, tuple(t["shape"]), t["mean"], t["amp"])
        for name, t in rule["tensors"].items()
    }
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(tensors[name].tobytes())
    if digest.hexdigest() != rule["sha256"]:
        raise UserError("The generated weights do not have the recorded sha256.")
    return tensors


def compare(
    name: str, ours: np.ndarray, golden: np.ndarray, allowed: Mapping[str, float]
) -> Row:
    """Errors of `ours` under every bound in `allowed`, computed in float64.

    Bounds: rel_l2, max_abs, max_rel, mean_abs, share, exact (see the kinds' pages).
    A shape that differs counts as an infinite error.
    """
    if np.shape(ours) != golden.shape:
        return Row(
            f"{name} {np.shape(ours)} != {golden.shape}",
            dict.fromkeys(allowed, float("inf")),
            _numbers(allowed),
        )
    a, b = np.asarray(ours).astype(np.float64), golden.astype(np.float64)
    d = np.abs(a - b)
    norm = float(np.linalg.norm(b))
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = np.where(b != 0, d / np.abs(b), np.where(d == 0, 0.0, np.inf))
    measured = {
        "rel_l2": float(np.linalg.norm(a - b)) / norm if norm else float(d.max() > 0),
        "max_abs": float(d.max(initial=0.0)),
        "max_rel": float(relative.max(initial=0.0)),
        "mean_abs": float(d.mean()) if d.size else 0.0,
        "share": float((d != 0).mean()) if d.size else 0.0,
        "exact": float((d != 0).sum() + np.isnan(d).sum()),
    }
    return Row(name, {k: measured[k] for k in allowed}, _numbers(allowed))


def _numbers(allowed: Mapping[str, float]) -> dict[str, float]:
    return {k: 0.0 if k == "exact" else float(v) for k, v in allowed.items()}
