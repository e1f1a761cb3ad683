"""Adapters under the names that other programs know, and back.

Source: section 8 of the released checkpoints' page.
"""

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from onetoall_jax import lora, trees
from onetoall_jax.conversion import apply
from onetoall_jax.conversion.tables import denoiser
from onetoall_jax.errors import UserError

FORMS = ("diffusers", "original", "kohya")
# A key is prefix, module, part; the part says which of the pair it is.
_PREFIX = re.compile(
    r"^(transformer\.|diffusion_model\.|base_model\.model\.|lora_unet_)"
)
_PART = re.compile(
    r"[._](lora_A|lora_B|lora_down|lora_up)(\.default)?\.weight$|\.alpha$"
)
_DOWN, _UP, _ALPHA = "down", "up", "alpha"
_PARTS = {"lora_A": _DOWN, "lora_down": _DOWN, "lora_B": _UP, "lora_up": _UP}


class Module(NamedTuple):
    """A linear layer of ours: name without "/kernel", number in its stack, sizes."""

    name: str
    layer: int | None
    rows: int
    columns: int


def modules(kind: str, base: Mapping[str, Any]) -> dict[str, Module]:
    """Diffusers' module name -> the layer of ours, for every dense layer of a model.

    Args:
      base: tree of arrays or ShapeDtypeStruct, without adapters.
    """
    leaves = trees.flatten(base)
    found = {}
    for key, (leaf, layer, layout) in apply.foreign_names(kind, base).items():
        if layout == "dense":
            rows, columns = leaves[leaf].shape[-2:]
            name = leaf.removesuffix("/kernel")
            found[key.removesuffix(".weight")] = Module(name, layer, rows, columns)
    return found


def _is_wan(module: str) -> bool:
    own = ("refextractor.", "controlnet", "image_to_cond", "input_hint_block")
    return not module.startswith(own) and "add_" not in module


def _foreign(module: str, form: str) -> str:
    """The module as the form calls it."""
    if form == "diffusers" or not _is_wan(module):
        return f"transformer.{module}"
    original = denoiser.original_name(module + ".").removesuffix(".")
    if form == "original":
        return f"diffusion_model.{original}"
    return "lora_unet_" + original.replace(".", "_")


def export(
    kind: str, base: Mapping[str, Any], adapters: Mapping[str, Any], form: str
) -> Iterator[tuple[str, np.ndarray]]:
    """(name, float32 tensor) of every adapter, layer by layer.

    Args:
      base: shapes of the model that the adapters belong to.
      form: "diffusers" (lora_A, lora_B, the scale multiplied into B), "original" (Wan's
        own names, as ComfyUI reads them) or "kohya", both with down, up and alpha.
        Layers that plain Wan lacks keep Diffusers-like names in every form.
    Raises:
      UserError: an unknown form.
    """
    if form not in FORMS:
        raise UserError(f"There is no form {form!r}: choose from {FORMS}.")
    leaves = trees.flatten(adapters)
    for key, module in modules(kind, base).items():
        if f"{module.name}/{lora.DOWN}" not in leaves:
            continue
        down, up, scale = (
            np.asarray(leaves[f"{module.name}/{part}"], np.float32)
            for part in (lora.DOWN, lora.UP, lora.SCALE)
        )
        if module.layer is not None:
            down, up, scale = (a[module.layer] for a in (down, up, scale))
        name = _foreign(key, form)
        down, up = np.ascontiguousarray(down.T), np.ascontiguousarray(up.T)
        if name.startswith("transformer."):
            yield f"{name}.lora_A.weight", down
            yield f"{name}.lora_B.weight", up * scale
        else:
            yield f"{name}.lora_down.weight", down
            yield f"{name}.lora_up.weight", up
            yield f"{name}.alpha", np.asarray(scale * np.float32(len(down)))


