"""Who is followed, what is kept, what is said."""

import numpy as np
import pytest

from onetoall_jax import media
from onetoall_jax.errors import UserError
from onetoall_jax.pose import choice, detect

FRAME = np.zeros((100, 200, 3), np.uint8)
LEFT, RIGHT, FAR = [10, 10, 50, 90], [120, 20, 150, 80], [80, 40, 90, 60]


class Scene:
    """A detector that knows where everybody is in each frame."""

    def __init__(self, frames, sees_all=True):
        self.frames, self.sees_all = frames, sees_all
        self.asked, self.at = [], -1

    def stream(self):
        for i in range(len(self.frames)):
            self.at = i
            yield FRAME

    def people(self, frame):
        return np.array(self.frames[self.at], np.float64).reshape(-1, 4)

    def points(self, frame, box):
        self.asked.append(box)
        seen = self.people(frame)
        if box is not None and len(seen):
            seen = seen[[choice.overlaps(box, seen).argmax()]]
        points = np.zeros((133, 3), np.float32)
        if len(seen):
            x0, y0, x1, y1 = seen[0]
            points[:17] = np.linspace((x0, y0, 1), (x1, y1, 1), 17)
        return points


def detected(scene, person="only"):
    return detect.detected(scene, scene.stream(), person, "a.mp4")


def test_two_people_and_no_choice_is_one_sentence():
    with pytest.raises(UserError, match=r"a.mp4 shows 2 people \(0 at 10,10,50,90; 1 "):
        detected(Scene([[], [RIGHT, LEFT]]))


def test_a_passer_by_is_no_rival():
    points, notes = detected(Scene([[LEFT, FAR]]))
    assert points[0, 0, 0] == LEFT[0]
    assert "2 people in frame 0; the one at 10,10,50,90 is followed" in notes[0]


@pytest.mark.parametrize(
    ("person", "box"),
    [("largest", LEFT), ("0", LEFT), ("2", RIGHT), ("118,15,160,90", RIGHT)],
)
def test_a_person_is_chosen(person, box):
    boxes = np.array([RIGHT, FAR, LEFT], np.float64)
    assert boxes[choice.choose(person, boxes, "a")].tolist() == box


@pytest.mark.parametrize("sees_all", [True, False])
def test_a_person_is_followed_through_a_crossing_of_order(sees_all):
    def shifted(box, by):
        return [box[0] + by, box[1], box[2] + by, box[3]]

    frames = [[RIGHT, shifted(LEFT, 3 * i)] for i in range(10)]
    scene = Scene([f if i % 2 else f[::-1] for i, f in enumerate(frames)], sees_all)
    points, _ = detected(scene, "0")
    np.testing.assert_allclose(points[:, 0, 0], 10 + 3 * np.arange(10))
    assert all(box is not None for box in scene.asked)


def test_one_person_alone_is_seen_in_the_whole_frame():
    scene = Scene([[LEFT]] * 3, sees_all=False)
    detected(scene)
    assert scene.asked == [None] * 3


def test_whoever_is_lost_is_not_exchanged():
    scene = Scene([[LEFT, FAR], [FAR], [LEFT, FAR]])
    points, _ = detected(scene)
    assert detect.people(points).tolist() == [True, False, True]


@pytest.mark.parametrize(
    ("person", "message"),
    [
        ("3", "shows 2 people, counted from 0"),
        ("60,0,70,10", "nobody in the box"),
        ("tall", "neither 'only'"),
        ("9,9,3,3", "empty box"),
    ],
)
def test_a_choice_that_means_nobody_is_refused(person, message):
    with pytest.raises(UserError, match=message):
        choice.check(person)
        choice.choose(person, np.array([LEFT, RIGHT], np.float64), "a")


def test_what_was_found_is_kept_by_contents(tmp_path, monkeypatch):
    frames = [[LEFT, FAR], [], [LEFT, FAR], [LEFT, FAR]]
    scenes = []

    def look(search, *, still):
        scene = Scene(frames)
        scenes.append(scene)

        def run(pictures, person, name):
            pictures = list(pictures)
            assert len(pictures) == 4 and not still
            return detect.detected(scene, scene.stream(), person, name)

        return run

    monkeypatch.setattr(detect, "_look", look)
    media.write_video(tmp_path / "a.mp4", np.stack([FRAME] * 4), 8.0)
    search = detect.Search(person="only", cache=tmp_path / "kept")
    first = detect.find(tmp_path / "a.mp4", search)
    (tmp_path / "a.mp4").rename(tmp_path / "b.mp4")
    again = detect.find(tmp_path / "b.mp4", search)
    assert len(scenes) == 1
    np.testing.assert_array_equal(first.track.keypoints, again.track.keypoints)
    np.testing.assert_array_equal(first.track.keypoints[1], first.track.keypoints[0])
    assert again.track.fps == 8 and (again.track.height, again.track.width) == (
        100,
        200,
    )
    assert again.notes[0] == first.notes[0]
    assert (
        "1 of 4 frames had no person and repeat a neighbour's pose (frames 1)"
        in (again.notes[1])
    )
    detect.find(tmp_path / "b.mp4", search._replace(person="0"))
    assert len(scenes) == 2


def test_frames_are_named_in_ranges():
    assert detect._ranges(np.array([3, 4, 5, 9])) == "frames 3-5, 9"
