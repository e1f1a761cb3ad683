"""Tables of sizes and the three stages' buckets."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from data_pipeline.buckets import TABLES
from data_pipeline.settings import Resolution
from tools.parity.case import Row, compare

_SMALL = Resolution("512", 1.0, 0.05)
# The release's names of its stages' buckets.
CONFIGS = {
    "mochi": (Resolution("512"),),
    "768": (Resolution("768", 0.5, 0.0), _SMALL),
    "768_v2": (Resolution("768", 0.8, 0.05), _SMALL),
}


def check(recorded: Mapping[str, Any]) -> Iterator[Row]:
    """Areas, both tables, and how each stage draws."""
    exact = {"exact": 0.0}
    for name in ("512", "768"):
        table = TABLES[name]
        area = np.array(recorded["area"][name])
        yield compare(f"area {name}", np.array(table.area), area, exact)
        ours = np.array([[float(k), h, w] for k, h, w in table.sizes])
        released = recorded[f"table_{name}"].items()
        theirs = np.array([[float(k), *hw] for k, hw in released])
        yield compare(f"table {name}", ours, theirs, exact)
    for name, resolutions in CONFIGS.items():
        for r in resolutions:
            stage = recorded["configs"][name][r.table]
            video, image = stage["29"], stage["1"]
            chances = [video["prob_resolution"], image["prob_resolution"]]
            theirs = np.array([*chances, 1 - video["prob_length"]])
            ours = np.array([r.share, r.share, r.image_share])
            bounds = {"max_abs": 1e-12}
            yield compare(f"chances {name}/{r.table}", ours, theirs, bounds)
