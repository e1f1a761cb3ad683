import numpy as np

from onetoall_jax.evaluation import frames


def test_psnr_of_a_known_error():
    truth = np.full((2, 3, 4, 4, 3), 100, np.uint8)
    off = truth.copy()
    off[0] += 5
    expected = 10 * np.log10(255**2 / 25)
    np.testing.assert_allclose(frames.psnr(off, truth)[0], expected)
    np.testing.assert_allclose(frames.psnr(off, truth)[1], 10 * np.log10(4 * 255**2))


def test_psnr_counts_only_the_marked_pixels():
    truth = np.zeros((1, 1, 2, 2, 3), np.uint8)
    off = truth.copy()
    off[0, 0, 0, 0] = 10
    inside = np.zeros((1, 1, 2, 2), bool)
    inside[0, 0, 0, :] = True
    expected = 10 * np.log10(255**2 / 50)
    np.testing.assert_allclose(frames.psnr(off, truth, inside)[0], expected)
    assert np.isnan(frames.psnr(off, truth, ~inside & inside)[0])


def test_figure_box_is_tight_plus_the_margin():
    pose = np.zeros((1, 2, 20, 20, 3), np.uint8)
    pose[0, 0, 5, 7] = pose[0, 0, 9, 8] = 200
    box = frames.figure_box(pose, margin=0.05)
    assert box[0, 0].sum() == 7 * 4 and box[0, 0, 4:11, 6:10].all()
    assert not box[0, 1].any()


def test_gain_is_the_paired_mean_with_its_standard_error():
    mean, error = frames.gain(np.array([3.0, 5.0, 4.0]), np.array([1.0, 2.0, np.nan]))
    assert mean == 2.5
    np.testing.assert_allclose(error, np.std([2, 3], ddof=1) / np.sqrt(2))
