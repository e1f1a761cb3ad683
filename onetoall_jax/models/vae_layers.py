"""Causal layers of the Wan VAE; each carries the past frames it still needs."""

import math
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange

from onetoall_jax import axes
from onetoall_jax.models.convolution import conv3d
from onetoall_jax.models.layers import Conv2D, named, silu, uniform_fan_in


class Memory:
    """Past frames of every causal layer, in the order the layers run.

    One object lives for one chunk: layers `take` what the chunk before left and `keep`
    what the next one needs. In the first chunk there is no past.
    """

    def __init__(self, past: Sequence[jax.Array] | None):
        self.first = past is None
        self._past = iter(() if past is None else past)
        self._kept: list[jax.Array] = []

    def take(self) -> jax.Array:
        """What this layer kept in the chunk before; only after the first chunk."""
        return next(self._past)

    def keep(self, frames: jax.Array) -> None:
        """Leaves frames for this layer in the next chunk."""
        self._kept.append(frames)

    @property
    def kept(self) -> tuple[jax.Array, ...]:
        """Everything kept so far: the next chunk's past."""
        return tuple(self._kept)


def _with_past(x: jax.Array, memory: Memory) -> jax.Array:
    """x with two past frames in front, zeros in the first chunk; keeps the last two."""
    past = jnp.zeros_like(x[:, :1].repeat(2, 1)) if memory.first else memory.take()
    whole = jnp.concatenate([past, x], axis=1)
    memory.keep(whole[:, -2:])
    return whole


class CausalConv(nn.Module):
    """3D convolution that sees two past frames and no future one; zero borders.

    Attributes:
      size: kernel along time, rows, columns; (1, 1, 1) needs no memory.
    """

    features: int
    size: tuple[int, int, int] = (3, 3, 3)
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, memory: Memory | None = None) -> jax.Array:
        """x [B,F,H,W,C] -> [B,F,H,W,features]."""
        kernel, bias = _weights(self, self.size, x.shape[-1], self.features)
        if memory is not None:
            x = _with_past(x, memory)
        side = ((0, 0), (0, 0), *((n // 2, n // 2) for n in self.size[1:]), (0, 0))
        return conv3d(jnp.pad(x, side), kernel, bias)


def _weights(
    module: nn.Module, size: tuple[int, int, int], inputs: int, features: int
) -> tuple[jax.Array, jax.Array]:
    init = uniform_fan_in(math.prod(size) * inputs)
    names = (None, None, None, axes.CONV_IN, axes.CONV_OUT)
    kernel = module.param("kernel", named(init, *names), (*size, inputs, features))
    bias = module.param("bias", named(init, axes.NORM), (features,))
    return kernel.astype(module.dtype), bias.astype(module.dtype)  # type: ignore[attr-defined]


class PixelNorm(nn.Module):
    """x / max(|x|, 1e-12) * sqrt(C) * scale, per pixel over the channels."""

    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width = x.shape[-1]
        scale = self.param("scale", named(nn.initializers.ones, axes.NORM), (width,))
        wide = x.astype(jnp.float32)
        length = jnp.sqrt(jnp.sum(jnp.square(wide), axis=-1, keepdims=True))
        normed = wide / jnp.maximum(length, 1e-12) * math.sqrt(width)
        return (normed * scale.astype(jnp.float32)).astype(self.dtype)


class Residual(nn.Module):
    """Norm, silu, causal convolution, twice; a shortcut where the width changes."""

    features: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, memory: Memory) -> jax.Array:
        h = x
        for n in (1, 2):
            h = silu(PixelNorm(self.dtype, name=f"norm{n}")(h))
            conv = CausalConv(self.features, dtype=self.dtype, name=f"conv{n}")
            h = conv(h, memory)
        if x.shape[-1] != self.features:
            size = (1, 1, 1)
            x = CausalConv(self.features, size, self.dtype, name="shortcut")(x)
        return x + h


class FrameAttention(nn.Module):
    """One head as wide as the channels over the pixels of each frame."""

    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        b, _, h, width = x.shape[0], x.shape[1], x.shape[2], x.shape[-1]
        pixels = rearrange(x, "b f h w c -> (b f) h w c")
        y = PixelNorm(self.dtype, name="norm")(pixels)
        y = Conv2D(3 * width, size=1, dtype=self.dtype, name="qkv")(y)
        q, k, v = jnp.split(rearrange(y, "p h w c -> p (h w) c"), 3, axis=-1)
        # One frame's scores at a time: (H W)^2 numbers, whatever the batch.
        out = jax.lax.map(lambda qkv: _one_frame(*qkv), (q, k, v))
        out = rearrange(out, "p (h w) c -> p h w c", h=h)
        out = Conv2D(width, size=1, dtype=self.dtype, name="out")(out)
        return x + rearrange(out, "(b f) h w c -> b f h w c", b=b)


def _one_frame(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    scores = jnp.einsum("TC,SC->TS", q, k, preferred_element_type=jnp.float32)
    weights = jax.nn.softmax(scores / math.sqrt(q.shape[-1]), axis=-1)
    return jnp.einsum("TS,SC->TC", weights.astype(q.dtype), v)


def _per_frame(conv: Conv2D, x: jax.Array) -> jax.Array:
    y = conv(rearrange(x, "b f h w c -> (b f) h w c"))
    return rearrange(y, "(b f) h w c -> b f h w c", b=x.shape[0])


class Down(nn.Module):
    """Halves rows and columns, and time too where `in_time`.

    The clip's first frame passes the time convolution by.
    """

    in_time: bool
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, memory: Memory) -> jax.Array:
        width = x.shape[-1]
        side = ((0, 1), (0, 1))
        conv = Conv2D(width, stride=2, padding=side, dtype=self.dtype, name="conv")
        x = _per_frame(conv, x)
        if not self.in_time:
            return x
        time = _TimeConv(width, (2, 1, 1), self.dtype, name="time_conv")
        if memory.first:
            # Initialisation has only this chunk to make the parameters in.
            if self.is_initializing():
                time(jnp.concatenate([x] * 3, axis=1))
            memory.keep(x[:, -1:])
            return x
        whole = jnp.concatenate([memory.take(), x], axis=1)
        memory.keep(x[:, -1:])
        return time(whole)


class Up(nn.Module):
    """Doubles rows and columns, halves channels; doubles time first where `in_time`.

    The clip's first frame is not doubled in time, nor seen by the time convolution.
    """

    in_time: bool
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, memory: Memory) -> jax.Array:
        if self.in_time:
            x = self._double_time(x, memory)
        width = x.shape[-1]
        x = x.repeat(2, axis=2).repeat(2, axis=3)
        return _per_frame(Conv2D(width // 2, dtype=self.dtype, name="conv"), x)

    def _double_time(self, x: jax.Array, memory: Memory) -> jax.Array:
        width = x.shape[-1]
        time = _TimeConv(2 * width, (1, 1, 1), self.dtype, name="time_conv")
        if memory.first:
            if self.is_initializing():
                time(jnp.concatenate([x] * 3, axis=1))
            memory.keep(jnp.zeros_like(x[:, :1].repeat(2, 1)))
            return x
        doubled = time(_with_past(x, memory))
        return rearrange(doubled, "b f h w (two c) -> b (f two) h w c", two=2)


class _TimeConv(nn.Module):
    """Kernel (3, 1, 1) without padding."""

    features: int
    strides: tuple[int, int, int]
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel, bias = _weights(self, (3, 1, 1), x.shape[-1], self.features)
        return conv3d(x, kernel, bias, strides=self.strides)
