"""Our denoiser and VAE beside Diffusers' Wan modules in torch, on this CPU.

    pip install -e '.[parity]'
    python benchmarks/against_diffusers.py --out=benchmarks/results/cpu.json

Same random weights, shapes and threads, float32, warm; calls alternate. Before any time
is taken, the outputs must agree.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
THREADS = len(os.sched_getaffinity(0))

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from diffusers import AutoencoderKLWan, WanTransformer3DModel  # noqa: E402

from benchmarks import timing  # noqa: E402
from onetoall_jax.conversion import apply  # noqa: E402
from onetoall_jax.models import onetoall  # noqa: E402
from onetoall_jax.models.settings import ModelConfig  # noqa: E402
from onetoall_jax.models.vae import VAE, VAEConfig  # noqa: E402

LAYERS = 4  # of 1.3B width; every layer costs the same
LATENTS = ((3, 32, 32), (5, 48, 48))  # frames, rows, columns: 768 and 2880 tokens
FRAMES = ((5, 96, 96), (9, 128, 128))
AGREE = 2e-3  # relative, of two float32 programs with other orders of summing


class Pair(NamedTuple):
    """The same work in both; each call returns an array when it is done."""

    name: str
    ours: Callable[[], np.ndarray]
    theirs: Callable[[], np.ndarray]


def denoiser() -> Iterator[Pair]:
    """One forward pass at each of LATENTS."""
    cfg = ModelConfig(num_layers=LAYERS, num_heads=12, mlp_dim=8960)
    torch.manual_seed(0)
    theirs = WanTransformer3DModel(
        num_attention_heads=12, ffn_dim=8960, num_layers=LAYERS, text_dim=4096
    ).eval()
    params = jax.device_put(_converted("wan", theirs, onetoall.abstract(cfg)))
    functions = onetoall.functions(cfg)

    @jax.jit
    def forward(params: Any, x: jax.Array, t: jax.Array, text: jax.Array) -> jax.Array:
        given = functions.conditions(params, text)
        return functions.velocity(params, x, t, given)

    for frames, rows, columns in LATENTS:
        rng = np.random.default_rng(0)
        x = rng.standard_normal((1, frames, rows, columns, 16), np.float32)
        text = rng.standard_normal((1, 512, 4096), np.float32)
        t = np.array([500.0], np.float32)
        ready = [jnp.asarray(v) for v in (x, t, text)]
        given = [
            torch.from_numpy(v) for v in (np.moveaxis(x, -1, 1).copy(), t, text)
        ]  # fmt: skip

        def ours(ready: list = ready) -> np.ndarray:
            return np.asarray(forward(params, *ready))

        def in_torch(given: list = given) -> np.ndarray:
            out = theirs(given[0], given[1], given[2], return_dict=False)[0]
            return np.moveaxis(out.numpy(), 1, -1)

        tokens = frames * rows * columns // 4
        yield Pair(f"DiT forward, {LAYERS} layers, {tokens} tokens", ours, in_torch)


def vae() -> Iterator[Pair]:
    """Encoding and decoding clips of FRAMES at the published size."""
    torch.manual_seed(0)
    theirs = AutoencoderKLWan().eval()
    made = VAE(VAEConfig())
    params = jax.device_put(_converted("vae", theirs, made.abstract()))
    encode, decode = jax.jit(made.moments), jax.jit(made.decode)
    shift = np.array(made.cfg.mean, np.float32)
    scale = np.array(made.cfg.std, np.float32)
    for frames, height, width in FRAMES:
        rng = np.random.default_rng(0)
        x = rng.uniform(-1, 1, (1, frames, height, width, 3)).astype(np.float32)
        latent = (1, 1 + (frames - 1) // 4, height // 8, width // 8, 16)
        z = rng.standard_normal(latent, np.float32)
        ready_x, ready_z = jnp.asarray(x), jnp.asarray(z)
        given_x = torch.from_numpy(np.moveaxis(x, -1, 1).copy())
        given_z = torch.from_numpy(np.moveaxis(z * scale + shift, -1, 1).copy())

        def ours_encode(x: jax.Array = ready_x) -> np.ndarray:
            return np.asarray(encode(params, x))

        def torch_encode(x: torch.Tensor = given_x) -> np.ndarray:
            mean = theirs.encode(x).latent_dist.mean
            return np.moveaxis(mean.numpy(), 1, -1)

        def ours_decode(z: jax.Array = ready_z) -> np.ndarray:
            return np.asarray(decode(params, z))

        def torch_decode(z: torch.Tensor = given_z) -> np.ndarray:
            return np.moveaxis(theirs.decode(z).sample.numpy(), 1, -1)

        size = f"{frames} frames of {height}x{width}"
        yield Pair(f"VAE encode, {size}", ours_encode, torch_encode)
        yield Pair(f"VAE decode, {size}", ours_decode, torch_decode)


def _converted(kind: str, module: torch.nn.Module, expected: Any) -> Any:
    tensors = {k: v.detach().numpy() for k, v in module.state_dict().items()}
    return apply.convert(kind, tensors, expected)


def main(argv: list[str]) -> None:
    """Prints a table and writes it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args(argv)
    torch.set_num_threads(THREADS)
    rows = []
    print(f"{THREADS} threads, float32, {args.rounds} rounds, medians")
    print(f"{'':44}{'ours s':>9}{'torch s':>9}{'ratio':>7}   (range)      differ")
    with torch.inference_mode():
        for make in (denoiser, vae):
            for pair in make():
                rows.append(measure(pair, args.rounds))
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(rows, indent=1) + "\n")


def measure(pair: Pair, rounds: int) -> dict[str, Any]:
    """Checks that both agree, times them in turn, prints one line."""
    a, b = pair.ours(), pair.theirs()
    difference = float(np.linalg.norm(a - b) / np.linalg.norm(b))
    if not difference < AGREE:
        raise SystemExit(f"{pair.name}: the outputs differ by {difference:.2e}")
    times = timing.in_turn({"ours": pair.ours, "torch": pair.theirs}, rounds)
    middle, low, high = timing.ratio(times["ours"], times["torch"])
    ours, theirs = (sorted(times[n])[rounds // 2] for n in ("ours", "torch"))
    print(
        f"{pair.name:44}{ours:9.3f}{theirs:9.3f}{middle:7.2f}   "
        f"({low:.2f} to {high:.2f})  {difference:.0e}",
        flush=True,
    )
    return {
        "what": pair.name,
        "seconds": times,
        "ratio": {"median": middle, "low": low, "high": high},
        "relative_difference": difference,
    }


if __name__ == "__main__":
    main(sys.argv[1:])
