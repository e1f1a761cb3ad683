"""The small parts every network here is made of: dense, norms, embeddings, patches."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange, reduce, repeat

from onetoall_jax import axes, lora

Initializer = Callable[..., Any]


def named(init: Initializer, *names: str | None) -> Initializer:
    """Initialiser whose parameter carries logical axis names."""
    return nn.with_logical_partitioning(init, names)


def uniform_fan_in(fan_in: int) -> Initializer:
    """Uniform in +-1/sqrt(fan_in): the release's default for kernels and biases."""
    bound = 1.0 / math.sqrt(fan_in)

    def init(key: jax.Array, shape: Sequence[int], dtype=jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


class Weights(NamedTuple):
    """Of a dense layer, in the compute type: kernel, bias, adapter or None."""

    kernel: jax.Array
    bias: jax.Array
    adapter: Mapping[str, jax.Array] | None

    @property
    def merged(self) -> jax.Array:
        """The kernel with the adapter's share in it."""
        if self.adapter is None:
            return self.kernel
        share = self.adapter[lora.DOWN] @ self.adapter[lora.UP]
        return self.kernel + self.adapter[lora.SCALE] * share


def dense_weights(
    module: Any,
    fan_in: int,
    features: int,
    names: tuple[str, str],
    *,
    zero_init: bool = False,
) -> Weights:
    """Parameters of a dense layer that a compact module holds as its own.

    Args:
      module: has a `dtype`.
      names: logical names of the kernel's two axes.
    """
    init = nn.initializers.zeros if zero_init else uniform_fan_in(fan_in)
    kernel = module.param("kernel", named(init, *names), (fan_in, features))
    bias = module.param("bias", named(init, axes.NORM), (features,))
    adapter = None
    if module.has_variable("params", lora.DOWN):
        adapter = {
            name: module.get_variable("params", name).astype(module.dtype)
            for name in (lora.DOWN, lora.UP, lora.SCALE)
        }
    used = gathered(kernel, names, module.dtype)
    return Weights(used, bias.astype(module.dtype), adapter)


# Axes of a parameter as it is stored -> as it is used.
_IN_USE = {
    axes.PARAM_EMBED: axes.EMBED,
    axes.PARAM_HEADS: axes.HEADS,
    axes.PARAM_MLP: axes.MLP,
}


def gathered(kernel: jax.Array, names: tuple[str, ...], dtype: Any) -> jax.Array:
    """A stored kernel as it is used: in the compute type, whole where it was split.

    Said outright, the compiler gathers weights (in the smaller type) and not
    activations, and sums gradients straight into the shards of the parameter.

    Args:
      names: logical names of the stored kernel's axes.
    """
    if all(axes.shards(name) == 1 for name in names):
        return kernel.astype(dtype)
    return _gathered(kernel, names, jnp.dtype(dtype))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _gathered(kernel: jax.Array, names: tuple[str, ...], dtype: Any) -> jax.Array:
    used = [_IN_USE.get(name) for name in names]
    return axes.constrain(kernel.astype(dtype), *used)


def _gathered_forward(kernel, names, dtype):
    stored = jnp.zeros(0, kernel.dtype)  # says the type alone
    return _gathered(kernel, names, dtype), stored


def _gathered_backward(names, dtype, stored, gradient):
    del dtype
    return (axes.constrain(gradient.astype(stored.dtype), *names),)


_gathered.defvjp(_gathered_forward, _gathered_backward)


def dense(x: jax.Array, weights: Weights) -> jax.Array:
    """x @ kernel + bias on the last axis, and the adapter's share."""
    y = x @ weights.kernel + weights.bias
    if weights.adapter is None:
        return y
    share = (x @ weights.adapter[lora.DOWN]) @ weights.adapter[lora.UP]
    return y + weights.adapter[lora.SCALE] * share


class Dense(nn.Module):
    """x @ kernel + bias on the last axis, and an adapter's share where one is given.

    Attributes:
      features: width of the output.
      names: logical names of the kernel's two axes.
      zero_init: start at zero instead of uniform_fan_in.
    """

    features: int
    names: tuple[str, str]
    dtype: jnp.dtype = jnp.float32
    zero_init: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        sizes = x.shape[-1], self.features
        zero = self.zero_init
        return dense(x, dense_weights(self, *sizes, self.names, zero_init=zero))


class RMSNorm(nn.Module):
    """x / rms(x) * scale over the whole last axis, all heads together.

    The mean square is taken in float32 and the normalised value rounded to `dtype`
    before the scale, as the released model computes it.
    """

    eps: float
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = self.param(
            "scale", named(nn.initializers.ones, axes.NORM), (x.shape[-1],)
        )
        wide = x.astype(jnp.float32)
        square = jnp.mean(jnp.square(wide), axis=-1, keepdims=True)
        normed = (wide * jax.lax.rsqrt(square + self.eps)).astype(self.dtype)
        return normed * scale.astype(self.dtype)


def layer_norm(x: jax.Array, eps: float) -> jax.Array:
    """Zero mean and unit variance over the last axis, in and out in float32."""
    wide = x.astype(jnp.float32)
    centred = wide - jnp.mean(wide, axis=-1, keepdims=True)
    variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
    return centred * jax.lax.rsqrt(variance + eps)


class LayerNorm(nn.Module):
    """layer_norm with scale and bias, computed in float32, returned in `dtype`."""

    eps: float
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (x.shape[-1],)
        scale = self.param("scale", named(nn.initializers.ones, axes.NORM), shape)
        bias = self.param("bias", named(nn.initializers.zeros, axes.NORM), shape)
        y = layer_norm(x, self.eps)
        return (y * scale.astype(jnp.float32) + bias.astype(jnp.float32)).astype(
            self.dtype
        )


class Moments(NamedTuple):
    """Mean and variance of every group, at each of its channels [B,1,..,1,C].

    Attributes:
      frames: how many they were taken of.
    """

    frames: jax.Array
    mean: jax.Array
    variance: jax.Array

    def joined(self) -> "Moments":
        """Of all frames, where every field is a stack over parts of them."""
        frames = self.frames.sum()
        share = self.frames / frames

        def total(x: jax.Array) -> jax.Array:
            return jnp.tensordot(share, x, 1)

        mean = total(self.mean)
        apart = jnp.square(self.mean - mean)
        return Moments(frames, mean, total(self.variance + apart))


class GroupNorm(nn.Module):
    """Norm over groups of channels and every axis but the first; statistics in float32.

    Pooling over time as well couples all frames of a clip (section 9 of the model).
    Sums are taken channel by channel and joined by group afterwards: a TPU would pad a
    last axis as short as a group thirty-fold.

    Attributes:
      columns: neighbours in a row whose channels lie side by side in the last axis.
    """

    groups: int
    eps: float
    dtype: jnp.dtype = jnp.float32
    columns: int = 1

    @nn.compact
    def __call__(self, x: jax.Array, moments: Moments | None = None) -> jax.Array:
        """Normalised by the moments of x, or of a clip that x is a part of."""
        shape = (x.shape[-1] // self.columns,)
        scale = self.param("scale", named(nn.initializers.ones, axes.NORM), shape)
        bias = self.param("bias", named(nn.initializers.zeros, axes.NORM), shape)
        scale, bias = (
            jnp.tile(v.astype(jnp.float32), self.columns) for v in (scale, bias)
        )
        if moments is None:
            moments = self.moments(x)
        centred = x.astype(jnp.float32) - moments.mean
        y = centred * jax.lax.rsqrt(moments.variance + self.eps)
        return (y * scale + bias).astype(self.dtype)

    @nn.nowrap
    def moments(self, x: jax.Array, counts: jax.Array | None = None) -> Moments:
        """Of x [B,F,..,C]; counts [F] of 0 and 1 leave frames out."""
        wide = x.astype(jnp.float32)
        mean = self._mean(wide, counts)
        variance = self._mean(jnp.square(wide - mean), counts)
        frames = (
            jnp.asarray(x.shape[1], jnp.float32) if counts is None else counts.sum()
        )
        return Moments(frames, mean, variance)

    def _mean(self, x: jax.Array, counts: jax.Array | None) -> jax.Array:
        """Mean of each group, at each of its channels: [B,1,..,1,C]."""
        over = tuple(range(1, x.ndim - 1))
        if counts is None:
            each = jnp.mean(x, axis=over, keepdims=True)
        else:
            weights = jnp.reshape(counts, (-1, *[1] * (x.ndim - 2))) / counts.sum()
            frames = jnp.mean(x, axis=over[1:], keepdims=True)
            each = jnp.sum(frames * weights, axis=1, keepdims=True)
        sizes = {"k": self.columns, "g": self.groups}
        group = reduce(each, "b ... (k g c) -> b ... 1 g 1", "mean", **sizes)
        size = x.shape[-1] // self.columns // self.groups
        whole = "b ... 1 g 1 -> b ... (k g c)"
        return repeat(group, whole, k=self.columns, c=size)


def silu(x: jax.Array) -> jax.Array:
    """x * sigmoid(x), rounded once: bfloat16's own would round the sigmoid as well."""
    return nn.silu(x.astype(jnp.float32)).astype(x.dtype)


def sinusoid(timestep: jax.Array, dim: int) -> jax.Array:
    """Cosines, then sines, of float timesteps [B] at dim/2 frequencies -> [B, dim]."""
    half = dim // 2
    frequency = np.power(10000.0, -np.arange(half, dtype=np.float64) / half)
    angle = timestep.astype(jnp.float32)[:, None] * frequency.astype(np.float32)
    return jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=-1)


class MLP(nn.Module):
    """Two dense layers, `in` and `out`, with an activation between them."""

    hidden: int
    features: int
    activation: Callable[[jax.Array], jax.Array]
    names: tuple[str, str, str] = (axes.PARAM_EMBED, axes.PARAM_MLP, axes.PARAM_EMBED)
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        first, middle, last = self.names
        h = Dense(self.hidden, (first, middle), self.dtype, name="in")(x)
        return Dense(self.features, (middle, last), self.dtype, name="out")(
            self.activation(h)
        )


def gelu(x: jax.Array) -> jax.Array:
    """The tanh form, which the weights were trained with."""
    return jax.nn.gelu(x, approximate=True)


class PatchEmbedding(nn.Module):
    """Latents [B,f,h,w,C] -> tokens [B,T,D], order frame, row, column."""

    features: int
    patch: tuple[int, int, int]
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, latents: jax.Array) -> jax.Array:
        u, p, q = self.patch
        channels = latents.shape[-1]
        init = uniform_fan_in(u * p * q * channels)
        kernel = self.param(
            "kernel",
            named(init, None, None, None, axes.CONV_IN, axes.PARAM_EMBED),
            (u, p, q, channels, self.features),
        )
        bias = self.param("bias", named(init, axes.NORM), (self.features,))
        patches = rearrange(
            latents.astype(self.dtype),
            "b (f u) (h p) (w q) c -> b (f h w) (u p q c)",
            u=u,
            p=p,
            q=q,
        )
        flat = rearrange(kernel.astype(self.dtype), "u p q c d -> (u p q c) d")
        return patches @ flat + bias.astype(self.dtype)


