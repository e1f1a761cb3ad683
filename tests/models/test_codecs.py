import jax
import jax.numpy as jnp
import numpy as np
import pytest

from onetoall_jax.errors import UserError
from onetoall_jax.models import block_codec, codec, umt5
from onetoall_jax.models.block_codec import BlockCodecConfig
from onetoall_jax.models.convolution import conv3d
from onetoall_jax.models.tokenizer import Tokenizer, clean
from onetoall_jax.models.vae import VAE, Encoder, VAEConfig

TINY_VAE = VAEConfig(base_dim=4, z_dim=3, dim_mult=(1, 2), res_blocks=1,
                     down_in_time=(True,), mean=(0.1, 0.2, 0.3),
                     std=(1.0, 2.0, 0.5))  # fmt: skip


def random(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("strides", [(1, 1, 1), (2, 1, 2)])
def test_convolution_forms_agree(strides):
    x, kernel, bias = random((2, 6, 5, 7, 3)), random((3, 3, 3, 3, 4), 1), random(4, 2)
    direct = conv3d(x, kernel, bias, strides=strides, form="direct")
    for form in ("frames", "rows"):
        other = conv3d(x, kernel, bias, strides=strides, form=form)
        np.testing.assert_allclose(direct, other, rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def vae():
    model = VAE(TINY_VAE)
    rng = np.random.default_rng(3)
    params = jax.tree.map(
        lambda s: 0.3 * rng.standard_normal(s.shape).astype(np.float32),
        model.abstract(),
    )
    return model, params


def test_vae_chunks_equal_the_whole_clip(vae):
    model, params = vae
    frames = np.tanh(random((1, 7, 4, 6, 3)))
    chunked = jax.jit(model.moments)(params, frames)
    double, past = model.chunk(Encoder, params["encoder"], frames[:, :1], None)
    # The other six frames as one chunk, three latent frames at once.
    rest, _ = model.chunk(Encoder, params["encoder"], frames[:, 1:], past)
    assert rest.shape[1] == 3
    quant = params["quant_conv"]
    whole = np.concatenate([double, rest], 1) @ quant["kernel"][0, 0, 0] + quant["bias"]
    np.testing.assert_allclose(chunked, whole[..., :3], atol=1e-5)


def test_a_later_frame_changes_no_earlier_latent(vae):
    model, params = vae
    encode = jax.jit(model.encode)
    frames = np.tanh(random((1, 5, 4, 6, 3)))
    changed = frames.copy()
    changed[:, 3] += 1
    a, b = encode(params, frames), encode(params, changed)
    np.testing.assert_array_equal(a[:, :2], b[:, :2])
    assert np.abs(a[:, 2] - b[:, 2]).max() > 1e-3


def test_vae_latents_are_normalised_by_the_constants(vae):
    model, params = vae
    frames = np.tanh(random((1, 1, 4, 6, 3)))
    mean = np.asarray(model.moments(params, frames))
    expected = (mean - np.array(TINY_VAE.mean)) / np.array(TINY_VAE.std)
    np.testing.assert_allclose(model.encode(params, frames), expected, rtol=1e-5)


def test_vae_memory_does_not_grow_with_the_clip(vae):
    """The scan carries the past frames only: as many numbers for 3 chunks as for 9."""
    model, params = vae

    def carried(num_chunks):
        frames = jax.ShapeDtypeStruct((1, 1 + 2 * num_chunks, 4, 6, 3), jnp.float32)
        jaxpr = jax.make_jaxpr(lambda x: model.moments(params, x))(frames)
        scans = [e for e in jaxpr.eqns if e.primitive.name == "scan"]
        # What is not carried on comes out stacked, one step along a new axis.
        return max(
            sum(
                outer.aval.size
                for outer, inner in zip(
                    scan.outvars, scan.params["jaxpr"].jaxpr.outvars, strict=True
                )
                if outer.aval.shape == inner.aval.shape
            )
            for scan in scans
        )

    assert carried(3) == carried(9) > 0


@pytest.mark.parametrize(
    "cfg", [BlockCodecConfig(4, 4, 192), BlockCodecConfig(2, 8, 384)]
)
def test_a_full_block_codec_loses_nothing(cfg):
    frames = np.clip(random((2, 1 + 2 * cfg.temporal, 16, 24, 3)) / 4, -1, 1)
    latents = block_codec.encode(cfg, frames)
    assert latents.shape == (2, 3, 16 // cfg.spatial, 24 // cfg.spatial, cfg.channels)
    np.testing.assert_allclose(block_codec.decode(cfg, latents), frames, atol=1e-5)


def test_the_block_basis_is_orthonormal_and_encoding_linear():
    cfg = BlockCodecConfig()
    functions, divisors = block_codec.basis(cfg)
    flat = functions.reshape(-1, cfg.channels)
    np.testing.assert_allclose(flat.T @ flat, np.eye(cfg.channels), atol=1e-9)
    assert (np.diff(divisors) <= 1e-12).all()
    a, b = random((1, 5, 8, 8, 3)), random((1, 5, 8, 8, 3), 1)
    both = block_codec.encode(cfg, 2 * a - 3 * b)
    apart = 2 * block_codec.encode(cfg, a) - 3 * block_codec.encode(cfg, b)
    np.testing.assert_allclose(both, apart, atol=1e-4)


def test_a_still_grey_clip_survives_the_smallest_block_codec():
    cfg = BlockCodecConfig(channels=3)
    frames = np.full((1, 5, 8, 16, 3), 0.4, np.float32)
    back = block_codec.decode(cfg, block_codec.encode(cfg, frames))
    np.testing.assert_allclose(back, frames, atol=1e-5)


def test_reference_latents_put_picture_and_mask_side_by_side():
    made = codec.build(codec.CodecConfig(kind="block"), (1, 1, 1))
    reference, mask = np.tanh(random((2, 16, 8, 3))), np.zeros((2, 16, 8), np.float32)
    mask[1] = 1
    both = codec.reference_latents(made, {}, reference, mask)
    assert both.shape == (2, 1, 2, 1, 96)
    alone = made.encode({}, reference[:, None])
    np.testing.assert_allclose(both[..., :48], alone, atol=1e-5)
    black = codec.black_latents(made, {}, 16, 8)
    np.testing.assert_allclose(both[0, ..., 48:], black[0, ..., 48:], atol=1e-5)
    np.testing.assert_allclose(both[1, ..., 48:], -black[0, ..., 48:], atol=1e-5)


def test_an_unknown_codec_is_named():
    with pytest.raises(UserError, match="'jpeg'"):
        codec.build(codec.CodecConfig(kind="jpeg"), (1, 2, 2))


def test_position_buckets_by_hand():
    bucket = umt5.position_bucket(200, 32, 128)
    assert bucket[10, 10] == 0 and bucket[10, 3] == 7 and bucket[3, 10] == 16 + 7
    assert bucket[10, 2] == 8 and bucket[150, 0] == 15 and bucket[0, 199] == 31


def test_cleaning_follows_the_release():
    assert clean("  a&amp;amp;b \n\t c ") == "a&b c"
    assert clean("schÃ¶n") == "schön"


def test_tokens_end_with_one_and_pad_with_zero(tmp_path):
    import sentencepiece

    corpus = tmp_path / "corpus.txt"
    corpus.write_text("a person dances in a bright room\nthe person waves\n" * 20)
    sentencepiece.SentencePieceTrainer.train(
        input=str(corpus), model_prefix=str(tmp_path / "m"), vocab_size=40,
        hard_vocab_limit=False, pad_id=0, eos_id=1, unk_id=2, bos_id=-1,
        minloglevel=2,
    )  # fmt: skip
    tokenizer = Tokenizer(tmp_path / "m.model")
    ids, mask = tokenizer("", 6)
    assert ids.tolist() == [1, 0, 0, 0, 0, 0] and mask.tolist() == [1, 0, 0, 0, 0, 0]
    ids, mask = tokenizer("a person waves in the room", 4)
    assert len(ids) == 4 and ids[-1] == 1 and mask.all() and (ids[:3] > 1).all()
    with pytest.raises(UserError, match="no tokenizer"):
        Tokenizer(tmp_path / "none.model")
