"""Embeds a prompt once, with umT5, into a small file.

    python -m onetoall_jax.pipelines.embed --umt5=checkpoints/umt5 \\
        --tokenizer=spiece.model --text="" --out=checkpoints/empty_prompt.npy

Training and sampling read the file (settings text.embedding, text.prompt and
text.negative) and never load the encoder, whose 5.7 billion parameters are more than
those of the 1.3B denoiser.
"""

import argparse
import dataclasses
import functools
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from onetoall_jax import errors
from onetoall_jax.checkpoints import parameters
from onetoall_jax.errors import UserError
from onetoall_jax.models import umt5
from onetoall_jax.models.prompts import TextConfig
from onetoall_jax.models.tokenizer import Tokenizer
from onetoall_jax.models.umt5 import UMT5Config
from onetoall_jax.pipelines import convert

LONGEST = 512  # tokens, the end token included


class Embedder:
    """umT5 as a function of a text: read by the first one, gone with this object.

    Args:
      checkpoint: directory of the converted umT5; tokenizer: its spiece.model.
    """

    def __init__(self, checkpoint: Path, tokenizer: Path, dtype: str = "bfloat16"):
        self._checkpoint, self._tokenizer = checkpoint, tokenizer
        self._dtype = jnp.dtype(dtype)

    def ids(self, text: str) -> np.ndarray:
        """[n] int32, the end token last.

        Raises:
          UserError: no tokenizer, no umT5, or a text too long.
        """
        longest = 4 * len(text) + 1  # bytes at the worst
        ids, mask = Tokenizer(self._tokenizer)(text, longest)
        if mask.sum() > LONGEST:
            raise UserError(
                f"The prompt has {int(mask.sum())} tokens, but the model reads "
                f"{LONGEST}: shorten it."
            )
        kind, sizes = convert.stored_sizes(self._checkpoint)
        if not isinstance(sizes, UMT5Config):
            raise UserError(
                f"{self._checkpoint} holds a {kind!r} checkpoint, not 'umt5'."
            )
        return ids[: int(mask.sum())]

    @functools.cached_property
    def _encode(self) -> Callable[[jax.Array], jax.Array]:
        sizes = convert.stored_sizes(self._checkpoint)[1]
        assert isinstance(sizes, UMT5Config)
        params = parameters.load(self._checkpoint, umt5.abstract(sizes))

        @jax.jit
        def encode(params: umt5.Params, ids: jax.Array) -> jax.Array:
            mask = jnp.ones_like(ids)
            return umt5.encode(sizes, params, ids, mask, dtype=self._dtype)

        return functools.partial(encode, params)

    def __call__(self, text: str) -> np.ndarray:
        """Rows [n, dim] float32 of the prompt's n tokens, the end token last.

        Padding is left out: it changes no row, and readers add zero rows anyway.
        """
        ids = jnp.asarray(self.ids(text)[None])
        return np.asarray(self._encode(ids)[0], np.float32)


def embed(
    checkpoint: Path, tokenizer: Path, text: str, dtype: str = "bfloat16"
) -> np.ndarray:
    """Rows [n, dim] float32 of one prompt; see `Embedder`."""
    return Embedder(checkpoint, tokenizer, dtype)(text)


@dataclasses.dataclass(frozen=True)
class Encoder:
    """Where prompts are embedded, and where they are kept.

    Attributes:
      params: directory of the converted umT5; tokenizer: its spiece.model.
      cache: folder of what was embedded before, by text.
    """

    params: Path = Path("checkpoints/umt5")
    tokenizer: Path = Path("checkpoints/spiece.model")
    cache: Path = Path("~/.cache/onetoall_jax/prompts")


def cached(
    texts: Sequence[str],
    encoder: Encoder,
    settings: TextConfig,
    *,
    apart: bool = False,
) -> list[Path]:
    """The files of prompts, embedded unless they were before.

    umT5 is read once for all that are missing and is gone afterwards. A text that
    cannot be embedded keeps none of the others from it.

    Args:
      settings: of the model that reads them.
      apart: a denoiser lies in memory already: another process embeds, on its CPU.
    Raises:
      UserError: a model that reads no prompts; else as `Embedder`.
    """
    if texts and settings.embedding is None:
        raise UserError(
            "This model was trained with one fixed embedding and reads no prompt: "
            "leave the prompts out."
        )
    embedder = Embedder(encoder.params, encoder.tokenizer)
    paths, errors_met = [], []
    for text in texts:
        what = json.dumps([text, str(Path(encoder.params).resolve())])
        name = hashlib.sha256(what.encode()).hexdigest()[:24] + ".npy"
        path = Path(encoder.cache).expanduser() / name
        paths.append(path)
        if path.exists():
            continue
        try:
            if apart:
                embedder.ids(text)
                _apart(encoder, text, path)
            else:
                write(path, embedder(text))
        except UserError as error:
            errors_met.append(error)
    if errors_met:
        raise errors_met[0]
    return paths


def _apart(encoder: Encoder, text: str, out: Path) -> None:
    """Writes the embedding of a text from a process of its own."""
    words = (
        f"--umt5={encoder.params}",
        f"--tokenizer={encoder.tokenizer}",
        f"--text={text}",
        f"--out={out}",
    )
    done = subprocess.run(
        [sys.executable, "-m", "onetoall_jax.pipelines.embed", *words],
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(f"The prompt could not be embedded: {last}")


def write(path: Path, rows: np.ndarray) -> None:
    """Stores an embedding; the file appears when it is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".part")
    with open(beside, "wb") as file:
        np.save(file, rows)
    os.replace(beside, path)


@errors.reported
def main(argv: list[str]) -> None:
    """Writes one embedding."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--umt5", type=Path, default=Path("checkpoints/umt5"))
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--text", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
    args = parser.parse_args(argv)
    rows = embed(args.umt5, args.tokenizer, args.text, args.dtype)
    write(args.out, rows)
    print(f"{len(rows)} rows of {rows.shape[1]} in {args.out}")


if __name__ == "__main__":
    main(sys.argv[1:])
