"""The VAE: every chunk of encoder and decoder, then latents and pictures."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from onetoall_jax.conversion import apply
from onetoall_jax.models.vae import VAE, Decoder, Encoder, VAEConfig
from onetoall_jax.models.vae_layers import Memory
from tools.parity.case import Case
from tools.parity.dit import first, last, pixels

CEILING = {"*": {"rel_l2": 2e-4, "max_abs": 2e-3}}


def vae_config(config: Mapping[str, Any]) -> VAEConfig:
    """Our sizes from the constructor arguments of the released class."""
    return VAEConfig(
        base_dim=config["base_dim"],
        z_dim=config["z_dim"],
        dim_mult=tuple(config["dim_mult"]),
        res_blocks=config["num_res_blocks"],
        down_in_time=tuple(config["temperal_downsample"]),
        mean=tuple(config["latents_mean"]),
        std=tuple(config["latents_std"]),
    )


def build(case: Case, dtype: jnp.dtype, part: str | None = None) -> tuple[VAE, Any]:
    """The case's VAE and its weights through the converter."""
    vae = VAE(vae_config(case.config["vae"]), dtype)
    return vae, apply.convert("vae", case.weights(part), vae.abstract())


def run(case: Case, dtype: jnp.dtype) -> Iterator[tuple[str, np.ndarray]]:
    """Chunk outputs where the case has them, then mean, latents, decoded."""
    vae, params = build(case, dtype)
    frames = jnp.asarray(pixels(case.inputs["frames_u8"]))
    z = jnp.asarray(last(case.inputs["z"]))
    if "enc_pre_quant" in case.outputs:
        yield from _encoder_chunks(vae, params["encoder"], frames)
    mean = jax.jit(vae.moments)(params, frames)
    yield "mean", first(mean)
    yield "latents", first(vae.normalise(mean))
    if "enc_pre_quant" in case.outputs:
        yield from _decoder_chunks(vae, params, z)
    yield "decoded", first(jax.jit(vae.decode)(params, z))


def _chunk_of(network: Any) -> Callable[..., tuple]:
    """Compiled (params, x, past) -> (output, what the next chunk needs, inside)."""

    @jax.jit
    def run(params: Any, x: jax.Array, past: Any) -> tuple:
        memory = Memory(past)
        y, state = network.apply(
            {"params": params}, x, memory, mutable=["intermediates"]
        )
        return y, memory.kept, state["intermediates"]

    return run


def _encoder_chunks(vae: VAE, params: Any, frames: jax.Array) -> Iterator:
    past, outs = None, []
    chunk = _chunk_of(Encoder(vae.cfg, vae.dtype))
    stride = vae.cfg.temporal_stride
    starts = [0, *range(1, frames.shape[1], stride)]
    for i, start in enumerate(starts):
        x = frames[:, start : 1 if i == 0 else start + stride].astype(vae.dtype)
        y, past, inside = chunk(params, x, past)
        yield f"enc_conv_in_chunk{i}", first(inside["after_conv_in"][0])
        yield f"enc_mid_chunk{i}", first(inside["after_mid"][0])
        outs.append(y)
    yield "enc_pre_quant", first(jnp.concatenate(outs, axis=1))


def _decoder_chunks(vae: VAE, params: Any, z: jax.Array) -> Iterator:
    mean, std = (np.asarray(v, np.float32) for v in (vae.cfg.mean, vae.cfg.std))
    quant = params["post_quant_conv"]
    kernel = jnp.asarray(quant["kernel"][0, 0, 0], vae.dtype)
    x = (z * std + mean).astype(vae.dtype) @ kernel + quant["bias"].astype(vae.dtype)
    past, chunk = None, _chunk_of(Decoder(vae.cfg, vae.dtype))
    for i in range(z.shape[1]):
        one = x[:, i : i + 1]
        _, past, inside = chunk(params["decoder"], one, past)
        yield f"dec_mid_chunk{i}", first(inside["after_mid"][0])
        yield f"dec_up0_chunk{i}", first(inside["after_level_0"][0])
