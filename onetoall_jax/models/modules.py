"""The modules that one denoiser is made of."""

from typing import NamedTuple

import jax.numpy as jnp

from onetoall_jax import axes
from onetoall_jax.models.attention import AttentionConfig
from onetoall_jax.models.dit import Block, Head, Stack, TimeEmbedding
from onetoall_jax.models.layers import MLP, Dense, PatchEmbedding, gelu
from onetoall_jax.models.pose_resnet import PoseResNet
from onetoall_jax.models.prefix_encoder import PrefixEncoder
from onetoall_jax.models.settings import ModelConfig
from onetoall_jax.models.text_attention import TextAttention

DEFAULT_ATTENTION = AttentionConfig()


class Modules(NamedTuple):
    """The modules of one model; they hold sizes only."""

    patch: PatchEmbedding
    time: TimeEmbedding
    time_projection: Dense
    text: MLP
    text_attention: TextAttention
    blocks: Stack
    head: Head
    control: Stack  # of the pose
    extractor: Stack
    zeros: Dense  # projections out of the extractor and the pose blocks
    prefix: PrefixEncoder
    pose: PoseResNet


def modules(
    cfg: ModelConfig,
    dtype: jnp.dtype = jnp.float32,
    remat: str = "none",
    attention: AttentionConfig = DEFAULT_ATTENTION,
) -> Modules:
    """The modules of a model; see `onetoall.functions`."""
    d = (axes.PARAM_EMBED, axes.PARAM_HEADS)

    def stack(
        tokens: str = axes.TOKENS, *, text: bool = False, reference: bool = False
    ) -> Stack:
        return Stack(Block(cfg, text, reference, dtype, tokens, attention), remat)

    reference = cfg.reference_layers > 0
    text_names = (axes.CONV_IN, axes.PARAM_EMBED, axes.PARAM_HEADS)
    return Modules(
        patch=PatchEmbedding(cfg.dim, cfg.patch, dtype),
        time=TimeEmbedding(cfg, dtype),
        time_projection=Dense(6 * cfg.dim, d, dtype),
        text=MLP(cfg.dim, cfg.dim, gelu, text_names, dtype),
        text_attention=TextAttention(cfg, dtype),
        blocks=stack(text=True, reference=reference),
        head=Head(cfg, dtype),
        control=stack(),
        extractor=stack(axes.REFERENCE_COPIES),
        zeros=Dense(cfg.dim, d, dtype, zero_init=True),
        prefix=PrefixEncoder(cfg, dtype),
        pose=PoseResNet(cfg, dtype, remat != "none"),
    )
