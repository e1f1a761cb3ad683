"""The prepared pair as a folder: made, used again, edited, of others."""

import json
import shutil

import numpy as np
import pytest

from onetoall_jax import media
from onetoall_jax.errors import UserError
from onetoall_jax.geometry import Geometry
from onetoall_jax.pipelines import artefact
from onetoall_jax.pipelines.animate import animate
from onetoall_jax.pipelines.frames import Frames, forwards
from onetoall_jax.pipelines.preparing import PrepareConfig

GEOMETRY = Geometry(spatial=2, patch=(1, 1, 1))


def prepare(pair, model, folder, **config):
    said = []
    animate(
        pair / "me.png",
        pair / "dance.npz",
        reference_keypoints=pair / "me.npz",
        config=PrepareConfig(**({"num_frames": 5} | config)),
        model=model,
        prepared=folder,
        dry_run=True,
        say=said.append,
    )
    return said


@pytest.fixture
def folder(pair, model, tmp_path):
    prepare(pair, model, tmp_path / "made")
    return tmp_path / "made"


def test_a_dry_run_makes_the_folder_and_nothing_else(pair, model, folder):
    assert {p.name for p in folder.parent.iterdir()} == {"made"}
    made = artefact.read(folder)
    assert len(made.poses) == 5 and made.reference.shape == (48, 32, 3)
    assert (made.reference == media.read_image(pair / "me.png")).all()
    meta = json.loads((folder / "meta.json").read_text())
    assert meta["choices"]["alignment"]["mode"] == "auto"
    assert meta["choices"]["mode"] == "reference-retarget"
    assert meta["notes"] and meta["fps"] == 8
    assert media.read_image(folder / "contact_sheet.png").shape[1] > 500


def test_nothing_changed_is_used_again(pair, model, folder):
    date = (folder / "meta.json").stat().st_mtime_ns
    assert any("used as it is: unchanged" in n for n in prepare(pair, model, folder))
    assert (folder / "meta.json").stat().st_mtime_ns == date


def test_other_settings_make_it_anew(pair, model, folder):
    prepare(pair, model, folder, num_frames=3)
    assert len(artefact.read(folder).poses) == 3


def test_what_was_edited_is_kept_and_not_overwritten(pair, model, folder):
    pose = media.read_image(folder / "poses" / "000002.png")
    media.write_image(folder / "poses" / "000002.png", 255 - pose)
    said = prepare(pair, model, folder)
    assert any("edited by hand (poses)" in note for note in said)
    made = artefact.read(folder)
    np.testing.assert_array_equal(made.poses[2], 255 - pose)
    with pytest.raises(
        UserError, match=r"edited by hand \(poses\).*another num_frames"
    ):
        prepare(pair, model, folder, num_frames=3)
    assert (artefact.read(folder).poses[2] == 255 - pose).all()


def test_a_folder_made_by_hand_is_drawn(model, folder, tmp_path):
    for name in ("meta.json", "mask.png", "contact_sheet.png"):
        (folder / name).unlink()
    frames, report = animate(prepared=folder, model=model, out=tmp_path / "out")
    assert len(frames) == 5 and report["fps"] == 16
    assert report["prepared"] == str(folder)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: shutil.rmtree(f / "poses"), "no pictures of poses"),
        (lambda f: (f / "reference_pose.png").unlink(), "no picture"),
        (lambda f: (f / "meta.json").write_text("{"), "meta.json is not"),
        (lambda f: (f / "reference.png").unlink(), "is no prepared folder"),
        (
            lambda f: media.write_image(f / "mask.png", np.zeros((8, 8), np.uint8)),
            "all pictures must have one size",
        ),
    ],
)
def test_a_spoilt_folder_is_one_sentence(model, folder, spoil, message):
    spoil(folder)
    with pytest.raises(UserError, match=message):
        animate(prepared=folder, model=model)


def test_the_cache_folder_of_the_release_is_read(tmp_path):
    rng = np.random.default_rng(0)
    clip = np.repeat(rng.integers(0, 255, (7, 8, 6, 3), np.uint8), 16, axis=1)
    clip = np.repeat(clip, 16, axis=2)
    media.write_video(tmp_path / "pose.mp4", clip, 24)
    media.write_image(tmp_path / "image_input.png", clip[0])
    media.write_image(tmp_path / "pose_input.png", clip[1])
    mask = np.zeros((128, 96), np.uint8)
    mask[:64] = 255
    media.write_image(tmp_path / "mask_input.png", mask)
    made = artefact.given(tmp_path, GEOMETRY, 48, None)
    assert made.size == (64, 48) and made.fps == 24 and made.poses.shape[0] == 7
    np.testing.assert_allclose(made.mask.mean(axis=1)[[5, -5]], [1, 0])
    exact = clip[6, 8::16, 8::16].astype(int)
    assert np.abs(made.poses[6][4::8, 4::8] - exact).mean() < 25  # lossy, as released
    assert "cache folder of the release" in made.notes[0]


def test_a_folder_of_wan_animate_warns_of_its_style(tmp_path):
    media.write_video(tmp_path / "src_pose.mp4", np.zeros((3, 96, 64, 3), np.uint8), 30)
    media.write_image(tmp_path / "src_ref.png", np.full((96, 64, 3), 9, np.uint8))
    asked = []

    def shown(picture, size):
        asked.append(size)
        return np.full((*size, 3), 7, np.uint8), ["seen"]

    made = artefact.given(tmp_path, GEOMETRY, 32, shown)
    assert asked == [(48, 32)] and made.reference_pose[0, 0, 0] == 7
    assert made.notes[0].startswith("warning:") and "seen" in made.notes
    assert (made.reference == 9).all() and not made.mask.any()
    assert made.poses[:].shape == (3, 48, 32, 3)


def test_frames_behave_like_an_array():
    array = np.random.default_rng(0).integers(0, 255, (7, 4, 2, 3), np.uint8)
    started = []

    def source():
        started.append(1)
        return iter(array)

    frames = Frames(7, (4, 2), forwards(source))
    np.testing.assert_array_equal(frames[2:5], array[2:5])
    np.testing.assert_array_equal(frames[np.array([5, 5, 6])], array[[5, 5, 6]])
    assert len(started) == 1
    np.testing.assert_array_equal(frames[-7], array[0])
    assert len(started) == 2
    np.testing.assert_array_equal(np.asarray(frames), array)
    np.testing.assert_array_equal(frames.alone()[:, 1:3], array[None, 1:3])
    assert frames.alone().shape == (1, *array.shape) == (1, 7, 4, 2, 3)
