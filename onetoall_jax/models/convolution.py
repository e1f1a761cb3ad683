"""The one 3D convolution; picks the fastest exact form for the device."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from onetoall_jax import axes

FORMS = ("auto", "direct", "frames")


def conv3d(
    x: jax.Array,
    kernel: jax.Array,
    bias: jax.Array,
    *,
    strides: Sequence[int] = (1, 1, 1),
    form: str = "auto",
) -> jax.Array:
    """Convolution without padding: the caller pads, since each user pads differently.

    Args:
      x: [B,F,H,W,C], already padded.
      kernel: [kt,kh,kw,C,O].
      bias: [O].
      strides: of frames, rows, columns.
      form: "direct" is one 3D convolution, fastest on TPU and GPU; "frames" a sum over
        kt of 2D convolutions on shifted frames, two to five times faster on a CPU;
        "auto" chooses by device.
    Returns:
      [B,f,h,w,O] in the type of x.
    """
    if form == "auto":
        form = "frames" if axes.platform() == "cpu" else "direct"
    if form == "direct":
        out = jax.lax.conv_general_dilated(
            x,
            kernel,
            tuple(strides),
            "VALID",
            dimension_numbers=("NDHWC", "DHWIO", "NDHWC"),
        )
        return out + bias
    if form != "frames":
        raise ValueError(f"form {form!r}: known are {FORMS}")
    # One rounding for sum and bias, as one 3D convolution would have.
    return (_sum_over_time(x, kernel, strides) + bias).astype(x.dtype)


def _sum_over_time(
    x: jax.Array, kernel: jax.Array, strides: Sequence[int]
) -> jax.Array:
    depth = kernel.shape[0]
    stride, *in_space = strides
    frames = (x.shape[1] - depth) // stride + 1
    total = None
    for i in range(depth):
        part = x[:, i : i + stride * (frames - 1) + 1 : stride]
        flat = part.reshape(-1, *part.shape[2:])
        y = jax.lax.conv_general_dilated(
            flat,
            kernel[i],
            tuple(in_space),
            "VALID",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            preferred_element_type=jnp.float32,
        )
        total = y if total is None else total + y
    assert total is not None
    return jnp.reshape(total, (x.shape[0], frames, *total.shape[1:]))
