"""Random choices against their chances, within 4 sigma over 20 000 draws."""

import dataclasses

import numpy as np
import pytest

from data_pipeline import augment, buckets, enhance, plan, windows
from data_pipeline.buckets import Bucket
from data_pipeline.builder import Marks, RowSizes
from data_pipeline.settings import AugmentConfig, DataConfig, Resolution, stage_defaults
from onetoall_jax.errors import UserError

COUNT = 20_000
STAGE2 = (Resolution("768", 0.5), Resolution("512", 1.0, 0.05))
STAGE3 = (Resolution("768", 0.8, 0.05), Resolution("512", 1.0, 0.05))


def assert_chance(name, hits, chance, count=COUNT):
    sigma = np.sqrt(chance * (1 - chance) / count)
    assert abs(hits / count - chance) <= 4 * sigma, (name, hits / count, chance)


def assert_uniform(name, values, choices):
    """Every one of `choices` values is met as often as the others."""
    counts = np.bincount(np.asarray(values), minlength=choices)
    assert len(counts) == choices
    for value, count in enumerate(counts):
        assert_chance(f"{name} {value}", count, 1 / choices, len(values))


@pytest.fixture(scope="module")
def draws():
    return [augment.draw(43, 1, row) for row in range(COUNT)]


def sample(frames=5):
    return augment.Sample(
        frames=np.zeros((frames, 40, 24, 0), np.uint8),
        poses=np.ones((1, 40, 24, 1), np.uint8),
        reference=np.ones((40, 24, 1), np.uint8),
        reference_pose=np.ones((40, 24, 1), np.uint8),
        mask=np.zeros((40, 24), np.uint8),
        region=np.ones((1, 40, 24), np.uint8),
        keep=np.ones((1, 40, 24), np.uint8),
        face_box=(8, 4, 14, 18),
    )


# What is left of a clip after dropping both or the reference: 0.8 in stages 2 and 3.
@pytest.mark.parametrize(
    ("stage", "chances"),
    [
        (
            1,
            {
                "no reference": 0.2,
                "mask around the face": 0.5,
                "mask of a rectangle": 0.3 * 0.2,
                "no pose": 0.0,
                "zoomed": 0.0,
            },
        ),
        (
            2,
            {
                "no reference": 0.2,
                "mask around the face": 0.5,
                "mask of a rectangle": 0.3 * 0.2,
                "no pose": 0.1 + 0.8 * 0.2,
                "reference zoomed": 0.8 * 0.8 * 0.05,
                "clip zoomed": 0.8 * 0.8 * 0.05,
            },
        ),
        (
            3,
            {
                "no reference": 0.2,
                "mask around the face": 0.3,
                "mask of a rectangle": 0.5 * 0.2,
                "no pose": 0.1 + 0.8 * 0.3,
                "reference zoomed": 0.8 * 0.7 * 0.05,
                "clip zoomed": 0.8 * 0.7 * 0.05,
            },
        ),
    ],
)
def test_clips_are_varied_at_the_released_chances(draws, stage, chances):
    config, met = stage_defaults(stage), dict.fromkeys(chances, 0)
    whole = sample()
    for drawn in draws:
        notes = "; ".join(augment.apply(whole, config, drawn).notes)
        for name in met:
            met[name] += name in notes
    for name, chance in chances.items():
        assert_chance(f"stage {stage}, {name}", met[name], chance)


def test_other_choices_come_out_at_their_chances(draws):
    two, one = stage_defaults(2), stage_defaults(1)
    assert_chance("faces", sum(d.face < two.without_face for d in draws), 0.2)
    assert_chance("heads", sum(d.change_pose < two.change_pose for d in draws), 0.7)
    assert_chance("first", sum(d.first < one.reference_first for d in draws), 0.2)
    assert_uniform("pool", [int(d.pool_row * 13) for d in draws], 13)


def test_heads_change_at_the_released_chances():
    made = [enhance.draw(43, 0, row) for row in range(COUNT)]
    chances = stage_defaults(2)
    limb = [d.limb < chances.change_bones for d in made]
    face = [d.face < chances.change_face for d in made]
    assert_chance("bones", sum(limb), 0.4)
    assert_chance("face", sum(face), 0.7)
    either = sum(a or b for a, b in zip(limb, face, strict=True))
    assert_chance("either", either, 0.82)
    assert_chance("alike", sum(d.push() <= chances.keep_alike for d in made), 0.1)
    # Uniform in 0..0.8 and 0.5..1: ten equal parts of each.
    assert_uniform("strength", [int(d.strength / 0.08) for d in made], 10)
    parts = [int((d.face_strength() - 0.5) / 0.05) for d in made]
    assert_uniform("face strength", parts, 10)


