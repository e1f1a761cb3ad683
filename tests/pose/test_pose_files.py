import json
import os
import pickle

import numpy as np
import pytest

from onetoall_jax.errors import UserError
from onetoall_jax.pose import decode, files
from onetoall_jax.pose.keypoints import (
    BODY,
    COUNT,
    FACE,
    FEET,
    LEFT_HAND,
    RIGHT_HAND,
    to_pose,
)

HEIGHT, WIDTH, FPS = 320, 180, 25.0


def keypoints(seed, low=0.2):
    r = np.random.RandomState(seed)
    return r.uniform([0, 0, low], [WIDTH, HEIGHT, 1], (COUNT, 3))


def test_what_is_written_is_read(tmp_path):
    track = files.Track(np.stack([keypoints(0), keypoints(1)]), HEIGHT, WIDTH, FPS)
    files.write(tmp_path / "a.npz", track)
    found = files.read(tmp_path / "a.npz")
    np.testing.assert_allclose(found.keypoints, track.keypoints, rtol=1e-6)
    assert found[1:] == track[1:]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [(None, "no key point file"), (b"text", "is no key point file")],
)
def test_another_file_is_no_key_point_file(tmp_path, content, sentence):
    path = tmp_path / "a.npz"
    if content:
        path.write_bytes(content)
    with pytest.raises(UserError, match=sentence):
        files.read(path)


# --- OpenPose ------------------------------------------------------------------------

# Places of the drawn 18 in COCO-WholeBody, by name: nose, (neck), right arm, left arm,
# right leg, left leg, right and left eye, right and left ear.
COCO_18 = (0, None, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3)


def person(body=18, **parts):
    """An entry of `people` whose points are numbered: x = 1000 part + place, y = 7."""

    def numbered(part, count):
        return [v for i in range(count) for v in (1000 * part + i, 7.0, 0.5)]

    made = {
        "pose_keypoints_2d": numbered(1, body),
        "face_keypoints_2d": numbered(2, 70),
        "hand_left_keypoints_2d": numbered(3, 21),
        "hand_right_keypoints_2d": numbered(4, 21),
    }
    return made | parts


def write_frames(folder, *frames, clip="dance", first=0):
    for i, people in enumerate(frames):
        path = folder / f"{clip}_{first + i:012d}_keypoints.json"
        path.write_text(json.dumps({"version": 1.3, "people": people}))


def read_openpose(folder, **more):
    return files.read_openpose(folder, HEIGHT, WIDTH, FPS, **more)


def test_18_points_go_to_their_names(tmp_path):
    write_frames(tmp_path, [person()])
    (found,) = read_openpose(tmp_path).keypoints
    for place, coco in enumerate(COCO_18):
        if coco is not None:
            np.testing.assert_array_equal(found[coco], [1000 + place, 7, 0.5])
    np.testing.assert_array_equal(found[FACE, 0], 2000 + np.arange(68))
    np.testing.assert_array_equal(found[LEFT_HAND, 0], 3000 + np.arange(21))
    np.testing.assert_array_equal(found[RIGHT_HAND, 0], 4000 + np.arange(21))
    assert (found[FEET] == 0).all()


def test_25_points_are_the_18_around_the_middle_hip_and_the_feet(tmp_path):
    write_frames(tmp_path, [person(body=25)])
    (found,) = read_openpose(tmp_path).keypoints
    for place, coco in enumerate(COCO_18):
        if coco is not None:
            assert found[coco, 0] == 1000 + place + (place >= 8)
    np.testing.assert_array_equal(found[FEET, 0], 1019 + np.arange(6))


