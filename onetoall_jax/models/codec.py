"""Pictures to latents and back: one interface before the VAE and the block codec."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from onetoall_jax.errors import UserError
from onetoall_jax.geometry import Geometry
from onetoall_jax.models import block_codec
from onetoall_jax.models.block_codec import BlockCodecConfig
from onetoall_jax.models.vae import VAE, VAEConfig

Params = Any


class Codec(NamedTuple):
    """A codec as pure functions.

    Attributes:
      geometry: its strides and channels.
      encode: (params, frames [B,F,H,W,3] in -1..1) -> normalised latents [B,f,h,w,C].
      decode: (params, latents[, finish]) -> frames, clamped to -1..1, or what
        `finish` makes of every part of them: large frames are then never whole floats.
      init: key -> boxed parameters; an empty dict where nothing is learned.
    """

    geometry: Geometry
    encode: Callable[[Params, jax.Array], jax.Array]
    decode: Callable[..., jax.Array]
    init: Callable[[jax.Array], Params]


@dataclasses.dataclass(frozen=True)
class CodecConfig:
    """Which codec, and its sizes.

    Attributes:
      kind: "wan_vae" or "block".
      dtype: of the VAE's computation; training runs it in float32, and sampling has
        its own, `sampling.codec_dtype`.
      most_pixels: of a frame that the VAE takes whole; larger ones go in strips, which
        bounds its memory and changes nothing. 0 is what the device's memory allows.
      params: directory of the converted VAE; the block codec has none.
    """

    kind: str = "wan_vae"
    dtype: str = "float32"
    most_pixels: int = 0
    params: str | None = None
    vae: VAEConfig = dataclasses.field(default_factory=VAEConfig)
    block: BlockCodecConfig = dataclasses.field(default_factory=BlockCodecConfig)


def build(config: CodecConfig, patch: tuple[int, int, int]) -> Codec:
    """The codec of a setting.

    Args:
      patch: of the denoiser; only the geometry needs it.
    Raises:
      UserError: a kind that does not exist.
    """
    if config.kind == "block":
        cfg = config.block
        return Codec(
            Geometry(cfg.temporal, cfg.spatial, cfg.channels, patch),
            lambda params, frames: block_codec.encode(cfg, frames),
            lambda params, latents, finish=_as_it_is: finish(
                block_codec.decode(cfg, latents)
            ),
            lambda key: {},
        )
    if config.kind == "wan_vae":
        vae = VAE(config.vae, jnp.dtype(config.dtype), config.most_pixels)
        sizes = config.vae
        geometry = Geometry(
            sizes.temporal_stride, sizes.spatial_stride, sizes.z_dim, patch
        )
        return Codec(geometry, vae.encode, vae.decode, vae.init)
    raise UserError(f"codec.kind is {config.kind!r}: it can be 'wan_vae' or 'block'.")


def _as_it_is(frames: jax.Array) -> jax.Array:
    return frames


def reference_latents(
    codec: Codec, params: Params, reference: jax.Array, mask: jax.Array
) -> jax.Array:
    """Latents of a reference and of its mask, side by side.

    Args:
      reference: [B,H,W,3] in -1..1.
      mask: [B,H,W] in 0..1, 1 where the reference is empty and must be invented.
    Returns:
      [B,1,h,w,2C]; the mask goes through the codec as a grey picture.
    """
    grey = jnp.repeat(2 * mask[..., None] - 1, 3, axis=-1)
    pictures = jnp.concatenate([reference, grey.astype(reference.dtype)])[:, None]
    both = codec.encode(params, pictures)
    picture, hidden = jnp.split(both, 2)
    return jnp.concatenate([picture, hidden], axis=-1)


def black_latents(codec: Codec, params: Params, height: int, width: int) -> jax.Array:
    """[1,1,h,w,2C] of a dropped reference: black, with a mask that hides nothing."""
    black = codec.encode(params, -jnp.ones((1, 1, height, width, 3)))
    return jnp.concatenate([black, black], axis=-1)