def unpatchify(
    x: jax.Array, grid: tuple[int, int, int], patch: tuple[int, int, int]
) -> jax.Array:
    """Tokens [B,T,u*p*q*C], channel fastest -> latents [B,f,h,w,C]."""
    f, h, w = grid
    u, p, q = patch
    return rearrange(
        x,
        "b (f h w) (u p q c) -> b (f u) (h p) (w q) c",
        f=f,
        h=h,
        w=w,
        u=u,
        p=p,
        q=q,
    )


class Conv2D(nn.Module):
    """Convolution of pictures [B,h,w,C].

    Attributes:
      size: of the square kernel.
      stride: of rows and columns.
      padding: "SAME", or (before, after) of rows and of columns.
    """

    features: int
    size: int = 3
    stride: int = 1
    padding: str | tuple[tuple[int, int], tuple[int, int]] = "SAME"
    dtype: jnp.dtype = jnp.float32
    zero_init: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (self.size, self.size, x.shape[-1], self.features)
        init = uniform_fan_in(self.size**2 * x.shape[-1])
        if self.zero_init:
            init = nn.initializers.zeros
        names = (None, None, axes.CONV_IN, axes.CONV_OUT)
        kernel = self.param("kernel", named(init, *names), shape)
        bias = self.param("bias", named(init, axes.NORM), (self.features,))
        y = jax.lax.conv_general_dilated(
            x.astype(self.dtype),
            kernel.astype(self.dtype),
            (self.stride, self.stride),
            self.padding,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return y + bias.astype(self.dtype)
