import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from onetoall_jax import flow, pixels
from onetoall_jax.training import draws, example, optimizer, state
from onetoall_jax.training.settings import OptimizerConfig, TrainingConfig
from onetoall_jax.training.step import Fixed, Knobs, clip_losses, make_train_step

CLIPS, FRAMES, SIDE = 4, 9, 16
CONFIG = TrainingConfig(
    steps=10,
    trainable="all",
    dtype="float32",
    token_replace=True,
    optimizer=OptimizerConfig(warmup_steps=0, clip_norm=0.0, ema_decay=0.5),
)


def small(pictures):
    """Every fourth frame, every eighth pixel."""
    return pictures[:, ::4, ::8, ::8]


class Denoiser:
    """A formula in place of a network; its parameters are "a" and "b"."""

    @staticmethod
    def conditions(params, text, reference, pose, reference_pose, scale):
        return {"pose": small(pose) * scale[:, None, None, None, None], "text": text}

    @staticmethod
    def reference_features(params, reference, timestep):
        return reference[..., :3] * params["b"]["w"]

    @staticmethod
    def velocity(params, noisy, timestep, given, features, context):
        moved = noisy @ params["a"]["w"] + features + given["pose"]
        return moved + given["text"].sum(axis=(1, 2))[:, None, None, None, None]


ENCODERS = example.Encoders(
    clip=lambda params, frames: small(frames),
    reference=lambda params, picture, mask: jnp.concatenate(
        [small(picture[:, None]), small(mask[:, None, ..., None])], axis=-1
    ),
    context_frames=2,
)
FIXED = Fixed(codec={}, text=jnp.ones((2, 3)) * 0.1)


def batch(seed=0):
    r = np.random.default_rng(seed)
    picture, latent = (CLIPS, SIDE, SIDE), (CLIPS, 3, 2, 2)
    return {
        "frames_u8": r.integers(0, 256, (CLIPS, FRAMES, SIDE, SIDE, 3)).astype("u1"),
        "pose_u8": r.integers(0, 256, (CLIPS, FRAMES, SIDE, SIDE, 3)).astype("u1"),
        "reference_u8": r.integers(0, 256, (*picture, 3)).astype("u1"),
        "reference_mask_u8": r.integers(0, 2, picture).astype("u1"),
        "reference_pose_u8": r.integers(0, 256, (*picture, 3)).astype("u1"),
        "region_u8": r.integers(0, 2, latent).astype("u1"),
        "keep_u8": r.integers(0, 2, latent).astype("u1"),
    }


def fresh(patterns=("a/",), config=CONFIG, seed=3):
    r = np.random.default_rng(1)
    params = {
        "a": {"w": jnp.asarray(r.normal(size=(3, 3)).astype(np.float32))},
        "b": {"w": jnp.asarray(r.normal(size=(3,)).astype(np.float32))},
    }
    tx = optimizer.transform(config.optimizer)
    ema = config.optimizer.ema_decay > 0
    return state.create(params, patterns, tx, seed, ema=ema), tx


@functools.cache
def one_step(config=CONFIG):
    made, tx = fresh(config=config)
    step = jax.jit(make_train_step(Denoiser, ENCODERS, tx, config))
    return made, *step(made, FIXED, batch(), Knobs(0.1, 0.5, 3.0))


def replaced(**changes):
    return dataclasses.replace(CONFIG, **changes)


def test_only_trainable_parameters_move_and_have_optimizer_state():
    before, after, loss, metrics = one_step()
    assert int(after.step) == 1
    np.testing.assert_array_equal(after.frozen["b"]["w"], before.frozen["b"]["w"])
    assert np.all(after.trainable["a"]["w"] != before.trainable["a"]["w"])
    sizes = [leaf.size for leaf in jax.tree.leaves(after.optimizer) if leaf.ndim]
    assert sizes == [9, 9]
    values = metrics.values()
    assert values["loss"] == pytest.approx(float(loss), rel=1e-6)
    parts = [values[f"loss_time_{i}"] for i in range(4)]
    assert min(p for p in parts if p == p) <= values["loss"]


