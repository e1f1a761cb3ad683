"""Kinds of checkpoints: how to tell them by their keys, and their tables by size."""

import dataclasses
import itertools
from collections.abc import Callable, Collection, Mapping, Sequence

from onetoall_jax.conversion.tables import codecs, denoiser
from onetoall_jax.conversion.tables.entry import Entry
from onetoall_jax.errors import UserError

Shapes = Mapping[str, Sequence[int]]

DENOISERS = ("onetoall", "stage1", "wan", "wan_original")
NAMES = (*DENOISERS, "vae", "vae_original", "umt5", "umt5_original")

# A key that only this kind has, most specific kind first.
_SIGNS = (
    ("controlnet_zero.0.weight", "onetoall"),
    ("refextractor.patch_embedding.weight", "stage1"),
    ("condition_embedder.time_proj.weight", "wan"),
    ("time_projection.1.weight", "wan_original"),
    ("quant_conv.weight", "vae"),
    ("encoder.downsamples.0.residual.2.weight", "vae_original"),
    ("encoder.final_layer_norm.weight", "umt5"),
    ("token_embedding.weight", "umt5_original"),
)
# The tool's words name a network, whatever its layout.
_FAMILY = {
    "wan": ("wan", "wan_original"),
    "vae": ("vae", "vae_original"),
    "umt5": ("umt5", "umt5_original"),
}

# Other names of a tensor that some files use.
ALIASES = {"encoder.embed_tokens.weight": "shared.weight"}


def detect(keys: Collection[str], wanted: str = "auto") -> str:
    """Kind of a file with these keys.

    Raises:
      UserError: no kind fits, or not the wanted one.
    """
    found = next((kind for sign, kind in _SIGNS if sign in keys), None)
    if found is None and any(k in keys for k in ALIASES):
        found = "umt5"
    if found is None:
        some = ", ".join(sorted(keys)[:3])
        raise UserError(
            f"The tensors ({some}, ...) belong to no kind of checkpoint known here: "
            f"{', '.join(NAMES)}."
        )
    if wanted != "auto" and found not in _FAMILY.get(wanted, (wanted,)):
        raise UserError(
            f"The file holds a checkpoint of kind {found!r}, not {wanted!r}: "
            "give --kind=auto or the right file."
        )
    return found


def table(kind: str, leaves: Mapping[str, Sequence[int]]) -> list[Entry]:
    """Table of `kind` for a model whose leaves have these names and shapes.

    The expected tree decides the numbers of layers, so that a table follows the model
    and never the other way round.
    """
    made = _tables()[kind](leaves)
    rename = _RENAMES.get(kind)
    if rename is None:
        return made
    return [dataclasses.replace(e, keys=tuple(rename(k) for k in e.keys)) for e in made]


def _tables() -> dict[str, Callable[[Mapping[str, Sequence[int]]], list[Entry]]]:
    return {
        **dict.fromkeys(DENOISERS, _denoiser),
        "vae": codecs.vae_table,
        "vae_original": codecs.vae_table,
        "umt5": lambda leaves: codecs.umt5_table(leaves["blocks/position_bias"][0]),
        "umt5_original": lambda leaves: codecs.umt5_table(
            leaves["blocks/position_bias"][0]
        ),
    }


def _denoiser(leaves: Mapping[str, Sequence[int]]) -> list[Entry]:
    def stacked(name: str) -> int:
        return leaves[name][0] if name in leaves else 0

    lead, rest = (
        stacked(f"dit/{name}/modulation") for name in ("lead_blocks", "blocks")
    )
    levels = (f"pose_resnet/level_{i}/down/kernel" in leaves for i in range(99))
    return denoiser.table(
        num_layers=lead + rest,
        lead_layers=lead,
        reference_layers=stacked("reference_extractor/blocks/modulation"),
        pose_layers=stacked("pose_control/blocks/modulation"),
        pose_levels=sum(itertools.takewhile(bool, levels)),
    )


_RENAMES = {
    "wan_original": denoiser.original_name,
    "vae_original": codecs.vae_original_name,
    "umt5_original": codecs.umt5_original_name,
}
