"""Footage to rows: cuts, screening, resuming, what is said of bad files."""

import json

import cv2
import numpy as np
import pytest

from data_pipeline import builder
from data_pipeline.prepare import run, survey
from data_pipeline.prepare.run import Found, PrepareConfig
from data_pipeline.prepare.screening import Measures, ScreenConfig, reason
from onetoall_jax import media
from onetoall_jax.errors import UserError
from onetoall_jax.pose import files
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


def screen(**more) -> ScreenConfig:
    return ScreenConfig(**{"longest": 12, "shortest": 5, "sharpness": 0.0, **more})


def test_a_cut_is_found_and_motion_is_not_one():
    frames = np.concatenate([scene(1, 10), scene(2, 14)])
    seen = survey.survey(frames)
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


def test_fingerprints_survive_scaling_and_tell_scenes_apart():
    a, b = scene(1, 3), scene(2, 3)
    marks = [survey.fingerprint(survey.survey(x).small) for x in (a, a[:, ::2, ::2], b)]
    assert survey.differing_bits(marks[0], marks[1]) <= 4
    assert survey.differing_bits(marks[0], marks[2]) > 12


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, None),
        ({"seen": 0.0}, "no person"),
        ({"seen": 0.5}, "person often out of sight"),
        ({"person_height": 0.1}, "person too small"),
        ({"sharpness": 3.0}, "blurred"),
    ],
)
def test_reasons(change, expected):
    whole = dict(seen=1.0, head=1.0, hands=1.0, person_height=0.8, sharpness=50.0)
    found = Measures(**{**whole, **change}, fingerprint=0)
    seen = survey.survey(scene(0, 2))
    assert reason(ScreenConfig(), seen, found) == expected


def test_neighbours_in_a_shot_are_not_duplicates_but_copies_are():
    def clip(source, first, mark):
        return Found(source, first, first + 9, None, Measures(1, 1, 1, 1, 1, mark))

    made = run.without_duplicates(
        [clip("a", 0, 0b1), clip("a", 9, 0b1), clip("b", 0, 0b11), clip("c", 0, 255)],
        bits=2,
    )
    assert [m.reason for m in made] == [
        None, None, "duplicate of a, frame 0", None,
    ]  # fmt: skip


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
    made = run.prepare(source, out, config, workers=1)
    kept = [(m.source, m.first, m.end) for m in made if m.reason is None]
    assert kept == [("a.mp4", 0, 10), ("a.mp4", 10, 17), ("a.mp4", 17, 24),
                    ("still.png", 0, 1)]  # fmt: skip
    train, test = (builder.Rows(out, split) for split in ("train", "test"))
    assert train.sizes.num_frames.tolist() == [10, 7]
    assert test.sizes.num_frames.tolist() == [7, 1]
    row = train.read(1, list(range(7)))
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
        run.prepare(source, out, config, workers=1)


def test_examined_files_are_not_examined_again(tmp_path, monkeypatch):
    source, work = tmp_path / "footage", tmp_path / "work"
    footage(source, "a", scene(1, 10))
    work.mkdir()
    config = PrepareConfig(screen=screen())
    first = run.examine(source, work, config, source / "a.mp4")
    monkeypatch.setattr(survey, "survey", None)
    assert run.examine(source, work, config, source / "a.mp4") == first


def test_key_points_of_another_length_are_refused(tmp_path):
    source, work = tmp_path / "footage", tmp_path / "work"
    footage(source, "a", scene(1, 10), person(7))
    work.mkdir()
    config = PrepareConfig(screen=screen())
    (found,) = run.examine(source, work, config, source / "a.mp4")
    assert found.reason == "a.mp4 has 10 frames but key points for 7."


def test_nothing_good_enough_says_why_and_writes_nothing(tmp_path):
    source, out = tmp_path / "footage", tmp_path / "out"
    footage(source, "a", scene(1, 10))
    config = PrepareConfig(screen=screen(sharpness=1e9))
    with pytest.raises(UserError, match="good enough to train on: 1 x blurred"):
        run.prepare(source, out, config, workers=1)
    assert not out.exists()
