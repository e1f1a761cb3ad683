"""Encoding and decoding of the VAE at its published size, with random parameters.

python -m benchmarks.vae --sizes 29x512x512 29x768x768 81x576x1024
python -m benchmarks.vae --sizes 5x32x32 --base_dim=8 --dtype=float32
"""

import argparse
import sys
from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from benchmarks import rates, report
from onetoall_jax.models import codec as codecs
from onetoall_jax.models.codec import Codec, CodecConfig
from onetoall_jax.models.vae import VAEConfig
from onetoall_jax.planning import count
from onetoall_jax.planning.work import Size


def main(argv: list[str]) -> None:
    """Times every size and prints the table."""
    parser = report.parser(__doc__)
    sizes = tuple(map(Size.parse, ("29x512x512", "29x768x768", "81x576x1024")))
    parser.add_argument("--sizes", type=Size.parse, nargs="+", default=sizes)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--base_dim", type=int, default=VAEConfig().base_dim)
    args = parser.parse_args(argv)
    settings = CodecConfig(dtype=args.dtype, vae=VAEConfig(base_dim=args.base_dim))
    codec = codecs.build(settings, (1, 2, 2))
    report.publish(
        "vae", args, [r for s in args.sizes for r in measure(codec, s, args)]
    )


def measure(codec: Codec, size: Size, args: argparse.Namespace) -> Iterator[report.Row]:
    """Rows of one size: encoding and decoding one clip."""
    params = jax.jit(lambda key: nn.meta.unbox(codec.init(key)))(jax.random.key(0))
    clip = 1, size.num_frames, size.height, size.width, 3
    frames = jax.random.uniform(jax.random.key(1), clip, minval=-1.0)
    latents = jnp.zeros(jax.eval_shape(codec.encode, params, frames).shape)
    best = rates.matmul(args.dtype, args.rounds)
    for name, fn, values in (
        ("encode", codec.encode, frames),
        ("decode", codec.decode, latents),
    ):
        program = report.compiled(jax.jit(fn).trace(params, values))

        def call(program: Any = program.call, values: Any = values) -> None:
            jax.block_until_ready(program(params, values))

        yield report.row(
            f"{name}, {args.dtype}",
            str(size),
            report.timed(call, args),
            work=count.operations(fn, params, values),
            matmul=best,
            program=program,
            clips=1,
        )


if __name__ == "__main__":
    main(sys.argv[1:])
