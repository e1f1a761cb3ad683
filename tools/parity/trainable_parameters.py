"""Which parameters each stage trains, counted under their official names."""

import collections
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from onetoall_jax import trees
from onetoall_jax.conversion import apply
from onetoall_jax.models import onetoall
from onetoall_jax.training import stages
from tools.parity.case import Row

KINDS = {"stage1": "stage1", "stage2": "onetoall", "stage3": "onetoall"}


def check(table: Mapping[str, Any]) -> Iterator[Row]:
    """For every size and stage: tensors and elements of each pattern, and in all."""
    from configs import sizes
    from onetoall_jax import config
    from onetoall_jax.models.settings import ModelConfig

    for size, by_stage in table["sizes"].items():
        for stage, recorded in by_stage.items():
            if isinstance(recorded, str):  # "same as stage2"
                recorded = by_stage[recorded.split()[-1]]
            name = size.replace(".", "_")
            model = sizes.model(name, pose=stage != "stage1").to_dict()
            params = onetoall.abstract(config.build(ModelConfig, model))
            ours = counts(params, stage)
            for group in ("trainable", "frozen"):
                golden = {"total": recorded[group], **recorded[f"{group}_patterns"]}
                yield from _rows(f"{size} {stage} {group}", ours[group], golden)


def counts(params: Any, stage: str) -> dict[str, dict[str, dict[str, int]]]:
    """ "trainable" and "frozen" -> official pattern -> tensors and elements."""
    leaves = trees.flatten(params)
    hit = trees.matches(stages.patterns(stage))
    made: dict = {"trainable": {}, "frozen": {}}
    for official, (leaf, layer, _) in apply.foreign_names(KINDS[stage], params).items():
        group = made["trainable" if hit(leaf) else "frozen"]
        shape = leaves[leaf].shape[layer is not None :]
        for key in ("total", pattern_of(official)):
            entry = group.setdefault(key, collections.Counter())
            entry.update(tensors=1, elements=math.prod(shape))
    return made


def pattern_of(official: str) -> str:
    """Official name with the numbers of stacked layers replaced by "*"."""
    stacked = r"(^|\.)(blocks|ref_blocks|controlnet_zero)\.\d+\."
    if official.startswith(("input_hint_block.", "image_to_cond.")):
        return official
    return re.sub(stacked, r"\1\2.*.", official)


def _rows(
    where: str, ours: Mapping[str, Any], golden: Mapping[str, Any]
) -> Iterator[Row]:
    for name in sorted({*ours, *golden}):
        have, want = (dict(side.get(name, {})) for side in (ours, golden))
        keys = sorted({*have, *want})
        errors = {k: float(abs(have.get(k, 0) - want.get(k, 0))) for k in keys}
        yield Row(f"{where} {name}", errors, dict.fromkeys(keys, 0.0))
