"""Reference picture and mask to latents, context frames, and the prefix encoder."""

from collections.abc import Iterator

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from onetoall_jax.conversion import apply
from onetoall_jax.models import codec, onetoall
from onetoall_jax.models.codec import CodecConfig
from onetoall_jax.models.prefix_encoder import PrefixEncoder
from onetoall_jax.models.settings import ModelConfig
from tools.parity.case import Case
from tools.parity.dit import first
from tools.parity.vae import vae_config

CEILING = {"*": {"rel_l2": 2e-4, "max_abs": 2e-3}}


def run(case: Case, dtype: jnp.dtype) -> Iterator[tuple[str, np.ndarray]]:
    """Latents of reference, black and context, then both prefixes."""
    c = case.config["image_to_cond"]
    config = CodecConfig(dtype=dtype.name, vae=vae_config(case.config["vae"]))
    made = codec.build(config, (1, 2, 2))
    expected = jax.eval_shape(made.init, jax.random.key(0))
    vae = apply.convert("vae", case.weights("vae"), nn.meta.unbox(expected))
    cfg = ModelConfig(
        num_layers=2,
        num_heads=1,
        mlp_dim=1,
        in_channels=c["out_channels"],
        reference_layers=1,
        pose_layers=1,
        prefix_channels=c["block_out_channels"][0],
        pose_norm_groups=c["norm_num_groups"],
    )
    prefix = "image_to_cond."
    tensors = {
        k: v for k, v in case.weights("image_to_cond").items() if k.startswith(prefix)
    }
    part = {"prefix_encoder": onetoall.abstract(cfg)["prefix_encoder"]}
    encoder = apply.convert("onetoall", tensors, part)["prefix_encoder"]

    @jax.jit
    def forward(image: jax.Array, mask: jax.Array, context: jax.Array) -> dict:
        reference = codec.reference_latents(made, vae, image[None], mask[None])
        black = codec.black_latents(made, vae, *mask.shape)
        net = PrefixEncoder(cfg, dtype)
        return {
            "image_latents": reference,
            "black_image_latents": black,
            "prev_latents": made.encode(vae, context[None]),
            "prefix": net.apply({"params": encoder}, reference),
            "prefix_black": net.apply({"params": encoder}, black),
        }

    def scaled(name: str) -> np.ndarray:
        return case.inputs[name].astype(np.float32) / 255

    image = scaled("image_u8") * 2 - 1
    context = scaled("prev_frames_u8") * 2 - 1
    out = forward(image, scaled("mask_u8"), context)
    for name, value in out.items():
        yield name, first(value)
