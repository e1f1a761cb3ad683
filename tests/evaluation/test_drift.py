"""Measures of drift against numbers worked out by hand."""

import numpy as np
import pytest

from onetoall_jax.evaluation import drift, plot


def checkered(low, high, count=3):
    """[F,8,8,3], a board of two levels of grey, one pixel each."""
    board = np.indices((8, 8)).sum(axis=0) % 2
    frame = np.where(board[..., None], high, low)
    return np.broadcast_to(frame, (count, 8, 8, 3)).astype(np.uint8)


def test_a_board_has_known_measures():
    made = drift.measure(checkered(50, 150))
    assert made["mean"] == [100] * 3 and made["contrast"] == [50] * 3
    assert made["saturation"] == 0
    # Four neighbours of the other level: 4 * 100, squared.
    assert made["sharpness"] == pytest.approx(160_000)


def test_segments_are_compared_with_the_first():
    first = checkered(50, 150)
    red = checkered(60, 160)
    red[..., 0] += 30
    flat = checkered(100, 100)
    measures = [drift.measure(x) for x in (first, red, flat)]
    same, warmer, dull = drift.against_first(measures)
    assert same == {
        "brightness": 0, "colour": 0, "contrast": 1, "saturation": 0, "sharpness": 1,
    }  # fmt: skip
    assert warmer["brightness"] == pytest.approx(20) and warmer["colour"] == 20
    assert warmer["contrast"] == 1 and warmer["saturation"] == 30
    assert dull["contrast"] == 0 and dull["sharpness"] == 0


def test_pictures_of_one_colour_have_nothing_to_divide_by():
    made = drift.measure(checkered(9, 9))
    assert drift.against_first([made])[0]["contrast"] == 0


def test_a_plot_shows_each_curve_in_its_colour():
    made = plot.lines("rise", {"up": [0, 1, 2], "down": [2, 1, 0]}, size=(150, 520))
    assert made.shape == (150, 520, 3)
    blue = (made == (0x1F, 0x77, 0xB4)).all(axis=-1)
    rows = [np.argwhere(blue[:, x]).mean() for x in (60, 240, 415)]
    assert rows == sorted(rows, reverse=True)  # up is towards row 0
    one = plot.lines("one", {"flat": [3.0]})
    assert (one < 255).any()
