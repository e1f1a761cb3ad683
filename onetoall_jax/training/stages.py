"""Which parameters a stage trains, and how a base without a past starts."""

from typing import Any

import jax.numpy as jnp

from onetoall_jax import lora, trees
from onetoall_jax.errors import UserError

Params = Any

_BLOCKS = "dit/(lead_blocks|blocks)/"
_FUSION = (
    "reference_extractor/",
    _BLOCKS + "attention/(reference_key|reference_value|reference_key_norm|out)/",
)
_ANIMATION = (
    "reference_extractor/",
    "pose_control/",
    "pose_resnet/",
    "prefix_encoder/",
    "dit/patch_embedding/",
    _BLOCKS + "attention/",
)
_MODULATION = (
    "dit/head/",
    _BLOCKS + "modulation",
    "dit/(time_embedding|time_projection|text_embedding)/",
)
# Name -> patterns of parameter names; everything else is frozen.
TRAINABLE = {
    "all": ("",),
    "stage1": _FUSION,
    "stage2": _ANIMATION,
    "stage3": _ANIMATION,
    # A small base learns its modulation late: the release's set and what steers it.
    "stage2_and_modulation": _ANIMATION + _MODULATION,
    "lora": lora.TRAINED,
}


def patterns(name: str) -> tuple[str, ...]:
    """Patterns of a set in `TRAINABLE`; UserError lists the sets for another name."""
    if name not in TRAINABLE:
        raise UserError(
            f"training.trainable is {name!r}: choose one of {sorted(TRAINABLE)}."
        )
    return TRAINABLE[name]


# Name pattern -> factor on the fresh value, in the base transformer.
_SCALED = (
    ("dit/time_projection/", 0.1),
    ("dit/(lead_blocks|blocks)/(mlp|attention)/out/", 0.5),
    ("dit/(lead_blocks|blocks)/text_attention/out/", 0.1),
    ("dit/head/(projection/|modulation)", 0.0),
)


def from_scratch(params: Params) -> Params:
    """A base that learns within minutes, from freshly drawn parameters.

    Gates start at one, shifts and scales at zero, outputs of the blocks small and the
    head at zero: with random gates a small model spends its first hundred steps on
    undoing them.
    """
    leaves = trees.flatten(params)
    for pattern, factor in _SCALED:
        for name in filter(trees.matches((pattern,)), leaves):
            leaves[name] = leaves[name] * factor
    tables = trees.matches((_BLOCKS + "modulation",))
    gates = jnp.asarray([0.0, 0.0, 1.0, 0.0, 0.0, 1.0])  # shift, scale, gate; twice
    for name in filter(tables, leaves):
        leaves[name] = jnp.broadcast_to(gates[:, None], leaves[name].shape)
    return trees.unflatten(leaves)
