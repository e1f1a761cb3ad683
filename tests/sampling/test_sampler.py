"""The compiled unit with a formula as the model."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from formula_model import CODEC_PARAMS, PARAMS, SIZE, FormulaCodec, Model, inputs

from onetoall_jax.errors import UserError
from onetoall_jax.sampling import clip
from onetoall_jax.sampling.euler import Context, Denoiser
from onetoall_jax.sampling.guidance import Pass, table
from onetoall_jax.sampling.sampler import Sampler, draw_noise, to_bytes
from onetoall_jax.sampling.settings import SamplingConfig

TINY = SamplingConfig(steps=3, segment_frames=9, final_lengths=(9,))


def sampler_of(**changes):
    calls: dict = {}
    config = dataclasses.replace(TINY, **changes)
    return Sampler(Model(calls), FormulaCodec(), config), calls


def draw(sampler, given, pose, **more):
    return clip.sample_clip(sampler, PARAMS, CODEC_PARAMS, given, pose, **more)


class Straight(Model):
    """Always the same velocity, whatever it is asked."""

    def velocity(self, params, x, timestep, given, features=None, context=None):
        return params["velocity"]


@pytest.mark.parametrize("steps", [1, 4, 30])
def test_a_constant_velocity_lands_on_the_data(steps):
    rng = np.random.default_rng(0)
    # Multiples of 1/64, so that one step from noise to data is exact.
    data, noise = rng.integers(-64, 64, (2, 1, 3, 2, 3, 3)) / np.float32(64)
    sampler, _ = sampler_of(steps=steps)
    denoiser = Denoiser(Straight({}), table(TINY), sampler.denoiser.sigmas)
    given, pose = inputs(clips=1)
    params = {"velocity": jnp.asarray(noise - data)}
    made, _ = denoiser.draw(params, given, jnp.asarray(pose(9)), jnp.asarray(noise))
    np.testing.assert_allclose(made, data, atol=0 if steps == 1 else 5e-6)


def test_a_segment_lands_on_the_guided_target():
    sampler, _ = sampler_of()
    given, pose = inputs()
    pose_u8 = pose(9)
    noise = draw_noise(3, 2, (3, 2, 3, 3))
    made, kept = sampler.denoiser.draw(
        PARAMS, given, jnp.asarray(pose_u8), noise, keep=True
    )

    def target(text, reference, pose):
        said = 0.5 * np.mean(text, (1, 2))[:, None, None, None, None]
        return said + np.asarray(reference)[..., :3] + pose

    cells = pose_u8[:, ::4].reshape(2, 3, 2, 2, 3, 2, 3).mean((3, 5)) / 127.5 - 1
    own = np.mean(given.reference_pose_u8, (1, 2, 3, 4), keepdims=True) / 127.5 - 1
    full = target(given.prompt, given.reference, cells + own)
    pose_only = target(given.prompt, given.black, cells + own)
    nothing = target(given.negative, given.black, 0)
    expected = nothing + 1.5 * (pose_only - nothing) + 2.5 * (full - pose_only)
    np.testing.assert_allclose(made, expected, atol=2e-4)
    np.testing.assert_array_equal(kept.latents[-1], made)


def test_context_is_held_where_given_and_ignored_elsewhere():
    sampler, _ = sampler_of()
    given, pose = inputs()
    pose_u8, noise = jnp.asarray(pose(9)), draw_noise(0, 2, (3, 2, 3, 3))
    clean = jnp.full((2, 2, 2, 3, 3), 0.75)

    def made(flags):
        context = Context(clean, jnp.asarray(flags))
        return sampler.denoiser.draw(PARAMS, given, pose_u8, noise, context)[0]

    some, none, free = made([True, False]), made([False, False]), made([True, True])
    np.testing.assert_array_equal(some[0, :2], clean[0])
    np.testing.assert_array_equal(some[1], none[1])
    np.testing.assert_array_equal(some[0], free[0])
    plain, _ = sampler.denoiser.draw(PARAMS, given, pose_u8, noise)
    np.testing.assert_allclose(none, plain, atol=1e-6)
    np.testing.assert_allclose(some[0, 2] - plain[0, 2], 0.25 * 0.75, atol=1e-5)


def test_the_unit_is_a_scan_over_steps_inside_a_scan_over_segments():
    sampler, calls = sampler_of(steps=5)
    given, pose = inputs()
    jaxpr = jax.make_jaxpr(sampler.draw)(
        PARAMS,
        CODEC_PARAMS,
        given,
        sampler.first_carry(2, *SIZE),
        jnp.asarray(np.stack([pose(9)] * 4)),
        jnp.zeros(4, jnp.int32),
        draw_noise(0, 2, (3, 2, 3, 3)),
    )
    segments = [e for e in jaxpr.eqns if e.primitive.name == "scan"]
    assert [e.params["length"] for e in segments] == [4]
    steps = [e for e in segments[0].params["jaxpr"].eqns if e.primitive.name == "scan"]
    assert [e.params["length"] for e in steps] == [5]
    # Conditions once a segment and pass, features once a step and distinct reference.
    assert calls == {"conditions": 3, "reference_features": 2, "velocity": 3}


def test_a_pass_without_pose_scale_has_no_pose_path():
    sampler, _ = sampler_of()
    given, pose = inputs()
    full, empty, _ = sampler.denoiser.conditions(PARAMS, given, jnp.asarray(pose(9)))
    assert full.pose.shape == (2, 3, 2, 3, 3)
    assert empty.pose is None


@pytest.mark.parametrize("plan", ["static", "release"])
def test_calls_of_any_number_of_segments_give_the_same_bits(plan):
    given, pose = inputs()
    pose_u8 = pose(20)
    drawn = [
        draw(sampler_of(plan=plan, segments_per_call=n)[0], given, pose_u8)
        for n in (1, 2, 0)
    ]
    assert drawn[0].shape == (2, 20, *SIZE, 3)
    np.testing.assert_array_equal(drawn[0], drawn[1])
    np.testing.assert_array_equal(drawn[0], drawn[2])


def test_a_shorter_last_segment_reads_the_whole_one_before():
    given, pose = inputs()
    changes = {"segment_frames": 13, "final_lengths": (9, 13), "plan": "release"}
    one = draw(sampler_of(**changes)[0], given, pose_u8 := pose(22))
    all_at_once = draw(sampler_of(segments_per_call=0, **changes)[0], given, pose_u8)
    np.testing.assert_array_equal(one, all_at_once)


def test_a_clip_is_its_segments_drawn_one_after_another():
    """An independent loop over a store of frames, as the release keeps it."""
    given, pose = inputs()
    pose_u8 = pose(20)
    sampler, _ = sampler_of()
    noise = draw_noise(sampler.config.seed, 2, (3, 2, 3, 3))
    store = np.zeros((2, 20, *SIZE, 3), np.uint8)
    for start in (0, 4, 8, 11):
        context = None
        if start:
            seen = jnp.asarray(store[:, start : start + 5] / np.float32(255) * 2 - 1)
            clean = sampler.codec.encode(CODEC_PARAMS, seen)
            context = Context(clean, jnp.ones(2, bool))
        latents, _ = sampler.denoiser.draw(
            PARAMS, given, jnp.asarray(pose_u8[:, start : start + 9]), noise, context
        )
        frames = to_bytes(sampler.codec.decode(CODEC_PARAMS, latents))
        store[:, start : start + 9] = frames
    off = np.abs(draw(sampler, given, pose_u8).astype(int) - store)
    # Another program of the same formula may round a byte the other way.
    assert off.max() <= 1
    assert (off > 0).mean() < 5e-3


def test_bytes_are_cut_not_rounded():
    frames = jnp.asarray([-2.0, -1.0, 0.0, 0.999, 1.0, 3.0])
    np.testing.assert_array_equal(to_bytes(frames), [0, 0, 127, 254, 255, 255])


def test_no_steps_make_no_schedule():
    with pytest.raises(UserError, match="at least one step"):
        _ = sampler_of(steps=0)[0].denoiser


def test_weights_of_a_table_given_by_hand_are_taken_as_they_are():
    given, pose = inputs()
    rows = (Pass("real", "prompt", "real", 0.5, 1.0),)
    denoiser = Denoiser(Model({}), rows, sampler_of()[0].denoiser.sigmas)
    (condition,) = denoiser.conditions(PARAMS, given, jnp.asarray(pose(9)))
    assert condition.scale == 0.5
