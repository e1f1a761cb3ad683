"""Segment plans of the release, for every clip length it can draw."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from onetoall_jax.sampling import segments
from tools.parity.case import Row, compare


def check(table: Mapping[str, Any]) -> Iterator[Row]:
    """A row for every recorded clip that has a usable plan."""
    for case in table["cases"]:
        if not case["usable"]:
            continue
        plan = segments.release_plan(
            case["frames"],
            table["main_chunk"],
            table["overlap"],
            table["final_chunk_candidates"],
        )
        ours = np.array([[s.start, s.end] for s in plan])
        name = f"{case['frames']} frames"
        yield compare(name, ours, np.array(case["plan"]), {"exact": 0.0})
        context = np.arange(len(plan)) > 0
        golden = np.array(case["context"])
        yield compare(f"{name}, context", context, golden, {"exact": 0.0})
