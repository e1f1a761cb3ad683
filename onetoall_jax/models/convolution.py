"""The one 3D convolution; picks the fastest exact form for the device."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from onetoall_jax import axes

FORMS = ("auto", "direct", "frames", "rows")

# Numbers in a row of pixels, in and out, up to which "rows" beats "frames" on a CPU.
_ROW = 160


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
        "rows" one matrix product of whole rows, twice as fast again where a row is
        short; "auto" chooses by device and shape.
    Returns:
      [B,f,h,w,O] in the type of x.
    """
    if form == "auto":
        form = _choose(x.shape[3], kernel.shape)
    if form == "direct":
        out = jax.lax.conv_general_dilated(
            x,
            kernel,
            tuple(strides),
            "VALID",
            dimension_numbers=("NDHWC", "DHWIO", "NDHWC"),
        )
        return out + bias
    if form not in _SUMS:
        raise ValueError(f"form {form!r}: known are {FORMS}")
    # One rounding for sum and bias, as one 3D convolution would have.
    return (_SUMS[form](x, kernel, strides) + bias).astype(x.dtype)


def kernel_of_columns(kernel: jax.Array, columns: int, stride: int) -> jax.Array:
    """Kernel [kt,kh,3,C,O] for rows whose columns lie side by side in the channels.

    Rows [W,C] read as [W/columns, columns*C], with one more such group on each side of
    which only the column next to the row matters, become rows of columns/stride.

    Returns:
      [kt,kh,3,columns*C,columns/stride*O], mostly zeros.
    """
    reach = kernel.shape[2]
    out = columns // stride
    taken = np.zeros((reach, 3, columns, out), np.float32)
    for d in range(reach):
        for j in range(out):
            group, column = divmod(j * stride + d - reach // 2, columns)
            taken[d, group + 1, column, j] = 1
    wide = jnp.einsum("thdco,dgij->thgicjo", kernel, taken.astype(kernel.dtype))
    kt, kh, _, channels, features = kernel.shape
    return wide.reshape(kt, kh, 3, columns * channels, out * features)


def _choose(width: int, kernel: tuple[int, ...]) -> str:
    if axes.platform() != "cpu":
        return "direct"
    return "rows" if width * max(kernel[3:]) <= _ROW else "frames"


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


def _rows(x: jax.Array, kernel: jax.Array, strides: Sequence[int]) -> jax.Array:
    """Rows of pixels times a matrix with the kernel along its diagonals.

    Most of the matrix is zero, but packing a handful of channels for a convolution
    takes longer than these products.
    """
    kt, kh, kw, channels, features = kernel.shape
    width = x.shape[3]
    f, h, w = (
        (n - k) // s + 1
        for n, k, s in zip(x.shape[1:4], (kt, kh, kw), strides, strict=True)
    )
    taken = np.zeros((kw, width, w), np.float32)
    columns = np.arange(w)
    for j in range(kw):
        taken[j, columns * strides[2] + j, columns] = 1
    band = jnp.einsum("tijco,jab->tiacbo", kernel, taken.astype(kernel.dtype))
    rows = rearrange(x, "b f h w c -> b f h (w c)")
    near = [
        rows[:, t : t + strides[0] * (f - 1) + 1 : strides[0],
             i : i + strides[1] * (h - 1) + 1 : strides[1]]
        for t in range(kt)
        for i in range(kh)
    ]  # fmt: skip
    out = jnp.einsum(
        "bfhk,kn->bfhn",
        jnp.concatenate(near, axis=-1),
        band.reshape(kt * kh * width * channels, w * features),
        preferred_element_type=jnp.float32,
    )
    return rearrange(out, "b f h (w o) -> b f h w o", o=features)


_SUMS = {"frames": _sum_over_time, "rows": _rows}
