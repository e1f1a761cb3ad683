import dataclasses

import numpy as np
import pytest

from data_pipeline import augment, buckets, masks
from data_pipeline.settings import AugmentConfig, Resolution, stage_defaults
from data_pipeline.windows import choose_frames
from onetoall_jax.alignment import fit
from onetoall_jax.errors import UserError

# Number, height, width, frames, frames a second; a picture is one frame.
Row = tuple[int, int, int, int, float]
ROWS: dict[str, Row] = {
    "A": (0, 1280, 720, 300, 30),
    "B": (1, 1280, 720, 300, 24),
    "C": (2, 1920, 1080, 200, 60),
    "D": (3, 512, 512, 100, 25),
    "E": (4, 1101, 750, 1, np.nan),
    "F": (5, 720, 1280, 30, 30),
    "G": (6, 1300, 720, 500, 30),
    "I": (7, 1920, 800, 100, 16),
    "J": (8, 400, 700, 100, 30),
}
MOCHI = (Resolution("512"),)
SET_768 = (Resolution("512", 1.0, 0.05), Resolution("768", 0.5))
SET_768_V2 = (Resolution("768", 0.8, 0.05), Resolution("512", 1.0, 0.05))


def assigned(resolutions, seed):
    found: dict[str, str] = {}
    for name, row in ROWS.items():
        draws = buckets.released_seed(resolutions, row[0], seed)
        bucket = buckets.assign(resolutions, 29, row[1:], draws)
        assert bucket is not None
        size = (bucket.height, bucket.width)
        table = "512" if size in [s[1:] for s in buckets.TABLES["512"].sizes] else "768"
        key = f"{table}/{bucket.num_frames}"
        found[key] = found.get(key, "") + name
    return found


def test_aspects_follow_the_released_tables():
    small, large = buckets.TABLES["512"], buckets.TABLES["768"]
    assert len(small.sizes) == len(large.sizes) == 40
    assert small.nearest(1280, 720) == (672, 384)
    assert small.nearest(1101, 750) == (608, 416)
    assert small.nearest(720, 1280) == (384, 672)
    assert large.nearest(512, 512) == (768, 768)
    assert small.nearest(1000, 100) is None


@pytest.mark.parametrize(
    ("resolutions", "seed", "expected"),
    [
        (MOCHI, 43, {"512/29": "ABCDGIJ", "512/1": "EF"}),
        (SET_768, 43, {"768/29": "ABG", "512/29": "CDI", "512/1": "EFJ"}),
        (SET_768, 44, {"768/29": "AG", "512/29": "BCDIJ", "512/1": "EF"}),
        (
            SET_768_V2,
            43,
            {"768/29": "ABG", "768/1": "CEF", "512/29": "DI", "512/1": "J"},
        ),
        (SET_768_V2, 44, {"768/29": "ACGI", "512/29": "BDJ", "768/1": "EF"}),
    ],
)
def test_rows_go_to_the_released_buckets(resolutions, seed, expected):
    assert assigned(resolutions, seed) == expected


def test_rows_take_the_released_aspects():
    keys = {(h, w): key for key, h, w in buckets.TABLES["512"].sizes}
    found = []
    for row in ROWS.values():
        bucket = buckets.assign(MOCHI, 29, row[1:], 43)
        assert bucket is not None
        found.append(keys[bucket.height, bucket.width])
    assert found == [1.75, 1.75, 1.75, 1.0, 1.46, 0.57, 1.75, 2.40, 0.57]


def test_a_clip_without_a_known_rate_counts_every_frame():
    for length, frames in ((29, 29), (28, 1)):
        bucket = buckets.assign(MOCHI, 29, (672, 384, length, float("nan")), 43)
        assert bucket is not None and bucket.num_frames == frames


def test_unknown_tables_and_stages_are_named():
    with pytest.raises(UserError, match="'1024'"):
        buckets.assign((Resolution("1024"),), 29, (512, 512, 30, 16.0), 0)
    with pytest.raises(UserError, match="no stage 4"):
        stage_defaults(4)


def picture_sample():
    pictures = np.random.default_rng(0).integers(1, 256, (4, 48, 32, 3), np.uint8)
    return augment.Sample(
        frames=pictures[:1],
        poses=pictures[1:2],
        reference=pictures[2],
        reference_pose=pictures[3],
        mask=np.zeros((48, 32), np.uint8),
        region=np.ones((1, 48, 32), np.uint8),
        keep=np.ones((1, 48, 32), np.uint8),
        face_box=(10, 4, 20, 14),
    )


def test_a_picture_without_pose_is_to_become_its_reference():
    sample = picture_sample()
    config = dataclasses.replace(stage_defaults(2), drop_all=0.0, drop_reference=0.0,
                                 keep_reference=1.0, mask_face=1.0)  # fmt: skip
    done = augment.apply(sample, config, augment.draw(0, 0, 1))
    np.testing.assert_array_equal(done.frames[0], sample.reference)
    assert done.mask.any() and not done.poses.any() and not done.reference_pose.any()


def test_zoom_enlarges_reference_or_clip_but_never_both():
    config = AugmentConfig(0, 0, 0, 0, 0, zoom=1.0)
    changed = []
    for row in range(20):
        sample = picture_sample()
        done = augment.apply(sample, config, augment.draw(0, 0, row))
        changed.append(
            (
                not np.array_equal(done.reference, sample.reference),
                not np.array_equal(done.frames, sample.frames),
            )
        )
    assert set(changed) >= {(True, False), (False, True)}
    assert (True, True) not in changed


