"""Training from stored latents is training from the frames they were made of."""

import dataclasses
import itertools
import json

import jax
import numpy as np
import pytest

from configs import stage2
from data_pipeline import builder, cache_latents, loader, synthetic
from data_pipeline.settings import AugmentConfig, Resolution
from onetoall_jax import pixels, trees
from onetoall_jax.checkpoints import parameters
from onetoall_jax.models import codec as codecs
from onetoall_jax.models.vae import VAE
from onetoall_jax.pipelines import encode, train
from onetoall_jax.pipelines import settings as run_settings
from tests.data_pipeline.sets import settings

STEPS = 20


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    root = tmp_path_factory.mktemp("set") / "data"
    made = synthetic.SyntheticConfig(num_frames=14, canvas_side=0)
    builder.write(root, {"train": synthetic.clips(made, "train", 16, 1)})
    # One size of batch: each costs every run a program.
    return settings(
        root,
        batch=8,
        windows="cached",
        windows_per_clip=3,
        augment=AugmentConfig(
            drop_all=0.05, drop_reference=0.05, keep_reference=0.3, zoom=0.4
        ),
    )


def run_of(data, **training):
    """Settings of a small stage 2 that reads `data`."""
    c = stage2.get_config("tiny")
    c.model.update(dict(num_layers=2, num_heads=1, mlp_dim=16, text_dim=8))
    c.model.reference_layers = 1
    c.codec.block.channels = c.model.in_channels = c.model.out_channels = 8
    c.init_from = "scratch"
    c.training.update(dict(steps=STEPS, log_every=STEPS, **training))
    c.training.optimizer.warmup_steps = 2
    return run_settings.build({**c.to_dict(), "data": dataclasses.asdict(data)})


def losses(data, workdir, **training):
    run = train.assemble(run_of(data, **training), workdir)
    run(loader.build(data, run.geometry))
    lines = (workdir / "log.jsonl").read_text().splitlines()
    return np.array([json.loads(line)["loss"] for line in lines])


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "bound"), [("float32", 1e-6), ("bfloat16", 1e-3)])
def test_training_with_stored_latents_gives_the_same_losses(
    config, tmp_path, dtype, bound
):
    """The type is that of the computation and of what is stored."""
    training = dict(dtype=dtype, compilation_cache=str(tmp_path / "cache"))
    folder = tmp_path / "latents"
    encoder = encode.Encoder(run_of(config, **training))
    cache_latents.write(config, encoder, folder, dtype=dtype)
    plain = losses(config, tmp_path / "frames", **training)
    stored = dataclasses.replace(config, latents=str(folder))
    cached = losses(stored, tmp_path / "stored", **training)
    assert len(plain) == STEPS
    worst = np.abs(cached - plain).max()
    print(f"\n{dtype}: losses {plain[0]:.4f} .. {plain[-1]:.4f}, "
          f"differing by at most {worst:.2e}")  # fmt: skip
    assert worst <= bound


@pytest.mark.slow
def test_latents_of_the_vae_are_stored(config, tmp_path):
    """A VAE of random parameters, read from its folder as a trained one is."""
    values = dataclasses.asdict(run_of(config))
    values["codec"] |= {"kind": "wan_vae", "params": str(tmp_path / "vae")}
    values["codec"]["vae"] = dict(
        base_dim=2,
        z_dim=3,
        dim_mult=(1, 1, 1, 1),
        res_blocks=1,
        mean=(0.1, 0.2, 0.3),
        std=(1.0, 2.0, 0.5),
    )
    made = run_settings.build(values)
    codec = codecs.build(made.codec, made.model.patch)
    rng = np.random.default_rng(3)
    params = jax.tree.map(
        lambda leaf: 0.3 * rng.standard_normal(leaf.shape).astype(np.float32),
        VAE(made.codec.vae).abstract(),
    )
    parameters.save(tmp_path / "vae", trees.flatten(params).items(), {})
    encoder, folder = encode.Encoder(made), tmp_path / "latents"
    pictures_only = dataclasses.replace(
        config, resolutions=(Resolution("tiny", image_share=1.0),)
    )
    cache_latents.write(pictures_only, encoder, folder)
    encode.check_stored(str(folder), params)
    stored = dataclasses.replace(pictures_only, latents=str(folder))
    assert encode.geometry(made) == codec.geometry
    encoded = jax.jit(lambda frames: codec.encode(params, pixels.scaled(frames)))
    pairs = zip(
        loader.build(pictures_only, codec.geometry),
        loader.build(stored, codec.geometry),
        strict=False,
    )
    for plain, cached in itertools.islice(pairs, 3):
        expected = encoded(plain["frames_u8"])
        np.testing.assert_allclose(cached["latents"], expected, atol=1e-5)
