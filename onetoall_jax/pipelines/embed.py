"""Embeds a prompt once, with umT5, into a small file.

    python -m onetoall_jax.pipelines.embed --umt5=checkpoints/umt5 \\
        --tokenizer=spiece.model --text="" --out=checkpoints/empty_prompt.npy

Training and sampling read the file (settings text.embedding, text.prompt and
text.negative) and never load the encoder, whose 5.7 billion parameters are more than
those of the 1.3B denoiser.
"""

import argparse
import dataclasses
import hashlib
import json
import os
import sys
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


def embed(
    checkpoint: Path, tokenizer: Path, text: str, dtype: str = "bfloat16"
) -> np.ndarray:
    """Rows [n, dim] float32 of the prompt's n tokens, the end token last.

    Padding is left out: it changes no row, and readers add zero rows anyway.

    Raises:
      UserError: no umT5 at `checkpoint`, no tokenizer, or a text too long.
    """
    ids, mask = Tokenizer(tokenizer)(text, 4 * len(text) + 1)  # bytes at the worst
    if mask.sum() > LONGEST:
        raise UserError(
            f"The prompt has {int(mask.sum())} tokens, but the model reads {LONGEST}: "
            "shorten it."
        )
    kind, sizes = convert.stored_sizes(checkpoint)
    if not isinstance(sizes, UMT5Config):
        raise UserError(f"{checkpoint} holds a {kind!r} checkpoint, not 'umt5'.")
    params = parameters.load(checkpoint, umt5.abstract(sizes))
    count = int(mask.sum())
    given = jnp.asarray(ids[None, :count]), jnp.asarray(mask[None, :count])

    @jax.jit
    def encode(params: umt5.Params, ids: jax.Array, mask: jax.Array) -> jax.Array:
        return umt5.encode(sizes, params, ids, mask, dtype=jnp.dtype(dtype))

    return np.asarray(encode(params, *given)[0], np.float32)


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


def cached(text: str, encoder: Encoder, settings: TextConfig) -> Path:
    """The file of a prompt, embedded unless it was before; umT5 is gone afterwards.

    Args:
      settings: of the model that reads it.
    Raises:
      UserError: a model that reads no prompts; else as `embed`.
    """
    if settings.embedding is None:
        raise UserError(
            "This model was trained with one fixed embedding and reads no prompt: "
            "leave the prompts out."
        )
    what = json.dumps([text, str(Path(encoder.params).resolve())])
    name = hashlib.sha256(what.encode()).hexdigest()[:24] + ".npy"
    path = Path(encoder.cache).expanduser() / name
    if not path.exists():
        write(path, embed(encoder.params, encoder.tokenizer, text))
    return path


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