def test_choices_come_out_at_their_chances():
    draws = [augment.draw(7, 0, row) for row in range(20_000)]
    config = stage_defaults(2)
    branch = np.array([d.branch for d in draws])
    kept = np.array([d.keep_reference for d in draws]) < config.keep_reference
    dropped = branch < config.drop_all + config.drop_reference
    shares = {
        "both": ((branch < config.drop_all).mean(), 0.10),
        "pose": ((~dropped & kept).mean(), 0.16),
        "full": ((~dropped & ~kept).mean(), 0.64),
    }
    for name, (share, chance) in shares.items():
        assert abs(share - chance) < 4 * np.sqrt(chance * (1 - chance) / 20_000), name


def test_the_reference_lies_outside_the_window():
    for row in range(200):
        window, reference = choose_frames(20, 16.0, 9, augment.draw(0, 0, row))
        assert window == list(range(window[0], window[0] + 9))
        assert not window[0] <= reference <= window[-1]
    window, reference = choose_frames(17, 50.0, 5, augment.draw(0, 0, 0))
    assert np.diff(window).tolist() == [3] * 4
    for row in range(50):  # first and last frame are left out where the clip lasts
        window, _ = choose_frames(20, 16.0, 9, augment.draw(0, 0, row))
        assert 1 <= window[0] and window[-1] <= 17
    assert choose_frames(9, 16.0, 9, augment.draw(0, 0, 0))[0] == list(range(9))


def test_head_box_by_hand():
    points = np.zeros((133, 3))
    points[23:91] = (40, 60, 0.9)
    points[23] = (20, 40, 0.9)
    # 20..40 wide, 40..60 tall; raised by 8; widened by 2 and by 2.8.
    assert masks.head_box(points, 96, 64) == (18, 29, 42, 62)
    points[23:91, 2] = 0.5
    assert masks.head_box(points, 96, 64) is None


def test_a_weak_point_stretches_a_sure_head_to_the_corner():
    points = np.zeros((133, 3))
    points[23:91] = (40, 60, 0.9)
    points[30] = (41, 61, 0.1)
    # It lies at (-64, -96): 104 wide, widened by 10.4; raised to 0, 60 tall.
    assert masks.head_box(points, 96, 64) == (0, 0, 50, 66)


def test_a_hand_beyond_the_left_edge_wraps_round_as_released():
    points = np.zeros((1, 133, 3))
    points[:, 91:] = (-10, 40, 0.9)
    points[:, 91] = (-30, 20, 0.9)
    points[:, 112] = (-30, 20, 0.9)
    mask = masks.hands(points, 96, 64, 4)[0]
    # -30..-10 widened by 4: 0 to the sixth column from the right.
    assert mask[16:44, : 64 - 6].all() and mask.sum() == 28 * 58


def test_one_unsure_frame_clears_its_latent_frame():
    points = np.zeros((9, 133, 3))
    points[:, 23:91] = (40, 60, 0.9)
    points[:, 23] = (20, 40, 0.9)
    points[6, 23:91, 2] = 0.1
    head = masks.heads(points, 96, 64, 4)
    region = np.maximum(head, masks.hands(points, 96, 64, 4))
    assert head[0].any() and head[1].any() and not head[2].any()
    np.testing.assert_array_equal(head, region)


def test_text_is_left_out_of_the_loss():
    boxes = [[], [(10, 20, 30, 30)], [], [], []]
    mask = masks.keep(boxes, 5, 60, 50, 4)
    assert mask[0].all()
    # 20 x 10: wider by 2, taller by 4.
    assert not mask[1, 16:34, 8:32].any()
    assert mask[1].sum() == 60 * 50 - 18 * 24


def test_training_crop_and_nearest_pixels_by_hand():
    picture = np.arange(6 * 8).reshape(6, 8, 1).astype(np.uint8)
    out = fit.train_fit(picture, 3, 3)
    # Centre 6 x 6, every second pixel.
    np.testing.assert_array_equal(out[..., 0], picture[::2, 1:7:2, 0])


def test_sizes_for_sampling_follow_the_cap_and_the_multiple():
    assert fit.output_size(960, 720, cap=576, multiple=16) == (768, 576)
    assert fit.output_size(1012, 512, cap=384, multiple=16) == (752, 384)
    with pytest.raises(UserError, match="too small"):
        fit.output_size(12, 200, cap=576, multiple=16)


@pytest.mark.parametrize(
    "shape",
    [(2, 9, 40000, 1), (3, 30, 20, 3), (30, 20, 4), (2, 30, 20, 0), (0, 9, 9, 3)],
)
def test_nearest_pixels_are_the_same_however_they_are_fetched(shape):
    """Sizes and kinds that OpenCV takes and that it does not, whole and in part."""
    pictures = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    height, width = shape[-3:-1]
    rows = [int(np.float32(i) * np.float32(height / 23)) for i in range(23)]
    columns = [int(np.float32(i) * np.float32(width / 17)) for i in range(17)]
    expected = pictures[..., rows, :, :][..., columns, :]
    made = fit.nearest_resize(pictures, 23, 17)
    np.testing.assert_array_equal(made, expected)
    part = fit.nearest_resize(pictures, 23, 17, (slice(4, 20), slice(2, 9)))
    np.testing.assert_array_equal(part, expected[..., 4:20, 2:9, :])
    mirrored = fit.nearest_resize(pictures[..., ::-1, :], 23, 17)
    np.testing.assert_array_equal(
        mirrored, pictures[..., ::-1, :][..., rows, :, :][..., columns, :]
    )
    for array in (made, part, mirrored):
        assert array.flags.c_contiguous
