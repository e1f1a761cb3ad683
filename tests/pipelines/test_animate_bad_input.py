"""What people get wrong with one call: one sentence, and nothing that looks whole."""

import subprocess

import av
import numpy as np
import pytest

from onetoall_jax import media
from onetoall_jax.errors import UserError
from onetoall_jax.pipelines import animator
from onetoall_jax.pipelines.animate import animate
from onetoall_jax.pipelines.preparing import PrepareConfig

RESULTS = ("result.mp4", "side_by_side.mp4", "contact_sheet.png", "drift.png")


def call(pair, model, out, **more):
    given = {
        "reference": pair / "me.png",
        "driving": pair / "dance.npz",
        "reference_keypoints": pair / "me.npz",
        "config": PrepareConfig(num_frames=20),
        "model": model,
        "out": out,
        "output_type": "none",
    }
    return animate(**(given | more))


def refused(pair, model, folder, sentence, **more):
    before = set(folder.iterdir())
    with pytest.raises(UserError, match=sentence):
        call(pair, model, folder / "out", **more)
    assert set(folder.iterdir()) == before


def test_an_empty_video(pair, model, tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"")
    refused(pair, model, tmp_path, "not a video", driving=tmp_path / "a.mp4")


def test_a_file_with_sound_only(pair, model, tmp_path):
    with av.open(str(tmp_path / "a.mp4"), "w") as out:
        sound = out.add_stream("aac", rate=44100)
        wave = np.zeros((1, 1024), np.float32)
        part = av.AudioFrame.from_ndarray(wave, format="fltp", layout="mono")
        part.sample_rate = 44100
        for packet in (*sound.encode(part), *sound.encode()):
            out.mux(packet)
    refused(pair, model, tmp_path, "no pictures, only sound",
            driving=tmp_path / "a.mp4")  # fmt: skip


def test_a_video_of_one_frame_is_a_picture(pair, model, tmp_path):
    media.write_video(tmp_path / "a.mp4", np.zeros((1, 48, 32, 3), np.uint8), 8)
    _, report = call(pair, model, tmp_path / "out", driving=tmp_path / "a.mp4",
                     driving_keypoints=pair / "me.npz")  # fmt: skip
    assert report["frames"] == 1
    assert media.read_image(tmp_path / "out" / "result.png").shape == (384, 256, 3)


def test_a_folder_that_cannot_be_written(pair, model, tmp_path):
    with pytest.raises(UserError, match="/proc/out cannot be written"):
        call(pair, model, "/proc/out")


def test_neither_pair_nor_folder(model, tmp_path):
    with pytest.raises(UserError, match="both a reference and a driving clip"):
        animate(model=model, out=tmp_path / "out")
    with pytest.raises(UserError, match="both height and width"):
        PrepareConfig(height=48)


def test_a_full_disk_keeps_what_is_finished(pair, model, tmp_path):
    small = tmp_path / "small"
    small.mkdir()

    def mount(options):
        words = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(small)]
        return subprocess.run(words, capture_output=True, check=False).returncode

    if mount("size=170k"):
        pytest.skip("no right to make a small file system")
    try:
        with pytest.raises(UserError, match="No space left") as told:
            call(pair, model, small / "out")
        assert "goes on" in str(told.value) and not (small / "out").exists()
        assert not mount("remount,size=8m")
        said = []
        call(pair, model, small / "out", say=said.append)
        assert any("are there already" in note for note in said)
        call(pair, model, tmp_path / "whole")
        for name in RESULTS:
            whole = (tmp_path / "whole" / name).read_bytes()
            assert (small / "out" / name).read_bytes() == whole
        assert [p.name for p in small.iterdir()] == ["out"]
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)


def test_a_codec_in_a_type_that_it_does_not_compute_in():
    with pytest.raises(UserError, match="choose 'bfloat16' or 'float32'"):
        animator.setup(animator.SHIPPED, {"codec_dtype": "float8"})


@pytest.mark.parametrize("late", [{"devices": 0}, {"codec_dtype": "bfloat16"}])
def test_what_says_how_parameters_lie_comes_too_late(model, late):
    with pytest.raises(UserError, match="give them to `load`"):
        model.changed(late)