class Read(NamedTuple):
    """Adapters of a file.

    Attributes:
      leaves: our names -> arrays; layers that the file leaves out count nothing.
      rank: the largest one; smaller adapters are padded with zeros.
      matched: layers of ours that the file changes.
      unmatched: keys that belong to no layer of this model.
    """

    leaves: dict[str, np.ndarray]
    rank: int
    matched: tuple[str, ...]
    unmatched: tuple[str, ...]


def read(
    kind: str,
    base: Mapping[str, Any],
    tensors: Mapping[str, np.ndarray],
    alpha: float | None = None,
) -> Read:
    """Adapters of any form that `export` knows, and PEFT's names.

    Args:
      base: shapes of the model to be changed.
      alpha: of all adapters that bring none; None stands for their rank.
    Raises:
      UserError: lists every tensor of a wrong shape and every half of a pair.
    """
    known = _names(modules(kind, base))
    parts: dict[Module, dict[str, np.ndarray]] = {}
    unmatched, keys = [], {}
    for key, value in tensors.items():
        prefix, part = _PREFIX.match(key), _PART.search(key)
        name = key[prefix.end() if prefix else 0 : part.start() if part else None]
        if part is None or name not in known:
            unmatched.append(key)
            continue
        which = _PARTS.get(part.group(1) or "", _ALPHA)
        parts.setdefault(known[name], {})[which] = np.asarray(value, np.float32)
        keys[known[name]] = key
    problems = [
        problem for m, given in parts.items() for problem in _wrong(m, given, keys[m])
    ]
    if problems:
        raise UserError("These adapters do not fit:\n  " + "\n  ".join(problems))
    if not parts:
        raise UserError("The file holds no adapter of this model.")
    rank = max(len(given[_DOWN]) for given in parts.values())
    names = tuple(sorted(f"{m.name}[{m.layer}]" for m in parts))
    return Read(_stacked(base, parts, rank, alpha), rank, names, tuple(unmatched))


def _names(known: Mapping[str, Module]) -> dict[str, Module]:
    made = {}
    for key, module in known.items():
        original = denoiser.original_name(key + ".").removesuffix(".")
        for name in (key, original):
            made[name] = made[name.replace(".", "_")] = module
    return made


def _wrong(module: Module, given: Mapping[str, np.ndarray], key: str) -> list[str]:
    for part in (_DOWN, _UP):
        if part not in given:
            return [f"{key}: its {part} matrix is missing"]
    down, up = given[_DOWN], given[_UP]
    if down.ndim != 2 or up.ndim != 2 or len(down) != up.shape[1]:
        return [f"{key}: {down.shape} and {up.shape} do not fit each other"]
    have, want = (up.shape[0], down.shape[1]), (module.columns, module.rows)
    return [] if have == want else [f"{key}: for a layer of {have}, ours is {want}"]


def _stacked(
    base: Mapping[str, Any],
    parts: Mapping[Module, Mapping[str, np.ndarray]],
    rank: int,
    alpha: float | None,
) -> dict[str, np.ndarray]:
    shapes = {name: leaf.shape for name, leaf in trees.flatten(base).items()}
    made: dict[str, np.ndarray] = {}
    for module, given in parts.items():
        *layers, rows, columns = shapes[f"{module.name}/kernel"]
        down, up, scale = (
            f"{module.name}/{p}" for p in (lora.DOWN, lora.UP, lora.SCALE)
        )
        if down not in made:
            made[down] = np.zeros((*layers, rows, rank), np.float32)
            made[up] = np.zeros((*layers, rank, columns), np.float32)
            made[scale] = np.ones(tuple(layers), np.float32)
        at: Any = ... if module.layer is None else module.layer
        own = len(given[_DOWN])
        made[down][at][:, :own] = given[_DOWN].T
        made[up][at][:own] = given[_UP].T
        numerator = float(given.get(_ALPHA, own if alpha is None else alpha))
        if not math.isfinite(numerator):
            raise UserError(f"The alpha of {module.name} is {numerator}.")
        made[scale][at] = numerator / own
    return made
