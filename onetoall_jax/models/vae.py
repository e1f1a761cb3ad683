"""The Wan 2.1 causal 3D VAE, in chunks of time and, if large, strips of space."""

import dataclasses
import enum
import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from onetoall_jax import axes
from onetoall_jax.models import vae_strips
from onetoall_jax.models.layers import silu
from onetoall_jax.models.vae_layers import (
    CausalConv,
    Down,
    FrameAttention,
    Memory,
    PixelNorm,
    Residual,
    Up,
)

Params = Any
Narrow = Callable[[jax.Array], jax.Array]
Finish = Callable[[jax.Array], jax.Array]

# Per-channel mean and standard deviation of Wan 2.1's latents, in channel order.
WAN_MEAN = (
    -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
    0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921,
)  # fmt: skip
WAN_STD = (
    2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
    3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160,
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class VAEConfig:
    """Sizes of the VAE.

    Attributes:
      base_dim: channels at full resolution; level i has base_dim * dim_mult[i].
      z_dim: latent channels.
      res_blocks: residual blocks of an encoder level; a decoder level has one more.
      down_in_time: for each level but the last, does it halve time as well?
      mean, std: of the latents, per channel.
    """

    base_dim: int = 96
    z_dim: int = 16
    dim_mult: tuple[int, ...] = (1, 2, 4, 4)
    res_blocks: int = 2
    down_in_time: tuple[bool, ...] = (False, True, True)
    mean: tuple[float, ...] = WAN_MEAN
    std: tuple[float, ...] = WAN_STD

    @property
    def temporal_stride(self) -> int:
        """Frames in a latent frame after the first."""
        return 2 ** sum(self.down_in_time)

    @property
    def single_level(self) -> int:
        """Level of the decoder from which on frames do not multiply."""
        return len(self.dim_mult) - [*self.down_in_time, True].index(True) - 1

    @property
    def spatial_stride(self) -> int:
        """Pixels in a latent pixel, each way."""
        return 2 ** (len(self.dim_mult) - 1)


class Part(enum.Flag):
    """Of encoder and decoder.

    The centre sees whole frames; levels see nearby pixels, those that change the number
    of frames several frames at once and the others, among them the largest, one.
    """

    CENTRE = enum.auto()
    TIME = enum.auto()
    FRAME = enum.auto()
    LEVELS = TIME | FRAME
    WHOLE = CENTRE | LEVELS


class _Middle(nn.Module):
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, memory: Memory) -> jax.Array:
        x = Residual(x.shape[-1], self.dtype, name="res_0")(x, memory)
        x = FrameAttention(self.dtype, name="attention")(x)
        return Residual(x.shape[-1], self.dtype, name="res_1")(x, memory)


class _EncoderLevel(nn.Module):
    features: int
    blocks: int
    down: bool
    in_time: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, memory: Memory) -> jax.Array:
        for r in range(self.blocks):
            x = Residual(self.features, self.dtype, name=f"res_{r}")(x, memory)
        return (
            Down(self.in_time, self.dtype, name="down")(x, memory) if self.down else x
        )


class _DecoderLevel(nn.Module):
    features: int
    blocks: int
    up: bool
    in_time: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, memory: Memory) -> jax.Array:
        for r in range(self.blocks):
            x = Residual(self.features, self.dtype, name=f"res_{r}")(x, memory)
        return Up(self.in_time, self.dtype, name="up")(x, memory) if self.up else x