def test_missing_points_parts_and_people_have_score_zero(tmp_path):
    missing = [0.0, 0.0, 0.0]
    body = person()["pose_keypoints_2d"]
    body[6:9], body[9:12] = missing, [0.0, 0.0, 0.8]
    parts = {"pose_keypoints_2d": body, "hand_left_keypoints_2d": []}
    write_frames(tmp_path, [person(**parts)], [])
    track = read_openpose(tmp_path)
    assert track.keypoints.shape == (2, COUNT, 3)
    assert track[1:] == (HEIGHT, WIDTH, FPS)
    first, second = track.keypoints
    assert (first[[6, 8], 2] == 0).all()
    assert (first[LEFT_HAND, 2] == 0).all() and (first[RIGHT_HAND, 2] > 0).all()
    assert (second == 0).all()


def test_the_person_with_the_surest_body_is_taken(tmp_path):
    weak = person(pose_keypoints_2d=[5.0, 5.0, 0.2] * 18)
    write_frames(tmp_path, [weak, person()], [person(), weak])
    found = read_openpose(tmp_path).keypoints
    np.testing.assert_array_equal(found[:, 0, 0], [1000, 1000])


def test_scores_past_one_count_as_one(tmp_path):
    write_frames(tmp_path, [person(hand_right_keypoints_2d=[5.0, 5.0, 1.04] * 21)])
    assert (read_openpose(tmp_path).keypoints[0, RIGHT_HAND, 2] == 1).all()


def test_one_of_several_clips_is_named(tmp_path):
    write_frames(tmp_path, [person()], [person()], clip="a")
    write_frames(tmp_path, [person(body=25)], clip="b_1", first=30)
    with pytest.raises(UserError, match=r"several clips, \['a', 'b_1'\]"):
        read_openpose(tmp_path)
    assert len(read_openpose(tmp_path, clip="a").keypoints) == 2
    assert len(read_openpose(tmp_path, clip="b_1").keypoints) == 1
    with pytest.raises(UserError, match="holds no files c_"):
        read_openpose(tmp_path, clip="c")


def test_a_lost_frame_is_told(tmp_path):
    write_frames(tmp_path, [person()], [person()], [person()], [person()])
    (tmp_path / f"dance_{2:012d}_keypoints.json").unlink()
    with pytest.raises(UserError, match="lacks 1 frames of dance, the first of them 2"):
        read_openpose(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "{}", '{"people": 3}', '{"people": [[]]}', "\xff",
        '{"people": [{"pose_keypoints_2d": [1, 2, 3]}]}',
        '{"people": [{"face_keypoints_2d": "long"}]}',
        '{"people": [{"face_keypoints_2d": {"0": 1}}]}',
        json.dumps({"people": [{"pose_keypoints_2d": [float("nan")] * 54}]}),
    ],
)  # fmt: skip
def test_other_json_is_refused_in_a_sentence(tmp_path, text):
    path = tmp_path / f"a_{0:012d}_keypoints.json"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(UserError, match=f"{path.name} is no OpenPose file"):
        read_openpose(tmp_path)


# --- The release's .npy --------------------------------------------------------------


def as_released(points):
    """The release's dictionary of a frame, from its own order of 134 points."""
    whole = decode.with_neck(points)
    body = whole[:18].copy()
    hidden = whole[:, 2] < 0.3
    whole[:, :2] /= WIDTH, HEIGHT
    body[:, :2] /= WIDTH, HEIGHT
    whole[hidden, :2] = -1
    hands = np.stack([whole[92:113], whole[113:]])
    return {
        "bodies": {
            "candidate": body[:, :2],
            "subset": np.where(body[:, 2] > 0.3, np.arange(18), -1.0)[None],
            "score": body[None, :, 2],
        },
        "faces": whole[None, 24:92, :2],
        "faces_score": whole[None, 24:92, 2],
        "hands": hands[..., :2],
        "hands_score": hands[..., 2],
    }


def save(path, entries):
    array = np.empty(len(entries), object)
    array[:] = entries
    np.save(path, array, allow_pickle=True)
    return path


def test_a_clip_of_the_release_is_drawn_as_its_key_points(tmp_path):
    people = [keypoints(i) for i in range(3)]
    path = save(tmp_path / "a.npy", [as_released(p) for p in people])
    track = files.read_release(path, HEIGHT, WIDTH, FPS)
    assert track[1:] == (HEIGHT, WIDTH, FPS)
    for points, read in zip(people, track.keypoints, strict=True):
        wanted, found = (to_pose(p, HEIGHT, WIDTH) for p in (points, read))
        for a, b in zip(wanted, found, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-12)
        assert (read[FEET, 2] == 0).all()


