import numpy as np
import pytest

from onetoall_jax.pose import decode

WHOLE_FRAME = [0, 0, 480, 720, -1]


def detections(*rows):
    return np.array(rows, np.float32).reshape(-1, 6)


# --- the person of a frame -----------------------------------------------------------


def test_a_box_is_scaled_to_the_frame_and_cut_to_whole_pixels():
    raw = detections((100.7, 50, 200.9, 300, 0.5, 0))
    # 480 / 640 = 0.75 and 720 / 640 = 1.125: x 75.5..150.7, y 56.25..337.5.
    found = decode.choose_person(raw, 720, 480)
    np.testing.assert_array_equal(found, [75, 56, 75 + 75, 56 + 281, 0.5])


def test_the_largest_person_wins_over_surer_ones_and_other_classes():
    raw = detections(
        (0, 0, 100, 100, 0.9, 0), (200, 200, 500, 500, 0.6, 0), (0, 0, 640, 640, 1, 3)
    )
    np.testing.assert_array_equal(
        decode.choose_person(raw, 640, 640)[:4], [200, 200, 500, 500]
    )


def test_a_larger_area_does_not_win_if_its_longer_side_is_short():
    strip, square = (0, 0, 600, 10, 0.9, 0), (100, 300, 200, 400, 0.8, 0)
    # 100 is under 0.4 * 600; with 250 pixels on a side it is not.
    kept = decode.choose_person(detections(strip, square), 640, 640)
    np.testing.assert_array_equal(kept[:4], strip[:4])
    wide = (100, 300, 350, 550, 0.8, 0)
    kept = decode.choose_person(detections(strip, wide), 640, 640)
    np.testing.assert_array_equal(kept[:4], wide[:4])


def test_the_longest_side_is_that_of_the_best_so_far():
    # 200 is under 0.4 * 620, the strip's side, but not under 0.4 * 250.
    first, strip = (0, 0, 250, 10, 0.9, 0), (0, 600, 620, 601, 0.8, 0)
    last = (300, 300, 500, 500, 0.7, 0)
    kept = decode.choose_person(detections(first, strip, last), 640, 640)
    np.testing.assert_array_equal(kept[:4], last[:4])


def test_overlapping_boxes_are_one_person_the_surest():
    raw = detections((10, 10, 110, 210, 0.6, 0), (5, 5, 115, 215, 0.4, 0))
    np.testing.assert_array_equal(
        decode.choose_person(raw, 640, 640)[:4], [10, 10, 110, 210]
    )


@pytest.mark.parametrize(
    "raw",
    [detections(), detections((9, 9, 300, 300, 0.04, 0), (9, 9, 300, 300, 0.9, 2))],
    ids=["nothing", "unsure or no person"],
)
def test_without_a_person_the_frame_is_taken_whole(raw):
    np.testing.assert_array_equal(decode.choose_person(raw, 720, 480), WHOLE_FRAME)


def test_both_output_formats_tell_the_same_boxes():
    wide = np.zeros((84, 3), np.float32)
    wide[:4] = np.array([[60, 50, 80, 60], [300, 300, 200, 200], [9, 9, 9, 9]]).T
    wide[4, :2] = 0.5, 0.7
    wide[7, 1] = 0.9  # the second is surer of another class
    np.testing.assert_allclose(
        decode.choose_person(wide, 640, 640), [20, 20, 100, 80, 0.5]
    )


def test_scaled_corners_are_rounded_to_float32_before_they_are_cut():
    width, cut_apart = 854, 0
    for pixel in range(1, 200):
        x = np.float32(pixel * 640 / width)
        exact = float(x) * (width / 640)
        cut_apart += int(np.float32(exact)) != int(exact)
        raw = detections((x, 0, 600, 600, 0.9, 0))
        assert decode.choose_person(raw, 640, width)[0] == int(np.float32(exact))
    assert cut_apart > 10


# --- ViTPose -------------------------------------------------------------------------


def test_the_box_of_a_person_is_padded_to_the_aspect():
    box = decode.heatmap_box(np.array([10, 20, 50, 80, 0.9]), 200, 100)
    np.testing.assert_allclose(box.centre, [30, 50])
    np.testing.assert_allclose(box.size, [1.25 * 60 * 3 / 4, 1.25 * 60])
    wide = decode.heatmap_box(np.array([10, 20, 100, 80, 0.9]), 200, 100)
    np.testing.assert_allclose(wide.size, [1.25 * 90, 1.25 * 90 * 4 / 3])