class Encoder(nn.Module):
    """A chunk of frames to a chunk of pre-quantisation latents."""

    cfg: VAEConfig
    dtype: jnp.dtype = jnp.float32

    PARTS = (Part.FRAME, Part.TIME, Part.CENTRE)

    @nn.compact
    def __call__(
        self, x: jax.Array, memory: Memory, part: Part = Part.WHOLE
    ) -> jax.Array:
        """x [B,F,H,W,3], one or `temporal_stride` frames -> [B,1,h,w,2 z_dim]."""
        cfg, dtype = self.cfg, self.dtype
        single = [*cfg.down_in_time, True].index(True)
        if Part.FRAME in part:
            x = CausalConv(cfg.base_dim, dtype=dtype, name="conv_in")(x, memory)
            self.sow("intermediates", "after_conv_in", x)
            x = self._levels(x, memory, range(single))
        if Part.TIME in part:
            x = self._levels(x, memory, range(single, len(cfg.dim_mult)))
        if Part.CENTRE in part:
            x = _Middle(dtype, name="mid")(x, memory)
            self.sow("intermediates", "after_mid", x)
            x = silu(PixelNorm(dtype, name="norm_out")(x))
            x = CausalConv(2 * cfg.z_dim, dtype=dtype, name="conv_out")(x, memory)
        return x

    def _levels(self, x: jax.Array, memory: Memory, which: range) -> jax.Array:
        cfg = self.cfg
        for i in which:
            down = i < len(cfg.dim_mult) - 1
            level = _EncoderLevel(
                cfg.base_dim * cfg.dim_mult[i],
                cfg.res_blocks,
                down,
                down and cfg.down_in_time[i],
                self.dtype,
                name=f"level_{i}",
            )
            x = level(x, memory)
        return x


class Decoder(nn.Module):
    """One latent frame to a chunk of frames."""

    cfg: VAEConfig
    dtype: jnp.dtype = jnp.float32

    PARTS = (Part.CENTRE, Part.TIME, Part.FRAME)

    @nn.compact
    def __call__(
        self, x: jax.Array, memory: Memory, part: Part = Part.WHOLE
    ) -> jax.Array:
        """x [B,1,h,w,z_dim] -> [B,F,H,W,3], one frame or `temporal_stride` of them."""
        cfg, dtype = self.cfg, self.dtype
        single = cfg.single_level
        if Part.CENTRE in part:
            width = cfg.base_dim * cfg.dim_mult[-1]
            x = CausalConv(width, dtype=dtype, name="conv_in")(x, memory)
            x = _Middle(dtype, name="mid")(x, memory)
            self.sow("intermediates", "after_mid", x)
        if Part.TIME in part:
            x = self._levels(x, memory, range(single))
        if Part.FRAME in part:
            x = self._levels(x, memory, range(single, len(cfg.dim_mult)))
            x = silu(PixelNorm(dtype, name="norm_out")(x))
            x = CausalConv(3, dtype=dtype, name="conv_out")(x, memory)
        return x

    def _levels(self, x: jax.Array, memory: Memory, which: range) -> jax.Array:
        cfg = self.cfg
        widths = [cfg.base_dim * mult for mult in reversed(cfg.dim_mult)]
        in_time = (*reversed(cfg.down_in_time), False)
        for i in which:
            up = i < len(widths) - 1
            level = _DecoderLevel(
                widths[i],
                cfg.res_blocks + 1,
                up,
                in_time[i],
                self.dtype,
                name=f"level_{i}",
            )
            x = level(x, memory)
            self.sow("intermediates", f"after_level_{i}", x)
        return x


