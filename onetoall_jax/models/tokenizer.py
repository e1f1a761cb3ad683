"""Cleaning and tokenising of prompts, as umT5 expects them."""

import html
import re
from pathlib import Path

import ftfy
import numpy as np
import sentencepiece

from onetoall_jax.errors import UserError

PAD, END = 0, 1


def clean(text: str) -> str:
    """Mends broken unicode, resolves HTML entities twice, collapses white space."""
    text = html.unescape(html.unescape(ftfy.fix_text(text))).strip()
    return re.sub(r"\s+", " ", text).strip()


class Tokenizer:
    """A sentencepiece model with T5's rules: end token appended, zeros behind.

    Raises:
      UserError: the file is missing or is no sentencepiece model.
    """

    def __init__(self, path: str | Path):
        if not Path(path).is_file():
            raise UserError(
                f"There is no tokenizer at {path}: give the spiece.model of umT5."
            )
        try:
            self._model = sentencepiece.SentencePieceProcessor(model_file=str(path))
        except (OSError, RuntimeError) as error:
            raise UserError(f"{path} is not a sentencepiece model.") from error

    def __call__(self, text: str, length: int) -> tuple[np.ndarray, np.ndarray]:
        """(ids, mask), each [length] int32; a long prompt is cut before its end.

        The text is cleaned first; an empty one is the end token alone.
        """
        ids = self._model.encode(clean(text))[: length - 1] + [END]
        padding = length - len(ids)
        mask = np.arange(length) < len(ids)
        return np.asarray(ids + [PAD] * padding, np.int32), mask.astype(np.int32)
