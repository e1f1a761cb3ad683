"""Segment plans against plans written out by hand."""

import dataclasses

import pytest

from onetoall_jax.errors import UserError
from onetoall_jax.geometry import Geometry
from onetoall_jax.sampling import segments
from onetoall_jax.sampling.segments import Segment
from onetoall_jax.sampling.settings import SamplingConfig

RELEASED = {
    81: [(0, 81), (16, 81)],
    100: [(0, 81), (35, 100)],
    141: [(0, 81), (72, 141)],
    157: [(0, 81), (76, 157)],
    158: [(0, 81), (76, 157), (93, 158)],
    300: [(0, 81), (76, 157), (152, 233), (227, 300)],
}
STATIC = {
    81: [(0, 81)],
    82: [(0, 81), (1, 82)],
    100: [(0, 81), (19, 100)],
    157: [(0, 81), (76, 157)],
    158: [(0, 81), (76, 157), (77, 158)],
    300: [(0, 81), (76, 157), (152, 233), (219, 300)],
}


def ends(plan):
    return [(s.start, s.end) for s in plan]


@pytest.mark.parametrize("num_frames", RELEASED)
def test_the_released_plan(num_frames):
    assert ends(segments.release_plan(num_frames)) == RELEASED[num_frames]


@pytest.mark.parametrize("num_frames", STATIC)
def test_the_static_plan(num_frames):
    assert ends(segments.static_plan(num_frames)) == STATIC[num_frames]


@pytest.mark.parametrize("name", ["static", "release"])
def test_every_segment_starts_with_frames_of_the_one_before(name):
    config = SamplingConfig(plan=name)
    for num_frames in range(82, 700):
        plan = segments.plan(config, num_frames, Geometry())
        assert plan[0].start == 0
        assert plan[-1].end == num_frames
        for before, after in zip(plan, plan[1:], strict=False):
            assert before.start < after.start <= before.end - config.overlap


@pytest.mark.parametrize(("num_frames", "length"), [(1, 1), (2, 5), (77, 77), (80, 81)])
def test_a_short_clip_is_one_padded_segment(num_frames, length):
    for name in ("static", "release"):
        plan = segments.plan(SamplingConfig(plan=name), num_frames, Geometry())
        assert plan == (Segment(0, length),)


def test_calls_take_equal_lengths_and_at_most_two_sizes():
    plan = segments.release_plan(158 + 3 * 76)
    lengths = [len(group) for group in segments.calls(plan, 2)]
    assert lengths == [2, 2, 1, 1]
    assert [len(group) for group in segments.calls(plan, 0)] == [5, 1]
    assert [len(group) for group in segments.calls(plan, 1)] == [1] * 6
    assert sum(segments.calls(plan, 3), ()) == plan


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"plan": "best"}, "'best' is unknown"),
        ({"segment_frames": 80}, "give 77 or 81"),
        ({"segment_frames": 5}, "leaves nothing new"),
        ({"plan": "release", "segment_frames": 65}, "no segment may be longer"),
        ({"overlap": 9}, "give 5"),
        ({"segments_per_call": -1}, "0 for all"),
        ({"colour_anchor": 1.5}, "is no share"),
    ],
)
def test_settings_that_fit_no_clip_are_refused(change, message):
    config = dataclasses.replace(SamplingConfig(), **change)
    with pytest.raises(UserError, match=message):
        segments.plan(config, 200, Geometry())
