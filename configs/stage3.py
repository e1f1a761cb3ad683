"""Stage 3: clean context frames, so that long clips go on from the last segment.

python train.py --config=configs/stage3.py:1_3b
python train.py --config=configs/stage3.py:tiny
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str = "") -> ConfigDict:
    """Settings; the start is stage 2 of the same size."""
    size = common.size(arg)
    c = common.base(3, size)
    c.training.token_replace = True
    c.training.token_replace_probability = 0.2
    c.training.region_weight = 1.0
    c.training.steps = 20_000
    if size == "tiny":
        common.steps(c, 80)
        # Context is two latent frames: five pictures leave nothing to predict.
        c.data.num_frames = 9
        c.training.trainable = "all"
    return c