def test_raw_points_are_those_of_the_first_person(tmp_path):
    people = [keypoints(4), keypoints(5)]
    whole = np.stack([decode.with_neck(p) for p in people])
    entry = {"candidate": whole[..., :2], "score": whole[..., 2]}
    track = files.read_release(save(tmp_path / "a_raw.npy", [entry]), HEIGHT, WIDTH)
    np.testing.assert_array_equal(track.keypoints, people[0][None])


def test_files_of_older_numpy_and_single_numbers_are_read(tmp_path):
    points = keypoints(6)
    entry = as_released(points) | {"frame": np.float64(1.5)}
    array = np.empty(1, object)
    array[0] = entry
    data = pickle.dumps(array, protocol=3)
    assert b"cnumpy._core.multiarray\n" in data
    old = data.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")
    path = save(tmp_path / "a.npy", [entry])
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"\n") + 1] + old)
    track = files.read_release(path, HEIGHT, WIDTH)
    np.testing.assert_allclose(track.keypoints[0, BODY], points[BODY], atol=1e-9)


class Command:
    def __init__(self, function, *words):
        self.call = function, words

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    ("function", "name"),
    [(os.system, "system"), (eval, "eval"), (getattr, "getattr"), (np.fromfile, "")],
    ids=str,
)
def test_a_pickle_of_anything_else_is_refused_and_not_run(tmp_path, function, name):
    made = tmp_path / "made"
    bad = Command(function, f"touch {made}")
    path = save(tmp_path / "a.npy", [as_released(keypoints(0)) | {"more": bad}])
    with pytest.raises(UserError, match=rf"asks for \S*{name} when it is read"):
        files.read_release(path, HEIGHT, WIDTH)
    assert not made.exists()


def test_a_file_with_false_bytes_is_read_or_refused(tmp_path):
    # numpy's own classes end the process on some of these.
    data = save(tmp_path / "a.npy", [as_released(keypoints(0))]).read_bytes()
    r, path = np.random.RandomState(0), tmp_path / "false.npy"
    refused = 0
    for _ in range(60):
        false = np.frombuffer(data, np.uint8).copy()
        false[r.randint(0, 900, 3)] = r.randint(0, 256, 3)
        path.write_bytes(false.tobytes())
        try:
            assert files.read_release(path, 9, 9).keypoints.shape == (1, COUNT, 3)
        except UserError:
            refused += 1
    assert refused > 10


def test_every_cut_of_a_file_is_told_in_a_sentence(tmp_path):
    data = save(tmp_path / "a.npy", [as_released(keypoints(0))]).read_bytes()
    path = tmp_path / "cut.npy"
    for length in (*range(0, 600, 7), len(data) // 2, len(data) - 1):
        path.write_bytes(data[:length])
        with pytest.raises(UserError, match="is no array of dictionaries"):
            files.read_release(path, HEIGHT, WIDTH)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((3, 4)), np.array([], object), np.array([None, 3], object),
        np.array(["text"], object), np.array([{"bodies": {}}], object),
        np.array([{"candidate": np.zeros((0, 134, 2)), "score": np.zeros((0, 134))}]),
        np.array([{"candidate": np.zeros((1, 133, 2)), "score": np.zeros((1, 133))}]),
    ],
)  # fmt: skip
def test_arrays_of_other_things_are_refused(tmp_path, array):
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    with pytest.raises(UserError, match=r"a\.npy is no .*pose file of the release"):
        files.read_release(tmp_path / "a.npy", HEIGHT, WIDTH)


def test_no_file_is_told(tmp_path):
    with pytest.raises(UserError, match="There is no pose file"):
        files.read_release(tmp_path / "none.npy", HEIGHT, WIDTH)
