"""Adapter files: taken in, given out, merged into their base."""

import json
import os
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from onetoall_jax import config, lora, trees
from onetoall_jax.checkpoints import parameters
from onetoall_jax.conversion import lora as names
from onetoall_jax.conversion import readers
from onetoall_jax.errors import UserError
from onetoall_jax.lora import LoraConfig
from onetoall_jax.models import onetoall
from onetoall_jax.models.settings import ModelConfig
from onetoall_jax.pipelines import convert, start

_METADATA = "lora_adapter_metadata"  # where Diffusers writes alpha, as JSON


def take_in(source: Path, base: Path, target: Path, *, partial: bool = False) -> str:
    """Stores a foreign adapter file as adapters of ours.

    Args:
      source: a .safetensors file; base: the checkpoint that it is for.
      partial: leave out tensors that belong to no layer of the base.
    Returns:
      What was matched and what was left out.
    Raises:
      UserError: unreadable, misshapen or (unless `partial`) unmatched tensors.
    """
    kind, sizes = _denoiser(base)
    opened = readers.open_source(source)
    tensors = {name: opened.read(name) for name in opened.shapes}
    found = names.read(kind, onetoall.abstract(sizes), tensors, _alpha(source))
    if found.unmatched and not partial:
        raise UserError(
            f"{len(found.unmatched)} tensors of {source} belong to no layer of {base}, "
            f"for example {found.unmatched[0]}: leave them out with --partial."
        )
    modules = {name.rsplit("/", 1)[0] for name in found.leaves}
    settings = {
        **parameters.settings(base),
        "init_from": str(Path(base).resolve()),
        "lora": config.to_dict(LoraConfig(found.rank, 0.0, tuple(sorted(modules)))),
    }
    parameters.save(target, sorted(found.leaves.items()), settings)
    return (
        f"{len(found.matched)} layers matched, rank {found.rank}; "
        f"{len(found.unmatched)} tensors left out"
    )


def _alpha(source: Path) -> float | None:
    try:
        with safe_open(source, framework="numpy") as file:
            stored = json.loads((file.metadata() or {}).get(_METADATA, "{}"))
    except (OSError, ValueError):
        return None
    found = [v for k, v in stored.items() if k.split(".")[-1] == "lora_alpha"]
    return float(found[0]) if found else None


def give_out(source: Path, target: Path, form: str) -> str:
    """Writes adapters of ours as one .safetensors file, in a form of `names.FORMS`."""
    settings, sizes, adapters = load(source)
    parameters.check_new(target)
    kind, _ = _denoiser(Path(settings["init_from"]))
    made = dict(names.export(kind, onetoall.abstract(sizes), adapters, form))
    beside = target.with_name(target.name + ".part")
    target.parent.mkdir(parents=True, exist_ok=True)
    save_file({n: np.asarray(v) for n, v in made.items()}, beside)
    os.replace(beside, target)
    return f"{len(made)} tensors in {target}"


def merge(source: Path, target: Path) -> str:
    """Stores the base with the adapters added, as parameters of their own."""
    settings, sizes, adapters = load(source)
    base_folder = Path(settings["init_from"])
    base = parameters.load(base_folder, onetoall.abstract(sizes))
    merged = jax.jit(lambda a, b: lora.merge(trees.join(a, b)))(adapters, base)
    leaves = sorted(trees.flatten(merged).items())
    parameters.save(target, leaves, parameters.settings(base_folder))
    return f"{base_folder} with the adapters of {source} in {target}"


def load(source: Path) -> tuple[dict[str, Any], ModelConfig, Any]:
    """(settings, sizes of the base, adapters) of adapters of ours.

    Raises:
      UserError: `source` holds none.
    """
    settings = parameters.settings(source)
    given = config.build(LoraConfig, settings.get("lora", {}), "lora")
    if not given.rank:
        raise UserError(f"{source} holds no adapters.")
    sizes = config.build(ModelConfig, settings["model"], "model")
    whole = nn.meta.unbox(start.boxed(sizes, given))
    mine, _ = trees.split(whole, lora.ALL)
    return settings, sizes, parameters.load(source, mine)


def _denoiser(folder: Path) -> tuple[str, ModelConfig]:
    kind, sizes = convert.stored_sizes(folder)
    if not isinstance(sizes, ModelConfig):
        raise UserError(f"{folder} holds kind {kind!r}, not a denoiser.")
    return kind, sizes
