"""Prompts to files, and files to what the denoiser reads."""

import flax.linen as nn
import jax
import numpy as np
import pytest
import sentencepiece

from onetoall_jax import config, trees
from onetoall_jax.checkpoints import parameters
from onetoall_jax.errors import UserError
from onetoall_jax.models import prompts, umt5
from onetoall_jax.models.prompts import TextConfig
from onetoall_jax.models.umt5 import UMT5Config
from onetoall_jax.pipelines import embed

SIZES = UMT5Config(vocab_size=64, dim=16, num_layers=1, num_heads=2, head_dim=8,
                   mlp_dim=16)  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """(folder of a small random umT5, tokenizer file)."""
    folder = tmp_path_factory.mktemp("umt5")
    text = folder / "words.txt"
    text.write_text("a dancing person turns around and waves\n" * 20)
    sentencepiece.SentencePieceTrainer.train(
        input=str(text), model_prefix=str(folder / "spiece"), vocab_size=22,
        pad_id=0, eos_id=1, unk_id=2, bos_id=-1, minloglevel=2,
    )  # fmt: skip
    params = nn.meta.unbox(umt5.init(SIZES, jax.random.key(0)))
    settings = {"kind": "umt5", "model": config.to_dict(SIZES)}
    parameters.save(folder / "params", trees.flatten(params).items(), settings)
    return folder / "params", folder / "spiece.model"


def test_the_empty_prompt_is_one_row(files):
    assert embed.embed(*files, "").shape == (1, 16)


def test_a_word_changes_the_row_of_the_end(files):
    empty, waves = (embed.embed(*files, text, "float32") for text in ("", "waves"))
    assert len(waves) > len(empty)
    assert np.abs(waves[-1] - empty[-1]).max() > 1e-3


def test_a_prompt_is_embedded_once_and_kept_by_its_text(files, tmp_path, monkeypatch):
    encoder = embed.Encoder(*files, cache=tmp_path)
    text = TextConfig(embedding="empty.npy")
    texts = ["waves", "turns " * 600, "turns"]
    with pytest.raises(UserError, match="shorten it"):
        embed.cached(texts, encoder, text)
    del texts[1]
    monkeypatch.setattr(embed.parameters, "load", None)  # nothing is left to embed
    paths = embed.cached(texts, encoder, text)
    monkeypatch.undo()
    for path, one in zip(paths, texts, strict=True):
        np.testing.assert_array_equal(np.load(path), embed.embed(*files, one))
    assert embed.cached([], encoder, TextConfig()) == []


@pytest.mark.slow
def test_beside_a_loaded_model_another_process_embeds(files, tmp_path, monkeypatch):
    encoder, text = embed.Encoder(*files, cache=tmp_path), TextConfig(embedding="e")
    monkeypatch.setattr(embed.parameters, "load", None)
    (path,) = embed.cached(["waves"], encoder, text, apart=True)
    monkeypatch.undo()
    np.testing.assert_allclose(
        np.load(path), embed.embed(*files, "waves"), rtol=1e-2, atol=1e-2
    )
    broken = embed.Encoder(files[0], files[1], cache="/proc/none")
    with pytest.raises(UserError, match="could not be embedded"):
        embed.cached(["waves"], broken, text, apart=True)


def test_a_prompt_of_ten_thousand_characters_is_refused(files, tmp_path):
    with pytest.raises(UserError, match="tokens, but the model reads 512: shorten it"):
        embed.embed(*files, "a dancing person " * 600)
    with pytest.raises(UserError, match="reads no prompt"):
        embed.cached(["x" * 10_000], embed.Encoder(*files), TextConfig())


def test_a_checkpoint_of_another_kind_is_refused(files, tmp_path):
    parameters.save(tmp_path / "other", [("w", np.ones(1, np.float32))],
                    {"kind": "wan", "model": {"num_layers": 1, "num_heads": 1,
                                              "mlp_dim": 1}})  # fmt: skip
    with pytest.raises(UserError, match="holds a 'wan' checkpoint, not 'umt5'"):
        embed.embed(tmp_path / "other", files[1], "")


def test_sampling_reads_its_own_prompts_and_pads_with_zeros(tmp_path):
    for name, value in (("empty", 1), ("bad", 2)):
        np.save(tmp_path / f"{name}.npy", np.full((2, 3), value, np.float32))
    text = TextConfig(
        length=3,
        sampling_length=5,
        embedding=str(tmp_path / "empty.npy"),
        negative=str(tmp_path / "bad.npy"),
    )
    assert prompts.for_training(text, 3).tolist() == [[1] * 3] * 2 + [[0] * 3]
    prompt, negative = prompts.for_sampling(text, 3)
    assert prompt.sum(axis=1).tolist() == [3, 3, 0, 0, 0]
    assert negative.sum(axis=1).tolist() == [6, 6, 0, 0, 0]


def test_a_missing_or_narrow_file_is_a_sentence(tmp_path):
    with pytest.raises(UserError, match="pipelines.embed --text=TEXT --out="):
        prompts.for_training(TextConfig(embedding=str(tmp_path / "x.npy")), 3)
    np.save(tmp_path / "x.npy", np.ones((2, 4), np.float32))
    with pytest.raises(UserError, match="the model reads rows of 3"):
        prompts.for_training(TextConfig(embedding=str(tmp_path / "x.npy")), 3)