def test_windows_and_references_are_uniform(draws):
    # 31 frames at 16 a second: of frames 1..29 a window takes 25, one of 5.
    chosen = [windows.choose_frames(31, 16.0, 25, d) for d in draws]
    assert_uniform("window", [window[0] - 1 for window, _ in chosen], 5)
    for start in range(1, 6):
        outside = [i for i in range(1, 30) if not start <= i <= start + 24]
        met = [outside.index(ref) for window, ref in chosen if window[0] == start]
        assert_uniform(f"reference beside {start}", met, 4)


def test_marked_frames_are_where_windows_begin_and_references_lie(draws):
    # 32 frames a second: every second frame. 30 + 2 * 8 would end behind the clip.
    marks = Marks((2, 5, 9, 30, 36), (0, 7, 25, 39))
    chosen = [windows.choose_frames(40, 32.0, 9, d, marks) for d in draws]
    assert {tuple(window) for window, _ in chosen} == {
        tuple(range(5, 22, 2)), tuple(range(9, 26, 2))
    }  # fmt: skip
    assert_uniform("start", [(window[0] - 5) // 4 for window, _ in chosen], 2)
    for start, outside in ((5, [0, 25, 39]), (9, [0, 7, 39])):
        met = [outside.index(ref) for window, ref in chosen if window[0] == start]
        assert_uniform(f"reference beside {start}", met, 3)
    # None that fits: as without marks; a single reference inside stays the reference.
    late = Marks((36,), (12,))
    found = [windows.choose_frames(40, 32.0, 9, d, late) for d in draws[:50]]
    assert {reference for _, reference in found} == {12}
    plain = [windows.choose_frames(40, 32.0, 9, d)[0] for d in draws[:50]]
    assert [window for window, _ in found] == plain


def test_stored_windows_begin_at_marked_frames():
    config = DataConfig(windows="cached", augment=AugmentConfig.none())
    made = windows.stored(40, 16.0, 9, 0, config, Marks((3, 8, 12)))
    assert [w.frames[0] for w in made] == [3, 8, 12]
    sizes = RowSizes(*np.ones((4, 1), int), marks=(Marks((3,)),))
    assert windows.marks(config, sizes, 0) == Marks((3,))
    released = dataclasses.replace(config, marked_frames=False)
    assert windows.marks(released, sizes, 0) == Marks()


def test_masks_are_uniform_within_their_bounds(draws):
    config = dataclasses.replace(stage_defaults(2), mask_face=0.0, mask_rectangle=1.0,
                                 drop_all=0.0, drop_reference=0.0, keep_reference=0.0,
                                 zoom=0.0)  # fmt: skip
    tall, wide = [], []
    for drawn in draws:
        mask = augment.apply(sample(), config, drawn).mask
        rows, columns = np.nonzero(mask)
        tall.append(rows.max() - rows.min() + 1)
        wide.append(columns.max() - columns.min() + 1)
    # A twentieth to a fifth of 40 and of 24.
    assert_uniform("height", np.array(tall) - 2, 7)
    assert_uniform("width", np.array(wide) - 1, 4)


def rows_of(row, epoch, resolutions=STAGE3):
    """Buckets of COUNT equal rows."""
    columns = (np.full(COUNT, value) for value in row)
    config = DataConfig(resolutions=resolutions)
    return plan.members(config, RowSizes(*columns), epoch)


@pytest.mark.parametrize(
    ("resolutions", "row", "chances"),
    [
        (STAGE2, (1280, 720, 300, 30.0), (0.5, 0.0, 0.5 * 0.95, 0.5 * 0.05)),
        (STAGE2, (1280, 720, 1, 1.0), (0.0, 0.5, 0.0, 0.5)),
        (STAGE3, (1280, 720, 300, 30.0), (0.76, 0.04, 0.2 * 0.95, 0.2 * 0.05)),
        (STAGE3, (672, 384, 300, 30.0), (0.0, 0.0, 0.95, 0.05)),
    ],
)
def test_buckets_fill_at_their_chances(resolutions, row, chances):
    found = rows_of(row, 0, resolutions)
    sizes = ((29, 1008, 576), (1, 1008, 576), (29, 672, 384), (1, 672, 384))
    expected = {Bucket(*s): c for s, c in zip(sizes, chances, strict=True) if c}
    assert set(found) == set(expected)
    for bucket, chance in expected.items():
        assert_chance(str(bucket), len(found[bucket]), chance)


def test_buckets_of_two_epochs_are_independent():
    row, large = (1280, 720, 300, 30.0), Bucket(29, 1008, 576)
    first, second = (set(rows_of(row, epoch)[large]) for epoch in (0, 1))
    assert_chance("both", len(first & second), 0.76**2)
    # As released the draw of one kind in an epoch is that of the next kind in the one
    # before.
    half = (Resolution("512", 0.5),)
    picture, video = (672, 384, 1, np.nan), (672, 384, 300, 30.0)

    def taken(row, seed):
        return buckets.assign(half, 29, row, seed) is not None

    drawn = [taken(picture, seed) for seed in range(50)]
    assert 10 < sum(drawn) < 40
    assert drawn == [
        np.random.default_rng(seed + 1).random() < 0.5 for seed in range(50)
    ]
    assert taken(video, 7) == (np.random.default_rng(7).random(2)[1] < 0.5)


def sizes_of(*rows):
    return RowSizes(*(np.array(column) for column in zip(*rows, strict=True)))


def test_picture_groups_by_hand():
    video, tall, wide = (64, 64, 40, 8.0), (64, 48, 1, 1.0), (48, 64, 2, 1.0)
    rows = [tall, video, wide, tall, video, tall, wide, tall, video, tall, wide, tall]
    # Three videos: no group of several.
    assert plan.units(sizes_of(*rows)) == [
        (2,), (6,), (10,), (0,), (3,), (5,), (7,), (9,), (11,), (1,), (4,), (8,),
    ]  # fmt: skip
    # 12 videos are two groups' worth: of 9 pictures, each group has four. The wide ones
    # are too few for one; of the tall ones two are left over.
    more = [*rows, *[video] * 9]
    assert plan.units(sizes_of(*more))[:2] == [(0, 3, 5, 7), (1,)]
    # 18 videos, three groups' worth: threes.
    most = [*rows, *[video] * 15]
    assert plan.units(sizes_of(*most))[:4] == [(2, 6, 10), (0, 3, 5), (7, 9, 11), (1,)]


def test_a_group_shows_each_of_its_pictures_alike():
    # 200 groups of four, in 100 epochs.
    rows = [(512, 512, 1, 1.0)] * 800 + [(512, 512, 40, 16.0)] * 1200
    config, sizes = DataConfig(batch=1), sizes_of(*rows)
    places, picture, met = plan.units(sizes), Bucket(1, 512, 512), []
    assert len(places) == 1400
    for epoch in range(COUNT // 200):
        found = np.array(plan.members(config, sizes, epoch, places)[picture])
        np.testing.assert_array_equal(found // 4, np.arange(200))
        met += (found % 4).tolist()
    assert_uniform("picture", met, 4)


def test_the_number_of_programs_is_known_and_can_be_lowered():
    r = np.random.default_rng(0)
    height = r.integers(600, 1400, 2000)
    width = (height / r.uniform(0.25, 4, 2000)).astype(int)
    length, fps = r.integers(1, 200, 2000), np.full(2000, 24.0)
    sizes = RowSizes(height, width, length, fps)
    config = DataConfig(resolutions=STAGE3)
    known = plan.programs(config, sizes)
    assert len(known) == 160 and "160 sizes of batches (80 of videos" in plan.told(
        config, sizes
    )
    met = {b for epoch in range(4) for b in plan.members(config, sizes, epoch)}
    assert met <= set(known) and len(met) > 150
    few = dataclasses.replace(config, aspects=(0.57, 1.0, 1.75))
    assert len(plan.programs(few, sizes)) == 12
    with pytest.raises(UserError, match="data.aspects names 0.5625"):
        plan.programs(dataclasses.replace(config, aspects=(0.5625,)), sizes)
