"""Every entry point starts, and the whole tiny path runs."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
ENTRIES = (
    "train.py",
    "sample.py",
    "tools/convert_torch_weights.py",
    "tools/lora.py",
    "tools/tiny_lora.py",
    "tools/tiny_run.py",
    "tools/verify_parity.py",
)
MODULES = (
    "data_pipeline.synthetic",
    "data_pipeline.pools",
    "data_pipeline.prepare",
    "onetoall_jax.pose.detect",
    "onetoall_jax.pose.detect_onnx",
    "onetoall_jax.pipelines.embed",
)


def run(*words):
    return subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    "words", [(e,) for e in ENTRIES] + [("-m", m) for m in MODULES]
)
def test_help_is_printed(words):
    done = run(*words, "--help")
    # absl's own help ends with 1, argparse's with 0.
    assert done.returncode in (0, 1), done.stderr
    assert "Traceback" not in done.stderr
    assert "--" in done.stdout


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("train.py", "--config=configs/stage1.py:tiny", "--config.data.root=/none"),
         "no data set at /none"),
        (("sample.py", "--reference=/none.png", "--driving=a.mp4", "--out=/tmp/none"),
         "no picture /none.png"),
        (("tools/convert_torch_weights.py", "--src=/none", "--dry_run"),
         "no file or folder /none"),
        (("tools/verify_parity.py",), "at least one case"),
    ],
)  # fmt: skip
def test_what_a_user_can_mend_is_one_sentence(words, sentence):
    done = run(*words)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert sentence in done.stderr


@pytest.mark.slow
def test_the_tiny_path_runs_from_data_to_a_sampled_video(tmp_path):
    done = run("tools/tiny_run.py", f"--output={tmp_path}", "--clips=40",
               "--held_out=4", "--steps", "3", "2", "4", "2")  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    # A codec of 48 coefficients is worth more than 20 dB whatever was learned.
    assert report["codec's round trip"]["whole"]["psnr"] > 20
    assert (tmp_path / "report" / "held_out.mp4").stat().st_size > 1000

    from data_pipeline.builder import Rows
    from onetoall_jax import media
    from onetoall_jax.pose import files

    clip = Rows(tmp_path / "data", "test").read(0, range(16))
    media.write_image(tmp_path / "me.png", clip.frames[0])
    track = files.Track(clip.keypoints, 48, 32, 8.0)
    files.write(tmp_path / "dance.npz", track)
    files.write(tmp_path / "me.npz", track._replace(keypoints=clip.keypoints[:1]))
    done = run(
        "sample.py",
        f"--checkpoint={tmp_path / 'stage3'}",
        f"--reference={tmp_path / 'me.png'}",
        f"--reference_keypoints={tmp_path / 'me.npz'}",
        f"--driving={tmp_path / 'dance.npz'}",
        f"--out={tmp_path / 'out'}",
        "--set=steps=2",
    )
    assert done.returncode == 0, done.stderr
    said = json.loads((tmp_path / "out" / "report.json").read_text())
    assert said["frames"] == 16 and said["sampling"]["steps"] == 2
    frames = list(media.Video(tmp_path / "out" / "result.mp4").frames())
    assert len(frames) == 16 and frames[0].shape == (384, 256, 3)
    assert np.std(frames[0]) > 1


@pytest.mark.slow
def test_adapters_of_one_person_are_set_against_their_base(tmp_path):
    done = run("tools/tiny_lora.py", f"--output={tmp_path}", "--clips=20",
               "--held_out=4", "--steps=3", "--control")  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    first, *others = report
    assert first == "adapters" and {"base", "adapters for anybody"} < set(others)
    for area in ("whole", "inside"):
        gain = report["base"][area]["result_above"]
        both = [report[name][area]["psnr"] for name in ("adapters", "base")]
        assert gain["mean"] == pytest.approx(both[0] - both[1])
        assert gain["error"] > 0
    assert (tmp_path / "report" / "held_out.png").stat().st_size > 1000