@pytest.mark.parametrize(
    "box",
    [None, [10, 10, 60, 90, 0], [10, 10, 60, 90, -1], [10, 10, 19, 90, 1],
     [10, 10, 60, 19, 1]],
)  # fmt: skip
def test_no_sure_box_of_ten_pixels_is_the_whole_frame(box):
    found = decode.heatmap_box(None if box is None else np.array(box, float), 200, 100)
    np.testing.assert_allclose(found.centre, [50, 100])
    np.testing.assert_allclose(found.size, [1.25 * 150, 1.25 * 200])


def test_a_crop_of_the_input_size_is_the_picture_normalised_and_black_outside():
    picture = np.random.RandomState(1).randint(0, 256, (70, 90, 3), np.uint8)
    box = decode.heatmap_box(np.array([10, 6, 58, 70, 1]), 70, 90)  # 60x80 around 34,38
    made = decode.heatmap_input(picture, box, 80, 60)
    padded = np.zeros((80, 60, 3))
    padded[2:72] = picture[:, 4:64]
    wanted = (padded / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    assert made.dtype == np.float32
    np.testing.assert_allclose(made, wanted.transpose(2, 0, 1), atol=1e-6)


def test_a_box_off_the_frame_is_black():
    box = decode.Box(np.array([500.0, 500.0]), np.array([60.0, 80.0]))
    made = decode.heatmap_input(np.full((9, 9, 3), 255, np.uint8), box, 80, 60)
    np.testing.assert_allclose(made[:, 0, 0], -decode.MEAN / decode.STD, rtol=1e-6)
    assert np.ptp(made, axis=(1, 2)).max() == 0


def blob(x, y, height=64, width=48, sigma=2.0):
    rows, columns = np.mgrid[:height, :width]
    return np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * sigma**2))


def test_the_peak_of_a_gaussian_is_found_between_pixels():
    # A blurred Gaussian is one, whose logarithm is quadratic: one step is exact.
    where = np.array([[20.3, 30.4], [25.0, 17.0], [11.7, 40.2]])
    maps = np.stack([blob(x, y) for x, y in where]).astype(np.float32)
    box = decode.Box(np.array([24.0, 32.0]), np.array([48.0, 64.0]))
    points, scores = decode.heatmap_points(maps, box)
    np.testing.assert_allclose(points, where, atol=2e-3)
    np.testing.assert_array_equal(scores, maps.max(axis=(1, 2)))


def test_peaks_at_the_border_stay_and_empty_maps_lie_before_the_corner():
    maps = np.stack([blob(1, 30.4), blob(20.3, 62), -blob(9, 9), 0 * blob(9, 9)])
    box = decode.Box(np.array([100.0, 200.0]), np.array([96.0, 128.0]))  # twice the map
    points, scores = decode.heatmap_points(maps.astype(np.float32), box)
    corner = np.array([52, 136])
    wanted = [[1, 30], [20, 62], [-1, -1], [-1, -1]]
    np.testing.assert_allclose(points - corner, 2 * np.array(wanted), atol=1e-4)
    assert (scores[2:] <= 0).all()


# --- YOLOX ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "fitted"), [((1000, 500), (640, 320)), ((90, 160), (360, 640))]
)
def test_a_picture_is_fitted_at_the_top_left_on_grey(size, fitted):
    square = decode.letterbox(np.full((*size, 3), 7, np.uint8))
    inside = np.zeros((640, 640), bool)
    inside[: fitted[0], : fitted[1]] = True
    assert square.dtype == np.float32
    np.testing.assert_array_equal(square, np.where(inside, 7, 114)[None].repeat(3, 0))
    *found, ratio = decode.letterbox_size(*size)
    assert tuple(found) == fitted
    assert ratio == min(640 / size[0], 640 / size[1])


def test_rows_are_placed_by_their_stride_and_cell():
    raw = np.zeros((8400, 85), np.float32)
    raw[:, :4] = 0.5, 0.25, 0, np.log(2)
    rows = decode.yolox_rows(raw)
    for index, x, y, stride in (
        (0, 0, 0, 8), (81, 1, 1, 8), (6399, 79, 79, 8),
        (6400, 0, 0, 16), (6441, 1, 1, 16), (8000, 0, 0, 32), (8399, 19, 19, 32),
    ):  # fmt: skip
        wanted = ((x + 0.5) * stride, (y + 0.25) * stride, stride, 2 * stride)
        np.testing.assert_allclose(rows[index, :4], wanted, rtol=1e-6)


