"""Clips of any length: frames out, batches, pictures, what is refused."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from formula_model import CODEC_PARAMS, PARAMS, SIZE, FormulaCodec, Model, inputs

from onetoall_jax.errors import UserError
from onetoall_jax.sampling import clip
from onetoall_jax.sampling.sampler import Sampler
from onetoall_jax.sampling.settings import SamplingConfig

CONFIG = SamplingConfig(steps=2, segment_frames=9, final_lengths=(9,))


def sampler_of(**changes):
    return Sampler(Model({}), FormulaCodec(), dataclasses.replace(CONFIG, **changes))


def draw(sampler, given, pose, **more):
    return clip.sample_clip(sampler, PARAMS, CODEC_PARAMS, given, pose, **more)


def test_frames_come_as_soon_as_they_are_final():
    given, pose = inputs()
    pose_u8 = pose(20)
    parts = list(clip.stream_clip(sampler_of(), PARAMS, CODEC_PARAMS, given, pose_u8))
    assert [p.shape[1] for p in parts] == [4, 4, 3, 9]
    whole = draw(sampler_of(), given, pose_u8)
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole)
    assert whole.dtype == np.uint8


def test_a_clip_does_not_depend_on_its_neighbours_in_the_batch():
    given, pose = inputs()
    pose_u8 = pose(13)
    both = draw(sampler_of(), given, pose_u8)
    alone = jax.tree.map(lambda x: x[1:], given).replace(black=given.black)
    np.testing.assert_array_equal(draw(sampler_of(), alone, pose_u8[1:]), both[1:])


def test_a_short_clip_is_padded_with_its_last_pose_and_cropped():
    given, pose = inputs()
    pose_u8 = pose(7)
    longer = np.concatenate([pose_u8, pose_u8[:, -1:], pose_u8[:, -1:]], axis=1)
    short, whole = (draw(sampler_of(), given, p) for p in (pose_u8, longer))
    assert short.shape == (2, 7, *SIZE, 3)
    np.testing.assert_array_equal(short, whole[:, :7])


def test_a_picture_is_one_frame_without_context():
    given, pose = inputs()
    pose_u8 = pose(9)
    picture = draw(sampler_of(), given, pose_u8[:, :1])
    assert picture.shape == (2, 1, *SIZE, 3)


def test_given_noise_takes_the_place_of_the_seed():
    given, pose = inputs()
    pose_u8 = pose(9)
    shape = (2, 3, 2, 3, 3)
    drawn = jax.random.normal(jax.random.key(9), shape[1:])
    noise = jnp.broadcast_to(drawn, shape)
    # Velocity that stays: the noise stays visible in what is drawn.
    still = {"w": jnp.asarray(0.0)}

    class Nothing(Model):
        def velocity(self, params, x, timestep, given, features=None, context=None):
            return 0 * x

    def made(seed, noise=None):
        config = dataclasses.replace(CONFIG, seed=seed)
        sampler = Sampler(Nothing({}), FormulaCodec(), config)
        return clip.sample_clip(
            sampler, still, CODEC_PARAMS, given, pose_u8, noise=noise
        )

    np.testing.assert_array_equal(made(9), made(1, noise))
    assert (made(9) != made(1)).any()


def test_a_model_without_pose_draws_as_many_frames_as_asked():
    given, _ = inputs()
    given = given.replace(reference_pose_u8=None)
    frames = draw(sampler_of(), given, None, num_frames=13)
    assert frames.shape == (2, 13, *SIZE, 3)


def test_what_the_guidance_reads_must_be_there():
    given, pose = inputs()
    with pytest.raises(ValueError, match="negative prompt"):
        draw(sampler_of(), given.replace(negative=None), pose(9))
    with pytest.raises(ValueError, match="black latents"):
        draw(sampler_of(), given.replace(black=None), pose(9))
    with pytest.raises(ValueError, match="or neither"):
        draw(sampler_of(), given.replace(reference_pose_u8=None), pose(9))
    with pytest.raises(ValueError, match="how many frames"):
        draw(sampler_of(), given.replace(reference_pose_u8=None), None)
    unguided = sampler_of(image_guidance=1.0)
    poor = given.replace(negative=None, black=None)
    assert draw(unguided, poor, pose(5)).shape[1] == 5


def test_a_size_that_the_codec_does_not_take_is_refused():
    given, pose = inputs()
    with pytest.raises(UserError, match="multiples of 2"):
        draw(sampler_of(), given, pose(9)[:, :, :3])
