"""Prompt embeddings that need no text encoder."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class TextConfig:
    """Where prompt embeddings come from.

    Attributes:
      length: rows of a prompt, zero padding included; training 226, sampling 512.
      embedding: file of the stored empty-prompt embedding [n, text_dim] (.npy), as
        the text encoder gives it; None is the fixed one of the tiny size.
    """

    length: int = 226
    embedding: str | None = None


def constant_prompt(length: int, text_dim: int) -> np.ndarray:
    """Fixed rows [length, text_dim] that stand for the empty prompt at tiny size.

    One row of unit variance, like the end token's; the others are zero, like padding.
    """
    rows = np.zeros((length, text_dim), np.float32)
    rows[0] = np.random.default_rng(0).standard_normal(text_dim)
    return rows


def empty_prompt(
    config: TextConfig, text_dim: int, length: int | None = None
) -> np.ndarray:
    """Embedding [length, text_dim] of the empty prompt, padded with zero rows.

    Args:
      length: instead of the config's; sampling uses a longer one than training.
    """
    rows = length or config.length
    if config.embedding is None:
        return constant_prompt(rows, text_dim)
    stored = np.load(config.embedding, allow_pickle=False).astype(np.float32)[:rows]
    return np.pad(stored, ((0, rows - len(stored)), (0, 0)))