def person_rows(*found):
    """Rows from (x1, y1, x2, y2, score)."""
    rows = np.zeros((len(found), 85), np.float32)
    for row, (x1, y1, x2, y2, score) in zip(rows, found, strict=True):
        row[:5] = (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1, score
        row[5] = 1
    return rows


def test_people_come_best_first_in_pixels_of_the_picture():
    rows = person_rows((10, 20, 50, 60, 0.5), (200, 200, 300, 400, 0.8))
    boxes = decode.yolox_people(rows, 0.5)
    np.testing.assert_allclose(boxes, [[400, 400, 600, 800], [20, 40, 100, 120]])


def test_a_person_needs_a_score_above_the_last_limit_in_double_precision():
    rows = person_rows((0, 0, 9, 9, 0.3), (50, 50, 99, 99, np.nextafter(0.3, 0) - 1e-6))
    # float32's 0.3 is a little above 0.3, as the release compares it.
    np.testing.assert_allclose(decode.yolox_people(rows, 1.0), [[0, 0, 9, 9]])
    assert decode.yolox_people(rows[1:], 1.0).shape == (0, 4)
    rows[0, 5:7] = 0.2, 0.9
    assert decode.yolox_people(rows, 1.0).shape == (0, 4)


def test_overlaps_count_both_end_pixels():
    def both_kept(shift):
        return len(
            decode.yolox_people(
                person_rows((0, 0, 9, 9, 0.9), (shift, 0, 9 + shift, 9, 0.8)), 1.0
            )
        )

    # Squares of 10x10 pixels by their ends: 60 shared of 140, 65 of 135.
    assert both_kept(4) == 2
    # 0.48 is past the limit of 0.45; lengths alone, 5.5 * 9 of 112.5, would be 0.44.
    assert both_kept(3.5) == 1


# --- DWPose --------------------------------------------------------------------------


def test_nobody_is_the_whole_frame():
    np.testing.assert_array_equal(
        decode.people_or_frame(np.zeros((0, 4)), 30, 40), [[0, 0, 40, 30]]
    )
    one = np.array([[1.0, 2, 3, 4]])
    np.testing.assert_array_equal(decode.people_or_frame(one, 30, 40), one)


def test_a_padded_box_is_widened_to_the_input():
    tall = decode.simcc_box(np.array([10, 20, 30, 100.0]), 96, 72)
    np.testing.assert_allclose(tall.centre, [20, 60])
    np.testing.assert_allclose(tall.size, [75, 100])
    wide = decode.simcc_box(np.array([10, 20, 70, 30.0]), 96, 72)
    np.testing.assert_allclose(wide.size, [75, 100])


def test_a_crop_shows_the_box():
    picture = np.random.RandomState(2).randint(0, 256, (200, 200, 3), np.uint8)
    box = decode.Box(np.array([76.0, 98.0]), np.array([72.0, 96.0]))
    crop = decode.simcc_crop(picture, box, 96, 72)
    np.testing.assert_array_equal(crop, picture[50:146, 40:112])
    made = decode.simcc_input(crop)
    wanted = (crop[3, 5] - [123.675, 116.28, 103.53]) / [58.395, 57.12, 57.375]
    assert made.dtype == np.float32
    np.testing.assert_allclose(made[:, 3, 5], wanted, rtol=1e-6)


def test_profiles_give_half_pixels_the_lower_score_and_the_first_of_equals():
    x, y = np.zeros((3, 144), np.float32), np.zeros((3, 192), np.float32)
    x[0, 37], y[0, 100] = 0.9, 0.6
    x[1, [20, 30]], y[1, [8, 9]] = 0.5, 0.7
    x[2] = -0.1
    box = decode.Box(np.array([100.0, 200.0]), np.array([72.0, 96.0]))
    points, scores = decode.simcc_points(x, y, box)
    corner = np.array([64, 152])
    np.testing.assert_allclose(points - corner, [[18.5, 50], [10, 4], [-0.5, -0.5]])
    np.testing.assert_allclose(scores, [0.6, 0.5, -0.1], rtol=1e-6)


def test_the_neck_is_put_in_and_the_body_reordered():
    keypoints = np.arange(133)[:, None] * np.array([1.0, 10, 0]) + [0, 0, 0.9]
    made = decode.with_neck(keypoints)
    wanted = [0, 5.5, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3]
    np.testing.assert_array_equal(made[:18, 0], wanted)
    np.testing.assert_array_equal(made[18:], keypoints[17:])
    assert made[1, 2] == 1
    keypoints[5, 2] = 0.3
    assert decode.with_neck(keypoints)[1, 2] == 0