def test_a_batch_in_parts_gives_the_update_of_the_whole():
    _, whole, loss, _ = one_step()
    parts = replaced(optimizer=dataclasses.replace(CONFIG.optimizer, accumulation=2))
    _, made, loss_parts, metrics = one_step(parts)
    assert float(loss) == pytest.approx(float(loss_parts), rel=1e-6)
    np.testing.assert_allclose(
        made.trainable["a"]["w"], whole.trainable["a"]["w"], rtol=1e-5
    )
    assert float(metrics.loss.count) == CLIPS


def test_the_running_mean_follows_the_parameters():
    before, after, _, _ = one_step()
    want = 0.9 * after.trainable["a"]["w"] + 0.1 * before.trainable["a"]["w"]
    np.testing.assert_allclose(after.ema["a"]["w"], want, rtol=1e-5)


def drawn(config, chance=0.5, clips=64):
    latents, picture = (3, 2, 2, 3), (SIDE, SIDE, 3)
    draw = jax.jit(draws.draw, static_argnums=(1, 2, 3, 4))
    return draw(jax.random.key(7), clips, latents, picture, config, chance)


def test_every_clip_has_its_own_draws_unless_the_release_is_asked_for():
    ours, theirs = drawn(CONFIG), drawn(replaced(shared_draws=True))
    assert len(np.unique(ours.time)) == 64 and len(np.unique(theirs.time)) == 1
    assert 10 < int(ours.context.sum()) < 54
    np.testing.assert_array_equal(theirs.noise[0], theirs.noise[63])
    assert 10 < int(ours.reference_chosen.sum()) < 54
    assert float(ours.reference_log_size.mean()) == pytest.approx(-3.0, abs=0.25)


def test_context_frames_are_clean_and_not_learned():
    many = drawn(CONFIG, chance=1.0, clips=CLIPS)
    given = example.prepare(ENCODERS, {}, batch(), many, CONFIG)
    latents = small(pixels.scaled(jnp.asarray(batch()["frames_u8"])))
    np.testing.assert_allclose(given.noisy[:, :2], latents[:, :2], atol=1e-6)
    sigma = flow.sigma_of(given.timestep)[:, None, None, None]
    want = (1 - sigma) * latents[:, 2] + sigma * many.noise[:, 2]
    np.testing.assert_allclose(given.noisy[:, 2], want, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(given.target, many.noise - latents, atol=1e-6)
    made, _ = fresh()
    text = jnp.zeros((CLIPS, 2, 3))
    losses = clip_losses(Denoiser, made.params, text, given, 3.0, 2)
    only = given.replace(target=given.target.at[:, :2].add(5.0))
    np.testing.assert_array_equal(
        losses, clip_losses(Denoiser, made.params, text, only, 3.0, 2)
    )


def test_a_clip_of_context_alone_is_trained_without_context():
    short = {k: v[:, :5] if v.ndim == 5 else v for k, v in batch().items()}
    many = drawn(CONFIG, chance=1.0, clips=CLIPS)
    many = many._replace(noise=many.noise[:, :2])
    assert many.context.all()
    assert not example.prepare(ENCODERS, {}, short, many, CONFIG).context.any()


def test_a_black_pose_clip_turns_its_pose_control_off():
    dropped = batch()
    dropped["pose_u8"] = dropped["pose_u8"].copy()
    dropped["pose_u8"][2] = 0
    many = drawn(CONFIG, clips=CLIPS)
    given = example.prepare(ENCODERS, {}, dropped, many, CONFIG)
    np.testing.assert_array_equal(given.pose_scale, [1, 1, 0, 1])


def test_the_released_noise_level_is_rounded_but_the_time_is_not():
    latents, noise = jnp.ones((1, 1, 1, 1, 1)), jnp.zeros((1, 1, 1, 1, 1))
    time = jnp.asarray([333.0])
    exact, _ = example.path(latents, noise, time, rounded=False)
    rounded, _ = example.path(latents, noise, time, rounded=True)
    assert float(exact[0, 0, 0, 0, 0]) == pytest.approx(0.667, abs=1e-6)
    assert rounded.dtype == jnp.bfloat16
    assert float(rounded[0, 0, 0, 0, 0]) == pytest.approx(0.667, abs=3e-3)
