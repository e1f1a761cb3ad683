"""The base transformer from scratch, in place of Wan 2.1, at tiny size only.

python -m data_pipeline.synthetic --output=runs/data
python train.py --config=configs/stage0.py:tiny
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str = "tiny") -> ConfigDict:
    """Settings; ValueError for a size that starts from Wan 2.1's weights."""
    size = common.size(arg or "tiny")
    if size != "tiny":
        raise ValueError(f"stage 0 is for the tiny size; {size} starts at stage 1")
    c = common.base(0, size)
    common.steps(c, 300)
    c.init_command = ""
    return c
