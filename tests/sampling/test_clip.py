"""Clips of any length: frames out, batches, pictures, what is refused."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from formula_model import CODEC_PARAMS, PARAMS, SIZE, FormulaCodec, Model, inputs

from onetoall_jax.errors import UserError
from onetoall_jax.sampling import clip
from onetoall_jax.sampling.sampler import Sampler, anchored, tone
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


@pytest.mark.parametrize(("made", "changes"), [(2, {}), (3, {"segments_per_call": 2})])
def test_a_broken_call_goes_on_to_the_same_frames(made, changes):
    given, pose = inputs()
    pose_u8 = pose(25)
    sampler = sampler_of(colour_anchor=0.5, **changes)

    def drawn(**more):
        return list(
            clip.draw_segments(sampler, PARAMS, CODEC_PARAMS, given, pose_u8, **more)
        )

    whole = drawn()
    assert len(whole) == 5
    count = clip.whole_calls(sampler, 25, made)
    assert count == 2
    last = whole[count - 1]
    rest = drawn(done=clip.Done(count, last.frames_u8, last.tone))
    assert [m.segment for m in rest] == [m.segment for m in whole[count:]]
    for a, b in zip(rest, whole[count:], strict=True):
        np.testing.assert_array_equal(a.frames_u8, b.frames_u8)
        np.testing.assert_array_equal(a.latents, b.latents)


def test_poses_may_come_from_anywhere_that_has_their_shape():
    given, pose = inputs()
    pose_u8 = pose(20)

    class Shelf:
        shape, asked = pose_u8.shape, []

        def __getitem__(self, index):
            self.asked.append(index[1])
            return pose_u8[index]

    made = draw(sampler_of(), given, Shelf())
    np.testing.assert_array_equal(made, draw(sampler_of(), given, pose_u8))
    assert max(len(frames) for frames in Shelf.asked) == 9


def test_the_colour_anchor_holds_mean_and_contrast():
    rng = np.random.default_rng(0)
    first, later = rng.normal(0.1, 0.2, (2, 2, 3, 4, 6, 3)).astype(np.float32)
    later = 0.5 * later + 0.3
    wanted = tone(jnp.asarray(first))
    np.testing.assert_allclose(wanted[:, 0], first.mean((1, 2, 3)), atol=1e-6)
    np.testing.assert_allclose(wanted[:, 1], first.std((1, 2, 3)), atol=1e-6)
    held = tone(anchored(jnp.asarray(later), wanted, 1.0))
    np.testing.assert_allclose(held, wanted, atol=1e-6)
    half = tone(anchored(jnp.asarray(later), wanted, 0.5))
    np.testing.assert_allclose(half, (wanted + tone(jnp.asarray(later))) / 2, atol=1e-6)


def test_seeds_share_a_program():
    given, pose = inputs()
    sampler, pose_u8 = sampler_of(), pose(9)
    one, two, same = (draw(sampler, given, pose_u8, seed=s) for s in (1, 2, 1))
    np.testing.assert_array_equal(one, same)
    assert sampler.call._cache_size() == 1
    assert one.shape == two.shape
