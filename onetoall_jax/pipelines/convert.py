"""Checkpoint files into our parameters, streamed, and back."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

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
from onetoall_jax.pipelines import piecewise

Shapes = Mapping[str, Sequence[int]]
# (what is gone through, how many) -> the same, with a bar
Progress = Callable[[Iterable, int], Iterable]


def _silent(items: Iterable, total: int) -> Iterable:
    return items


class _Opened(NamedTuple):
    """A checkpoint, ours or foreign, before its numbers are read."""

    kind: str
    sizes: Any
    leaves: dict[str, jax.ShapeDtypeStruct]  # ours, in the file's types
    read: Callable[[str], np.ndarray]
    said: str


def infer(kind: str, shapes: Shapes, head_dim: int = 128) -> Any:
    """Sizes (ModelConfig, VAEConfig or UMT5Config) from the shapes alone.

    Args:
      head_dim: of the denoiser's attention, which no shape tells; 128 in all releases.
    Raises:
      UserError: a number that must be known is nowhere to be read.
    """
    if kind.startswith("vae"):
        return VAEConfig(**codecs.infer_vae(kind, shapes))
    if kind.startswith("umt5"):
        return UMT5Config(**codecs.infer_umt5(kind, shapes))
    numbers: dict[str, Any] = dict(denoiser.infer(kind, shapes))
    for name in ("dim", "mlp_dim"):
        if name not in numbers:
            raise UserError(f"No tensor of the file tells {name}: it is not whole.")
    dim, levels = numbers.pop("dim"), numbers.pop("pose_levels")
    if dim % head_dim:
        raise UserError(
            f"The model is {dim} wide, no multiple of --head_dim={head_dim}: give the "
            "width of one attention head."
        )
    if numbers["pose_layers"]:
        numbers["pose_strides"] = ModelConfig.pose_strides[:levels]
    try:
        return ModelConfig(num_heads=dim // head_dim, head_dim=head_dim, **numbers)
    except ValueError as error:
        raise UserError(f"The file is not whole: {error}.") from error


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
    target: Path | None,
    *,
    kind: str = "auto",
    dtype: str | None = None,
    init: str | None = None,
    head_dim: int = 128,
    dry_run: bool = False,
    progress: Progress = _silent,
) -> str:
    """Stores a foreign checkpoint, or one of ours, as parameters of ours.

    Args:
      target: must not exist; None only with `dry_run`.
      dtype: of the stored parameters; None keeps the file's.
      init: "stage1" or "stage2": store the start of that stage instead.
      dry_run: read names and shapes only, write nothing.
    Returns:
      One line that says what it was.
    Raises:
      UserError: see readers, kinds.detect, apply.plan and checkpoints.parameters.
    """
    opened = _open(source, kind, head_dim)
    if init is not None:
        opened = _grown(opened, init)
    if dry_run or target is None:
        return opened.said
    parameters.check_new(target)
    to = None if dtype is None else np.dtype(jnp.dtype(dtype))
    leaves = (
        (name, np.asarray(opened.read(name), to))
        for name in progress(opened.leaves, len(opened.leaves))
    )
    settings = {"kind": opened.kind, "model": config.to_dict(opened.sizes)}
    if init is None and parameters.is_ours(source):
        settings = parameters.settings(source)
    parameters.save(target, leaves, settings)
    return opened.said


def _open(source: Path, wanted: str, head_dim: int) -> _Opened:
    if parameters.is_ours(source):
        return _open_ours(source, wanted)
    opened = readers.open_source(source)
    kind = kinds.detect(opened.shapes, wanted)
    sizes = infer(kind, opened.shapes, head_dim)
    lines = {e.leaf: e for e in apply.plan(kind, opened.shapes, abstract(sizes))}
    numbers = sum(int(np.prod(s)) for s in opened.shapes.values())
    said = f"{kind}: {len(opened.shapes)} tensors, {numbers:,} parameters, {sizes}"
    types = {name: apply.widest(e, opened.dtypes) for name, e in lines.items()}
    shapes = trees.flatten(abstract(sizes))
    return _Opened(
        _kind_of(sizes),
        sizes,
        {n: jax.ShapeDtypeStruct(shapes[n].shape, types[n]) for n in lines},
        lambda name: apply.leaf(lines[name], opened.read, types[name]),
        said,
    )


def _open_ours(source: Path, wanted: str = "auto") -> _Opened:
    kind, sizes = stored_sizes(source)
    if wanted not in ("auto", kind):
        raise UserError(f"{source} holds a {kind!r} checkpoint, not {wanted!r}.")
    stored = parameters.stored(source)
    parameters.check(source, stored, abstract(sizes))
    leaves = trees.flatten(stored)
    numbers = sum(int(np.prod(leaf.shape)) for leaf in leaves.values())
    said = f"{kind}: {len(leaves)} leaves of ours, {numbers:,} parameters, {sizes}"
    return _Opened(kind, sizes, leaves, parameters.reader(source), said)


def _kind_of(sizes: Any) -> str:
    if isinstance(sizes, VAEConfig):
        return "vae"
    if isinstance(sizes, UMT5Config):
        return "umt5"
    if sizes.pose_layers:
        return "onetoall"
    return "stage1" if sizes.reference_layers else "wan"


def _grown(opened: _Opened, stage: str) -> _Opened:
    """Start of a stage, by the function that training grows its start with."""
    sizes = opened.sizes
    if not isinstance(sizes, ModelConfig):
        raise UserError(f"--init={stage} needs a denoiser, not kind {opened.kind!r}.")
    before = {"stage1": "wan", "stage2": "stage1"}[stage]
    if opened.kind != before:
        raise UserError(
            f"--init={stage} starts from kind {before!r}, but this is {opened.kind!r}."
        )
    larger = stage_config(sizes, stage)

    def function(leaves: Mapping[str, Any]) -> dict[str, Any]:
        grown = grow(trees.unflatten(leaves), sizes, larger, jax.random.key(0))
        return trees.flatten(grown)

    leaves, read = piecewise.by_leaf(function, opened.leaves, opened.read)
    said = f"{opened.said}\nstart of {stage}: {larger}"
    return _Opened(_kind_of(larger), larger, leaves, read, said)


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


def export(
    source: Path,
    target: Path,
    *,
    dtype: str | None = None,
    progress: Progress = _silent,
) -> str:
    """Writes our parameters as safetensors under the official names and shapes.

    Args:
      dtype: of the tensors; None keeps the stored types.
    Returns:
      One line that says what was written.
    Raises:
      UserError: `source` is no checkpoint of ours, or `target` exists.
    """
    parameters.check_new(target)
    opened = _open_ours(source)
    to = None if dtype is None else np.dtype(jnp.dtype(dtype))
    lines = apply.lines_of(opened.kind, trees.unflatten(opened.leaves))
    specs = []
    for entry in lines:
        leaf = opened.leaves[entry.leaf]
        shape = entry.foreign_shape(leaf.shape)
        specs += [
            writers.Spec(k, shape, to or np.dtype(leaf.dtype)) for k in entry.keys
        ]
    tensors = (
        tensor
        for entry in progress(lines, len(lines))
        for _, tensor in apply.tensors_of(entry, opened.read(entry.leaf))
    )
    stem = "model" if opened.kind == "umt5" else "diffusion_pytorch_model"
    writers.write(target, specs, tensors, stem)
    return f"{opened.kind}: {len(specs)} tensors written to {target}"


def stored_sizes(folder: Path) -> tuple[str, Any]:
    """(kind, sizes) of a checkpoint of ours: of a run, those of its denoiser."""
    settings = parameters.settings(folder)
    kind = settings.get("kind")
    classes: dict[Any, Any] = {"vae": VAEConfig, "umt5": UMT5Config}
    sizes: Any = config.build(classes.get(kind, ModelConfig), settings["model"])
    return kind or _kind_of(sizes), sizes
