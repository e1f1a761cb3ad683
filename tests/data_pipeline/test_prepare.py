"""Footage to rows: cuts, screening, resuming, what is said of bad files."""

import dataclasses
import json
import os
import signal

import cv2
import numpy as np
import pytest

from data_pipeline import builder
from data_pipeline.importers import layouts
from data_pipeline.importers.footage import Item
from data_pipeline.prepare import (
    examine,
    poses,
    run,
    screening,
    store,
    survey,
    text,
    workers,
)  # fmt: skip
from data_pipeline.prepare.examine import Found
from data_pipeline.prepare.screening import Measures, ScreenConfig, reason
from data_pipeline.prepare.settings import PrepareConfig
from onetoall_jax import media
from onetoall_jax.errors import UserError
from onetoall_jax.pose import detect, files
from onetoall_jax.pose.files import Track

SIZE = (64, 48)


def scene(seed: int, count: int) -> np.ndarray:
    """A textured scene that moves a pixel a frame, [F,64,48,3]."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (12, 12, 3)).astype(np.uint8)
    wide = cv2.resize(coarse, (96, 96), interpolation=cv2.INTER_NEAREST)
    return np.stack([wide[:64, i : i + 48] for i in range(count)])


def person(count: int, height: int = 64) -> np.ndarray:
    """Key points of somebody as tall as most of the frame, [F,133,3]."""
    points = np.random.default_rng(0).uniform(0.1, 0.9, (count, 133, 3))
    points[..., 0] *= 48
    points[..., 1] *= height
    points[..., 2] = 0.9
    return points.astype(np.float32)


def footage(folder, name: str, frames: np.ndarray, points: np.ndarray | None = None):
    folder.mkdir(exist_ok=True)
    media.write_video(folder / f"{name}.mp4", frames, 8.0)
    points = person(len(frames)) if points is None else points
    files.write(folder / f"{name}.npz", Track(points, *SIZE, 8.0))


def surveyed(frames, times=None):
    made = survey.Surveyor()
    for i, picture in enumerate(frames):
        made.add(None if times is None else times[i], picture)
    return made.finish()


def prepare(source, out, config):
    return run.prepare(layouts.read("folder", source), out, config, run.local(0))


def screen(**more) -> ScreenConfig:
    return ScreenConfig(**{"longest": 12, "shortest": 5, "sharpness": 0.0, **more})


def test_a_cut_is_found_and_motion_is_not_one():
    frames = np.concatenate([scene(1, 10), scene(2, 14)])
    seen = surveyed(frames)
    assert (seen.height, seen.width, seen.num_frames) == (64, 48, 24)
    assert survey.shots(seen.change, 0.2) == [(0, 10), (10, 24)]


def test_a_flash_free_pan_is_one_shot():
    change = np.r_[0.0, np.full(20, 0.5)]
    assert survey.shots(change, 0.35) == [(0, 21)]


@pytest.mark.parametrize(
    ("length", "expected"),
    [(4, []), (5, [(3, 8)]), (12, [(3, 15)]), (13, [(3, 9), (9, 16)])],
)
def test_long_shots_are_cut_into_even_parts(length, expected):
    assert survey.pieces(3, 3 + length, longest=12, shortest=5) == expected


def test_a_pause_is_a_cut():
    times = np.r_[np.arange(5) / 8, 3 + np.arange(4) / 8]
    assert survey.shots(np.zeros(9), 0.35, times) == [(0, 5), (5, 9)]


def test_marks_survive_scaling_and_tell_scenes_apart():
    a, b = scene(1, 3), scene(2, 3)
    marks = [survey.mark(surveyed(x).marks) for x in (a, a[:, ::2, ::2], b)]
    assert survey.alike(marks[0], np.stack(marks), 4, 8).tolist() == [True, True, False]


def test_people_in_one_stance_before_white_are_told_apart_by_colour():
    white = np.full((3, 64, 48, 3), 250, np.uint8)
    red, blue = white.copy(), white.copy()
    red[:, 16:60, 16:32], blue[:, 16:60, 16:32] = (200, 20, 20), (20, 20, 200)
    one, other = (survey.mark(surveyed(x).marks) for x in (red, blue))
    assert survey.alike(one, other[None], 64, 255)
    assert not survey.alike(one, other[None], 64, 8)


def test_uneven_frames_are_repeated_or_left_out_to_keep_time():
    even = np.arange(6) / 8
    assert survey.steady(even, 8.0).tolist() == list(range(6))
    assert survey.steady(np.full(6, np.nan), 8.0).tolist() == list(range(6))
    # Ticks at 0, 1/8 .. 1: the second frame stays for three of them, and of two frames
    # within one tick the later is seen.
    uneven = np.array([0, 1, 4, 5, 5.4, 6, 8]) / 8
    assert survey.steady(uneven, 8.0).tolist() == [0, 1, 1, 1, 2, 3, 5, 5, 6]
    assert survey.rate(uneven, 8.0) == pytest.approx(6)
    assert survey.rate(even + 2, 8.04) == 8.04


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, None),
        ({"seen": 0.0}, "no person"),
        ({"seen": 0.5}, "person often out of sight"),
        ({"person_height": 0.1}, "person too small"),
        ({"sharpness": 3.0}, "blurred"),
        ({"alone": 0.5}, "several people"),
        ({"text": 0.6}, "covered with text"),
    ],
)
def test_reasons(change, expected):
    whole = dict(seen=1.0, head=1.0, hands=1.0, alone=None, text=None,
                 person_height=0.8, sharpness=50.0)  # fmt: skip
    found = Measures(**{**whole, **change})
    seen = surveyed(scene(0, 2))
    assert reason(ScreenConfig(), seen, found) == expected


def test_people_and_text_are_measured_by_hand():
    seen, points = surveyed(scene(0, 4)), person(4)
    points[..., 1] = np.linspace(16, 48, 133)
    boxes = [[[0, 0, 24, 32]], [[0, 0, 24, 32], [24, 0, 48, 32]], [], []]
    people = np.array([0, 1, 2, 1])
    found = screening.measure(seen, points, people, boxes, 0, 4)
    assert (found.seen, found.alone, found.text) == (0.75, 0.75, 0.1875)
    tall = 16 * 32 / 132  # body points 0 to 16 of 133 between rows 16 and 48
    assert found.person_height == pytest.approx(tall / 64, rel=1e-5)
    unknown = screening.measure(seen, points, np.full(4, -1), None, 0, 4)
    assert (unknown.seen, unknown.alone, unknown.text) == (1, None, None)


def test_neighbours_in_a_shot_are_not_duplicates_but_copies_are():
    measured = Measures(1, 1, 1, None, 1, 1, None)

    def clip(source, first, shape):
        mark = np.zeros((3, 56), np.uint8)
        mark[:, 0] = shape
        return Found(source, first, first + 9, None, measured, mark)

    found = [clip("a", 0, 1), clip("a", 9, 1), clip("b", 0, 3), clip("c", 0, 255)]
    config = ScreenConfig(duplicate_bits=2)
    made = run.without_duplicates(found, config, set())
    assert [m.reason for m in made] == [
        None, None, "duplicate of a, frame 0", None,
    ]  # fmt: skip
    assert run.without_duplicates(found, config, {"b"}) == found


def test_groups_stay_in_one_split_and_told_splits_are_kept():
    members = [("a", None), ("a", None), ("b", None), ("c", "test"), ("d", None)]
    assert run.split(members, 2) == {"train": [0, 1, 4], "test": [2, 3]}
    assert run.split(members, 0) == {"train": [0, 1, 2, 4], "test": [3]}
    with pytest.raises(UserError, match="3 files or people cannot give every 4th"):
        run.split(members, 4)


def test_words_of_a_map_become_boxes():
    """A word of 4x10 pixels grows by 40 * 1.5 / 28 on each side; specks are none."""
    score = np.zeros((32, 64), np.float32)
    score[10:14, 20:30] = 0.9
    score[1:3, 1:3] = 0.9  # too small
    score[20:24, 20:30] = 0.4  # unsure
    more = 40 * 1.5 / 28
    expected = np.array([20 - more, 10 - more, 30 + more, 14 + more]) * 2
    np.testing.assert_allclose(text.boxes(score, 64, 128), [expected])
    score[0:4, 0:10] = 1.0
    assert text.boxes(score, 64, 128)[0][:2] == [0.0, 0.0]


class Words:
    """A text network that sees a word in the upper left quarter."""

    def get_inputs(self):
        return [type("Input", (), {"name": "x"})]

    def run(self, names, inputs):
        (sample,) = inputs.values()
        assert sample.dtype == np.float32 and sample.shape[1:] == (3, 64, 64)
        answer = np.zeros((1, 1, *sample.shape[2:]), np.float32)
        answer[..., 8:24, 4:12] = 1.0
        return [answer]


def test_text_is_searched_in_some_frames_and_spread_to_all(tmp_path, monkeypatch):
    (word,) = text.TextDetector(Words())(scene(0, 1)[0])
    more = 8 * 16 * 1.5 / 48
    across = np.array([4 - more, 12 + more]) * 48 / 64
    np.testing.assert_allclose(
        word, [max(0, across[0]), 8 - more, across[1], 24 + more]
    )
    found = {0: [[1, 1, 2, 2]], 4: [[3, 3, 4, 4]]}
    spread = text.spread(found, 6)
    assert spread[0] == found[0] and spread[4] == spread[5] == found[4]
    assert spread[1] == spread[3] == found[0] + found[4]
    footage(tmp_path / "footage", "a", scene(1, 10))
    monkeypatch.setattr(examine, "_text_detector", lambda p: text.TextDetector(Words()))
    words = tmp_path / "words.onnx"
    words.touch()
    config = PrepareConfig(
        screen=screen(), text_detector=str(words), text_every=4, short_side=24
    )
    prepare(tmp_path / "footage", tmp_path / "out", config)
    row = builder.Rows(tmp_path / "out", "train").read(0, [0, 5])
    np.testing.assert_allclose(row.text_boxes[0], [np.array(word) / 2], rtol=1e-6)
    assert row.text_boxes[1] == row.text_boxes[0] * 2
    told = json.loads((tmp_path / "out" / "report" / "report.json").read_text())
    assert told["text_regions"] == "looked for in every 4th frame"


def test_folder_to_rows(tmp_path):
    """Two shots, a copy, a damaged file and a picture: rows, splits and the report."""
    source, out = tmp_path / "footage", tmp_path / "out"
    footage(source, "a", np.concatenate([scene(1, 10), scene(2, 14)]))
    footage(source, "copy", scene(1, 10))
    (source / "broken.mp4").write_bytes(b"not a video")
    media.write_image(source / "still.png", scene(3, 1)[0])
    files.write(source / "still.npz", Track(person(1), *SIZE, 1.0))
    config = PrepareConfig(
        short_side=24,
        test_every=2,
        lossless=True,
        screen=screen(shot_change=0.2),
    )
    made = prepare(source, out, config).found
    kept = [(m.source, m.first, m.end) for m in made if m.reason is None]
    assert kept == [("a.mp4", 0, 10), ("a.mp4", 10, 17), ("a.mp4", 17, 24),
                    ("still.png", 0, 1)]  # fmt: skip
    train, test = (builder.Rows(out, split) for split in ("train", "test"))
    assert train.sizes.num_frames.tolist() == [10, 7, 7]
    assert test.sizes.num_frames.tolist() == [1]
    row = train.read(2, list(range(7)))
    assert row.frames.shape == (7, 32, 24, 3)
    half = person(24)[17:24] * (0.5, 0.5, 1)
    np.testing.assert_allclose(row.keypoints, half, rtol=1e-6)
    told = json.loads((out / "report" / "report.json").read_text())
    assert told["kept"] == 4
    assert told["left_out"] == {"unreadable": 1, "duplicate": 1}
    page = (out / "report" / "report.html").read_text()
    assert page.count("<img") == 5 and "duplicate of a.mp4, frame 0" in page
    assert not out.with_name("out.work").exists()
    with pytest.raises(UserError, match="already holds a data set"):
        prepare(source, out, config)


def test_files_looked_at_are_not_looked_at_again(tmp_path, monkeypatch):
    source, work = tmp_path / "footage", tmp_path / "work"
    footage(source, "a", scene(1, 10))
    work.mkdir()
    (item,) = layouts.read("folder", source).items
    first = examine.examine(work, PrepareConfig(screen=screen()), item)
    assert first[0].reason is None
    monkeypatch.setattr(examine, "look", None)
    assert examine.examine(work, PrepareConfig(screen=screen()), item) == first
    strict = PrepareConfig(screen=screen(sharpness=1e9))
    assert examine.examine(work, strict, item)[0].reason == "blurred"
    os.utime(source / "a.npz", (1, 1))
    with pytest.raises(TypeError):  # other key points: it has to be looked at
        examine.examine(work, strict, item)


def test_key_points_of_another_length_are_refused(tmp_path):
    source, work = tmp_path / "footage", tmp_path / "work"
    footage(source, "a", scene(1, 10), person(7))
    work.mkdir()
    (item,) = layouts.read("folder", source).items
    (found,) = examine.examine(work, PrepareConfig(screen=screen()), item)
    assert found.reason == "a.mp4 has 10 frames but key points for 7."


def test_nothing_good_enough_says_why_and_writes_nothing(tmp_path):
    source, out = tmp_path / "footage", tmp_path / "out"
    footage(source, "a", scene(1, 10))
    config = PrepareConfig(screen=screen(sharpness=1e9))
    with pytest.raises(UserError, match="good enough to train on: 1 x blurred"):
        prepare(source, out, config)
    assert not out.exists()


def test_key_points_of_another_size_are_scaled_and_of_another_aspect_refused(tmp_path):
    path, points = tmp_path / "a.npz", person(2)
    files.write(path, Track(points, 32, 24, 8.0))
    item = Item("a.mp4", (tmp_path / "a.mp4",), keypoints=path)
    scaled = item.track(64, 48).keypoints
    np.testing.assert_allclose(scaled, points * (2, 2, 1), rtol=1e-6)
    with pytest.raises(UserError, match="for frames of 32x24, but a.mp4 has 48x64"):
        item.track(48, 64)


def test_a_place_moves_points_and_boxes_with_the_picture():
    """A frame of 60x40, cut to a square of 40 in its middle and halved."""
    place = store.inside(60, 40, 20, 20)
    assert place == store.Place(0, 10, 40, 40, (20, 20))
    frame = np.zeros((60, 40, 3), np.uint8)
    frame[30:32, 10:12] = 255
    small = place.picture(frame)
    assert np.argwhere(small[..., 0]).tolist() == [[10, 5]]
    points = np.array([[[11.0, 31.0, 0.7]]])
    np.testing.assert_allclose(place.points(points), [[[5.5, 10.5, 0.7]]], rtol=1e-6)
    boxes = [[10, 30, 12, 32], [0, 0, 40, 5], [0, 0, 10, 20]]
    assert place.boxes(boxes) == [[5, 10, 6, 11], [0, 0, 5, 5]]
    assert store.whole(60, 40, 20).size == (30, 20)
    assert store.whole(60, 40, 0).size == store.whole(60, 40, 99).size == (60, 40)


def die_at_two(number):
    if number == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return number * 10


def fail_at_one(number):
    if number == 1:
        raise UserError("one is too many")
    return number


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: ScreenConfig(shortest=2), "--shortest must be 3 or more"),
        (lambda: ScreenConfig(longest=8), "9 to 8 frames cannot be made"),
        (lambda: PrepareConfig(text_every=0), "--text_every=0 must be 1"),
        (lambda: PrepareConfig(text_detector="/none.onnx"), "no text detector /none"),
    ],
)
def test_settings_that_cannot_work_are_refused(make, sentence):
    with pytest.raises(UserError, match=sentence):
        make()


def test_a_process_that_dies_costs_the_piece_it_was_at():
    done = workers.results(die_at_two, range(5), 2, lambda number: -number)
    assert sorted(done) == [(0, 0), (1, 10), (2, -2), (3, 30), (4, 40)]
    with pytest.raises(UserError, match="one is too many"):
        list(workers.results(fail_at_one, range(5), 2, abs))


class Chain:
    """The released detectors, who see a crowd in every frame but the first."""

    def __init__(self):
        self.seen = 0

    def counted(self, frame):
        self.seen += 1
        points = person(1)[0]
        return points, 1 if self.seen == 1 else 3


def test_people_counted_by_the_released_detectors_are_screened(tmp_path, monkeypatch):
    footage(tmp_path / "footage", "a", scene(1, 10))
    (tmp_path / "footage" / "a.npz").unlink()
    for name in ("yolox_l.onnx", "dw-ll_ucoco_384.onnx"):
        (tmp_path / name).touch()
    monkeypatch.setattr(poses, "_released", lambda models: Chain())
    config = PrepareConfig(screen=screen(), models=str(tmp_path))
    with pytest.raises(UserError, match="train on: 1 x several people"):
        prepare(tmp_path / "footage", tmp_path / "out", config)
    crowd = dataclasses.replace(config, screen=screen(alone=0.1))
    (clip,) = prepare(tmp_path / "footage", tmp_path / "out", crowd).found
    assert clip.measures.alone == pytest.approx(0.1)
    told = json.loads((tmp_path / "out" / "report" / "report.json").read_text())
    assert told["key_points"] == "of 0 files given, of 1 from the detector dwpose"


def test_a_detector_is_asked_for_before_any_work(tmp_path):
    footage(tmp_path / "footage", "a", scene(1, 10))
    (tmp_path / "footage" / "a.npz").unlink()
    config = PrepareConfig(models=str(tmp_path), environment=str(tmp_path))
    with pytest.raises(UserError, match="detect --setup"):
        prepare(tmp_path / "footage", tmp_path / "out", config)
    wrong = dataclasses.replace(config, detector="openpose")
    with pytest.raises(UserError, match="no detector 'openpose'"):
        prepare(tmp_path / "footage", tmp_path / "out", wrong)
    assert not (tmp_path / "out.work").exists()


def test_frames_in_which_the_detector_lost_the_person_repeat_a_neighbour(
    tmp_path, monkeypatch
):
    """Of ten frames the fourth shows nobody: measured so, stored as the third."""
    points = person(10)
    points[3] = 0
    footage(tmp_path / "footage", "a", scene(1, 10))
    (tmp_path / "footage" / "a.npz").unlink()
    monkeypatch.setattr(detect, "offline", lambda environment: detected(points))
    config = PrepareConfig(screen=screen(), models=str(tmp_path), lossless=True)
    (clip,) = prepare(tmp_path / "footage", tmp_path / "out", config).found
    assert clip.measures.seen == pytest.approx(0.9)
    row = builder.Rows(tmp_path / "out", "train").read(0, range(10))
    np.testing.assert_array_equal(row.keypoints, points[[0, 1, 2, 2, *range(4, 10)]])


def detected(points):
    def detector(frames, *, still):
        assert len(list(frames)) == len(points) and not still
        return points

    return detector
