"""Sizes, crops and buckets, in training and at inference."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from data_pipeline import buckets
from onetoall_jax.alignment import fit
from tools.parity.buckets import CONFIGS
from tools.parity.case import Case

CEILING = {"*": {"max_abs": 2}}
_PREPARED, _CAPS, _MULTIPLE = 768, (384, 576), 16
Outputs = Iterator[tuple[str, np.ndarray]]


def run(case: Case, dtype: Any) -> Outputs:
    """Outputs of the rules that the case is about."""
    if "queries" in case.inputs:
        return _buckets(case)
    return _sampled(case) if "size_table" in case.outputs else _trained(case)


def _buckets(case: Case) -> Outputs:
    nearest = [
        [buckets.TABLES[name].nearest(*size) or (-1, -1) for name in ("512", "768")]
        for size in case.inputs["sizes_hw"].tolist()
    ]
    yield "nearest", np.array(nearest)
    answers = []
    for config, frames, height, width, stride, seed in case.inputs["queries"].tolist():
        resolutions = CONFIGS[case.config["configs"][config]]
        size = height, width, frames
        found = buckets.choose(resolutions, 29, size, stride, seed)
        answers.append(
            (found.num_frames, found.height, found.width) if found else (-1, -1, -1)
        )
    yield "answers", np.array(answers)


def _sampled(case: Case) -> Outputs:
    table = []
    for size in case.inputs["sizes_hw"].tolist():
        prepared = fit.output_size(*size, cap=_PREPARED, multiple=_MULTIPLE)
        capped = [fit.output_size(*prepared, cap=c, multiple=_MULTIPLE) for c in _CAPS]
        table.append([*size, *prepared, *capped[0], *capped[1]])
    yield "size_table", np.array(table)
    for sub in case.config["sub"]:
        picture = case.inputs[f"image_{sub['i']}"]
        mask = np.where(picture[..., 0] > 127, 255, 0).astype(np.uint8)
        yield f"image_{sub['i']}", fit.sample_fit(picture, *sub["out_hw"])
        yield f"mask_{sub['i']}", fit.sample_fit(mask, *sub["out_hw"])[..., None]


def _trained(case: Case) -> Outputs:
    for sub in case.config["sub"]:
        picture = case.inputs[f"image_{sub['i']}"]
        size = fit.train_size(*sub["asked_hw"])
        mask = (picture[..., :1] > 127).astype(np.uint8)
        yield f"image_{sub['i']}", fit.train_fit(picture, *size)
        yield f"mask_{sub['i']}", fit.train_fit(mask, *size)
