"""Stage 2: pose control, with the reference fusion trained on.

python train.py --config=configs/stage2.py:1_3b
python train.py --config=configs/stage2.py:tiny
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str = "") -> ConfigDict:
    """Settings; the start is stage 1 of the same size."""
    size = common.size(arg)
    c = common.base(2, size)
    if size == "tiny":
        common.steps(c, 400)
        # A base of two minutes needs its modulation trained on (or everything).
        c.training.trainable = "all"
        return c
    c.training.steps = {"1_3b": 40_000, "14b": 30_000}[size]
    return c