@dataclasses.dataclass(frozen=True)
class VAE:
    """Encoder, decoder and the constants between them, as functions of parameters.

    Attributes:
      most_pixels: of a frame that is taken whole; larger ones go in strips, with the
        same result. 0 is as many as the device's free memory has room for; None takes
        all whole.
    """

    cfg: VAEConfig
    dtype: jnp.dtype = jnp.float32
    most_pixels: int | None = None

    def init(self, key: jax.Array) -> Params:
        """Fresh parameters, boxed with logical axis names."""
        cfg, side = self.cfg, self.cfg.spatial_stride
        keys = jax.random.split(key, 4)
        frame = jnp.zeros((1, 1, side, side, 3))
        latent = jnp.zeros((1, 1, 1, 1, cfg.z_dim))
        double = latent.repeat(2, -1)
        return {
            "encoder": Encoder(cfg).init(keys[0], frame, Memory(None))["params"],
            "decoder": Decoder(cfg).init(keys[1], latent, Memory(None))["params"],
            "quant_conv": _quant(2 * cfg.z_dim).init(keys[2], double)["params"],
            "post_quant_conv": _quant(cfg.z_dim).init(keys[3], latent)["params"],
        }

    def abstract(self) -> Params:
        """Shapes and types of `init`, unboxed."""
        return nn.meta.unbox(jax.eval_shape(self.init, jax.random.key(0)))

    def moments(self, params: Params, frames: jax.Array) -> jax.Array:
        """Posterior mean, before normalisation.

        Args:
          frames: [B, 1 + 4n, H, W, 3] in -1..1.
        Returns:
          [B, 1 + n, h, w, z_dim].
        """
        double = self._encoded(params["encoder"], frames)
        quant: Any = _quant(2 * self.cfg.z_dim, self.dtype)
        quantised = quant.apply({"params": params["quant_conv"]}, double)
        return quantised[..., : self.cfg.z_dim]

    def _encoded(self, params: Params, frames: jax.Array) -> jax.Array:
        stride, side = self.cfg.temporal_stride, self.cfg.spatial_stride
        halo = vae_strips.encoder_halo(self.cfg.res_blocks, len(self.cfg.dim_mult))
        strips = self._strips(frames, side, halo, halo)
        if strips is None:
            return self._chunks(Encoder, params, frames, stride)

        def levels(strip: jax.Array, _: jax.Array) -> jax.Array:
            return self._chunks(Encoder, params, strip, stride, Part.LEVELS)

        whole = vae_strips.run(levels, frames, strips, side, 1)
        return self._chunks(Encoder, params, whole, 1, Part.CENTRE)

    def encode(self, params: Params, frames: jax.Array) -> jax.Array:
        """Frames [B,F,H,W,3] in -1..1 -> normalised latents [B,f,h,w,z_dim]."""
        return self.normalise(self.moments(params, frames))

    def normalise(self, mean: jax.Array) -> jax.Array:
        """Posterior mean -> latents, of about mean 0 and deviation 1 by channel."""
        shift, scale = self._constants()
        return (mean - shift) / scale

    def decode(
        self, params: Params, latents: jax.Array, finish: Finish = lambda x: x
    ) -> jax.Array:
        """Normalised latents [B,f,h,w,z_dim] -> frames [B,F,H,W,3].

        Args:
          finish: of any part of the frames in -1..1, pixel by pixel.
        """
        mean, std = self._constants()
        z = latents.astype(self.dtype) * std + mean
        quant: Any = _quant(self.cfg.z_dim, self.dtype)
        z = quant.apply({"params": params["post_quant_conv"]}, z)
        return self._decoded(params["decoder"], z, lambda x: finish(jnp.clip(x, -1, 1)))

    def _decoded(self, params: Params, z: jax.Array, finish: Finish) -> jax.Array:
        sizes, single = (
            (self.cfg.res_blocks, len(self.cfg.dim_mult)),
            self.cfg.single_level,
        )
        halo = vae_strips.decoder_halo(*sizes)
        strips = self._strips(z, 1, halo, vae_strips.decoder_halo(*sizes, single))
        if strips is None:
            return finish(self._chunks(Decoder, params, z, 1))

        def levels(strip: jax.Array, begin: jax.Array) -> jax.Array:
            def narrow(x: jax.Array) -> jax.Array:
                return vae_strips.narrowed(x, begin, strips, 2**single)

            return finish(self._chunks(Decoder, params, strip, 1, Part.LEVELS, narrow))

        centre = self._chunks(Decoder, params, z, 1, Part.CENTRE)
        return vae_strips.run(levels, centre, strips, 1, self.cfg.spatial_stride)

    def _strips(
        self, x: jax.Array, scale: int, halo: int, last_halo: int
    ) -> vae_strips.Strips | None:
        """Strips of x [B,F,H,W,C], where `scale` rows are a latent row."""
        height, width = x.shape[2] // scale, x.shape[3] // scale
        most = self.most_pixels
        if most == 0:
            size = jnp.dtype(self.dtype).itemsize * self.cfg.base_dim
            most = vae_strips.most_pixels(size, axes.free_bytes(), axes.platform())
        if most is not None:
            most //= self.cfg.spatial_stride**2
        # Devices that have no clip of their own may take a strip.
        idle = axes.shards(axes.STRIPS) // len(x)
        return vae_strips.plan(height, width, halo, last_halo, most, idle)

    def _constants(self) -> tuple[np.ndarray, np.ndarray]:
        mean, std = (np.asarray(v, np.float32) for v in (self.cfg.mean, self.cfg.std))
        return mean.astype(self.dtype), std.astype(self.dtype)

    def chunk(
        self,
        network: type[Encoder] | type[Decoder],
        params: Params,
        x: jax.Array,
        past: tuple | None,
        part: Part = Part.WHOLE,
        narrow: Narrow | None = None,
    ) -> tuple[jax.Array, tuple]:
        """One chunk: (output, what the next chunk needs of each part).

        Args:
          narrow: cuts what the single frames do not need, just before them.
        """
        kept = []
        for i, one in enumerate(p for p in network.PARTS if p in part):
            before = None if past is None else past[i]
            if narrow is not None and one is Part.FRAME:
                x = narrow(x)
            # The largest levels hold one frame at a time.
            frames = x.shape[1] if one is Part.FRAME else 1
            if before is None or frames == 1:
                x, after = self._once(network, params, x, before, one)
            else:
                run = functools.partial(self._once, network, params, part=one)
                x, after = _scan(run, x, before, 1)
            kept.append(after)
        return x, tuple(kept)

    def _once(
        self,
        network: type[Encoder] | type[Decoder],
        params: Params,
        x: jax.Array,
        past: tuple | None,
        part: Part,
    ) -> tuple[jax.Array, tuple]:
        memory = Memory(past)
        net = network(self.cfg, self.dtype)
        y = net.apply({"params": params}, x, memory, part)
        return y, memory.kept  # type: ignore[return-value]

    def _chunks(
        self,
        network: type[Encoder] | type[Decoder],
        params: Params,
        x: jax.Array,
        length: int,
        part: Part = Part.WHOLE,
        narrow: Narrow | None = None,
    ) -> jax.Array:
        """The first frame alone, then chunks of `length` under one scan."""
        x = x.astype(self.dtype)
        first, past = self.chunk(network, params, x[:, :1], None, part, narrow)
        if x.shape[1] == 1:
            return first
        run = functools.partial(self.chunk, network, params, part=part, narrow=narrow)
        rest, _ = _scan(run, x[:, 1:], past, length)
        return jnp.concatenate([first, rest], axis=1)


def _scan(
    fn: Callable[[jax.Array, tuple], tuple[jax.Array, tuple]],
    x: jax.Array,
    past: tuple,
    length: int,
) -> tuple[jax.Array, tuple]:
    """fn of chunks of `length` frames of x, each given what the one before kept."""

    def step(past: tuple, one: jax.Array) -> tuple[tuple, jax.Array]:
        y, kept = fn(one, past)
        return kept, y

    chunks = rearrange(x, "b (i f) h w c -> i b f h w c", f=length)
    kept, made = jax.lax.scan(step, past, chunks)
    return rearrange(made, "i b f ... -> b (i f) ..."), kept


def _quant(features: int, dtype: jnp.dtype = jnp.float32) -> CausalConv:
    return CausalConv(features, (1, 1, 1), dtype)
