"""Stage 1: the reference extractor and its fusion, on a frozen base.

python tools/convert_torch_weights.py --src=WAN --out=checkpoints/wan_1_3b
python train.py --config=configs/stage1.py:1_3b
python train.py --config=configs/stage1.py:tiny
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str = "") -> ConfigDict:
    """Settings; the start is Wan 2.1, or stage 0 at tiny size."""
    size = common.size(arg)
    c = common.base(1, size)
    if size == "tiny":
        common.steps(c, 150)
        return c
    c.init_from = f"checkpoints/wan_{size}"
    c.init_command = (
        f"python tools/convert_torch_weights.py --src=WAN_FOLDER --out={c.init_from}"
    )
    c.training.steps = {"1_3b": 40_000, "14b": 30_000}[size]
    c.training.remat = {"1_3b": "none", "14b": "block"}[size]
    return c
