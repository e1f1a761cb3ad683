"""Checkpoint files into our parameters, streamed, and back."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from onetoall_jax import config, trees
from onetoall_jax.checkpoints import parameters
from onetoall_jax.conversion import apply, kinds, readers, writers
from onetoall_jax.conversion.tables import codecs, denoiser
from onetoall_jax.errors import UserError
from onetoall_jax.models import onetoall, umt5
from onetoall_jax.models.grow import grow
from onetoall_jax.models.settings import ModelConfig
from onetoall_jax.models.umt5 import UMT5Config
from onetoall_jax.models.vae import VAE, VAEConfig

Shapes = Mapping[str, Sequence[int]]
Progress = Callable[[Iterator, int], Iterator]


def infer(kind: str, shapes: Shapes, head_dim: int = 128) -> Any:
    """Sizes (ModelConfig, VAEConfig or UMT5Config) from the shapes alone.

    Args:
      head_dim: of the denoiser's attention, which no shape tells; 128 in all releases.
    Raises:
      UserError: a tensor that tells a size is missing.
    """
    try:
        if kind in kinds.DENOISERS:
            numbers: dict[str, Any] = dict(denoiser.infer(kind, shapes))
            dim = numbers.pop("dim")
            return ModelConfig(num_heads=dim // head_dim, head_dim=head_dim, **numbers)
        if kind.startswith("vae"):
            return VAEConfig(**codecs.infer_vae(kind, shapes))
        return UMT5Config(**codecs.infer_umt5(kind, shapes))
    except KeyError as error:
        raise UserError(f"The file lacks {error}, so its size is unknown.") from error


def abstract(sizes: Any) -> Any:
    """Tree of ShapeDtypeStruct of a model of those sizes."""
    if isinstance(sizes, ModelConfig):
        return onetoall.abstract(sizes)
    if isinstance(sizes, VAEConfig):
        return VAE(sizes).abstract()
    return umt5.abstract(sizes)


def expected(kind: str, shapes: Shapes, head_dim: int = 128) -> Any:
    """The tree that a file of these shapes should fill."""
    return abstract(infer(kind, shapes, head_dim))


def convert(
    source: Path,
    target: Path,
    *,
    kind: str = "auto",
    dtype: str | None = None,
    init: str | None = None,
    head_dim: int = 128,
    dry_run: bool = False,
    progress: Progress = lambda items, total: items,
) -> str:
    """Converts a foreign checkpoint; -> one line that says what it was.

    Args:
      dtype: of the stored parameters; None keeps the file's.
      init: "stage1" or "stage2": store the start of that stage instead.
      dry_run: read names and shapes only, write nothing.
    Raises:
      UserError: see readers, kinds.detect, apply.plan and checkpoints.parameters.
    """
    opened = readers.open_source(source)
    found = kinds.detect(opened.shapes, kind)
    sizes = infer(found, opened.shapes, head_dim)
    lines = apply.plan(found, opened.shapes, abstract(sizes))
    numbers = sum(int(np.prod(s)) for s in opened.shapes.values())
    said = f"{found}: {len(opened.shapes)} tensors, {numbers:,} parameters, {sizes}"
    if dry_run:
        return said
    to = None if dtype is None else np.dtype(jnp.dtype(dtype))
    leaves: Iterator = ((e.leaf, apply.leaf(e, opened.read, to)) for e in lines)
    if init is not None:
        sizes, leaves = _grown(sizes, leaves, init)
    settings = {"kind": _kind_of(sizes), "model": config.to_dict(sizes)}
    parameters.save(target, progress(leaves, len(lines)), settings)
    return said


def _kind_of(sizes: Any) -> str:
    if isinstance(sizes, VAEConfig):
        return "vae"
    if isinstance(sizes, UMT5Config):
        return "umt5"
    if sizes.pose_layers:
        return "onetoall"
    return "stage1" if sizes.reference_layers else "wan"


def _grown(sizes: Any, leaves: Iterator, stage: str) -> tuple[ModelConfig, Iterator]:
    """Start of a stage; growing needs the whole tree at once."""
    if not isinstance(sizes, ModelConfig):
        raise UserError(f"--init={stage} needs a denoiser, not {type(sizes).__name__}.")
    larger = stage_config(sizes, stage)
    params = trees.unflatten(dict(leaves))
    made = jax.jit(lambda p, key: grow(p, sizes, larger, key))(
        params, jax.random.key(0)
    )
    return larger, iter(trees.flatten(made).items())


def stage_config(sizes: ModelConfig, stage: str) -> ModelConfig:
    """Sizes of a stage's model on the same base: the release's extractor and control.

    The 1.3B model has 14 extractor and 2 control blocks, 14B has 7 and 1; another base
    gets the 1.3B's proportions.
    """
    wide = sizes.dim >= 5120
    reference = sizes.reference_layers or (
        7 if wide else max(1, sizes.num_layers // 2 - 1)
    )
    pose = 0 if stage == "stage1" else sizes.pose_layers or (1 if wide else 2)
    return dataclasses.replace(sizes, reference_layers=reference, pose_layers=pose)


def export(source: Path, target: Path, *, dtype: str | None = None) -> str:
    """Writes our parameters as safetensors under the official names and shapes.

    Raises:
      UserError: `source` is no checkpoint of ours, or `target` exists.
    """
    kind, sizes = stored_sizes(source)
    params = parameters.load(source, abstract(sizes))
    to = None if dtype is None else np.dtype(jnp.dtype(dtype))
    writers.write(target, apply.export(kind, params, to))
    return f"{kind}: {len(jax.tree.leaves(params))} leaves written to {target}"


def stored_sizes(folder: Path) -> tuple[str, Any]:
    """(kind, sizes) of a checkpoint of ours: of a run, those of its denoiser."""
    settings = parameters.settings(folder)
    kind = settings.get("kind")
    classes: dict[Any, Any] = {"vae": VAEConfig, "umt5": UMT5Config}
    sizes: Any = config.build(classes.get(kind, ModelConfig), settings["model"])
    return kind or _kind_of(sizes), sizes
