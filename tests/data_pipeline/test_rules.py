import numpy as np
import pytest

from data_pipeline import augment, buckets, masks
from data_pipeline.loader import choose_frames
from data_pipeline.settings import Resolution, stage_defaults
from onetoall_jax.alignment import fit
from onetoall_jax.errors import UserError


class Fixed:
    """A generator that always draws the same number."""

    def __init__(self, value):
        self.value = value

    def random(self, shape):
        return np.full(shape, self.value)


def test_aspects_follow_the_released_tables():
    small, large = buckets.TABLES["512"], buckets.TABLES["768"]
    assert len(small.sizes) == len(large.sizes) == 40
    assert small.nearest(1280, 720) == (672, 384)
    assert small.nearest(1101, 750) == (608, 416)
    assert small.nearest(720, 1280) == (384, 672)
    assert large.nearest(512, 512) == (768, 768)
    assert small.nearest(1000, 100) is None


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ((1280, 720, 300, 30.0), (29, 1008, 576)),
        ((400, 700, 100, 30.0), None),
        ((720, 1280, 30, 30.0), (1, 576, 1008)),
        ((512, 512, 100, 25.0), (29, 512, 512)),
    ],
)
def test_a_row_takes_the_largest_area_it_fills(row, expected):
    resolutions = (Resolution("768"), Resolution("512"))
    bucket = buckets.assign(resolutions, 29, row, Fixed(0.5))
    if expected is None:
        # 400 x 700 still fills 70 % of the small area.
        assert bucket == buckets.Bucket(29, 384, 672)
    else:
        assert (bucket.num_frames, bucket.height, bucket.width) == expected


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
    window, reference = choose_frames(9, 50.0, 3, augment.draw(0, 0, 0))
    assert np.diff(window).tolist() == [3, 3]


def test_head_box_by_hand():
    points = np.zeros((133, 3))
    points[23:91] = (40, 60, 0.9)
    points[23] = (20, 40, 0.9)
    # 20..40 wide, 40..60 tall; raised by 8; widened by 2 and by 2.8.
    assert masks.head_box(points, 96, 64) == (18, 29, 42, 62)
    points[23:91, 2] = 0.5
    assert masks.head_box(points, 96, 64) is None


def test_one_unsure_frame_clears_its_latent_frame():
    points = np.zeros((9, 133, 3))
    points[:, 23:91] = (40, 60, 0.9)
    points[:, 23] = (20, 40, 0.9)
    points[6, 23:91, 2] = 0.1
    head, region = masks.regions(points, 96, 64, 4)
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
