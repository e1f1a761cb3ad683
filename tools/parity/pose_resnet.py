"""The pose encoder alone."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from onetoall_jax.conversion import apply
from onetoall_jax.models import onetoall
from onetoall_jax.models.pose_resnet import PoseResNet
from onetoall_jax.models.settings import ModelConfig
from tools.parity.case import Case
from tools.parity.dit import first, pixels

CEILING = {"*": {"rel_l2": 2e-4, "max_abs": 2e-3}}
BF16_FACTOR = {"*": 2.0}


def run(case: Case, dtype: jnp.dtype) -> Iterator[tuple[str, np.ndarray]]:
    """Second and fourth level, then the tokens."""
    cfg = ModelConfig(
        num_layers=2,
        num_heads=1,
        head_dim=case.config["out_channels"],
        mlp_dim=1,
        reference_layers=1,
        pose_layers=1,
        pose_channels=case.config["block_out_channels"][0],
        pose_norm_groups=case.config["norm_num_groups"],
    )
    prefix = "input_hint_block."
    tensors = {k: v for k, v in case.weights().items() if k.startswith(prefix)}
    expected = {"pose_resnet": onetoall.abstract(cfg)["pose_resnet"]}
    params = apply.convert("onetoall", tensors, expected)["pose_resnet"]
    net = PoseResNet(cfg, dtype)

    @jax.jit
    def forward(pose: jax.Array) -> tuple:
        return net.apply({"params": params}, pose, mutable=["intermediates"])

    tokens, kept = forward(jnp.asarray(pixels(case.inputs["pose_video_u8"])))
    levels = kept["intermediates"]
    yield "down1", first(levels["after_level_1"][0])
    yield "down3", first(levels["after_level_3"][0])
    yield "tokens", first(tokens)
