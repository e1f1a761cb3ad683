"""Prompt embeddings as files, so that neither training nor sampling loads umT5."""

import dataclasses
from pathlib import Path

import numpy as np

from onetoall_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class TextConfig:
    """Where prompt embeddings come from.

    Each file holds [n, text_dim] as the text encoder gives it; None is the fixed
    embedding of the tiny size.

    Attributes:
      length: rows of the prompt in training, zero padding included.
      sampling_length: rows in sampling; 0 takes as many as training.
      embedding: file of the empty prompt, the only one in training.
      prompt: file of the prompt to sample with; None takes the empty one.
      negative: file of the prompt to be guided away from; None takes the empty one.
    """

    length: int = 226
    sampling_length: int = 0
    embedding: str | None = None
    prompt: str | None = None
    negative: str | None = None


def constant_prompt(length: int, text_dim: int) -> np.ndarray:
    """Fixed rows [length, text_dim] that stand for the empty prompt at tiny size.

    One row of unit variance, like the end token's; the others are zero, like padding.
    """
    rows = np.zeros((length, text_dim), np.float32)
    rows[0] = np.random.default_rng(0).standard_normal(text_dim)
    return rows


def rows(file: str | None, length: int, text_dim: int) -> np.ndarray:
    """Embedding [length, text_dim] of a file, padded with zero rows.

    Raises:
      UserError: no such file, or rows of another width.
    """
    if file is None:
        return constant_prompt(length, text_dim)
    if not Path(file).is_file():
        raise UserError(
            f"There is no prompt embedding {file}: make it with "
            f"`python -m onetoall_jax.pipelines.embed --text=TEXT --out={file}`."
        )
    try:
        stored = np.load(file, allow_pickle=False).astype(np.float32)
    except ValueError as error:
        raise UserError(f"{file} is no prompt embedding (.npy).") from error
    if stored.ndim != 2 or stored.shape[1] != text_dim:
        raise UserError(
            f"{file} holds {stored.shape}, but the model reads rows of {text_dim}."
        )
    return np.pad(stored[:length], ((0, max(0, length - len(stored))), (0, 0)))


def for_training(config: TextConfig, text_dim: int) -> np.ndarray:
    """The empty prompt, [length, text_dim]."""
    return rows(config.embedding, config.length, text_dim)


def for_sampling(config: TextConfig, text_dim: int) -> tuple[np.ndarray, np.ndarray]:
    """(prompt, negative prompt), each [sampling_length, text_dim]."""
    length = config.sampling_length or config.length
    prompt, negative = (
        rows(file or config.embedding, length, text_dim)
        for file in (config.prompt, config.negative)
    )
    return prompt, negative
