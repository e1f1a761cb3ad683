"""Adapters for one character or style, on a finished model that stays as it is.

python train.py --config=configs/lora.py:1_3b --config.init_from=checkpoints/onetoall
python train.py --config=configs/lora.py:tiny --config.data.root=runs/character
"""

from ml_collections import ConfigDict

from configs import common, stage3


def get_config(arg: str = "") -> ConfigDict:
    """Settings of stage 3 with adapters of rank 16; the start is stage 3's end."""
    size = common.size(arg)
    c = stage3.get_config(size)
    c.name = f"lora_{size}"
    c.init_from = f"runs/stage3_{size}"
    c.init_command = f"python train.py --config=configs/stage3.py:{size}"
    c.lora = ConfigDict(dict(rank=16, alpha=16.0))
    c.training.trainable = "lora"
    c.training.token_replace_probability = 0.0
    c.training.optimizer.weight_decay = 0.0
    if size == "tiny":
        common.steps(c, 100)
        return c
    common.steps(c, 2000)
    c.training.optimizer.learning_rate = 1e-4
    c.training.frozen_dtype = "bfloat16"  # the base, which is all but everything
    return c
