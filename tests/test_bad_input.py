"""What people get wrong, as they would run it: one sentence, exit code 2, no file."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from data_pipeline import synthetic
from data_pipeline.builder import Rows
from onetoall_jax import media
from onetoall_jax.pipelines.animator import SHIPPED
from onetoall_jax.pose import detect, files

ROOT = Path(__file__).resolve().parent.parent
SMALL = (
    "--config.model.num_layers=1",
    "--config.model.mlp_dim=16",
    "--config.training.steps=2",
    "--config.training.optimizer.warmup_steps=1",
    "--config.data.batch=4",
    "--config.data.workers=0",
)
pytestmark = pytest.mark.slow


def run(*words, **environment):
    return subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "XLA_FLAGS": "", **environment},
    )


def refused(done, sentence):
    said = done.stderr.strip().splitlines()
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert said[-1].startswith("error: ") and sentence in said[-1], said[-1]
    print(said[-1])


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """A folder with data, a base run of two steps, a picture and key points."""
    folder = tmp_path_factory.mktemp("given")
    synthetic.main([f"--output={folder / 'data'}", "--clips=8", "--test_clips=1"])
    done = run("train.py", "--config=configs/stage0.py:tiny", *SMALL,
               f"--workdir={folder / 'base'}",
               f"--config.data.root={folder / 'data'}")  # fmt: skip
    assert done.returncode == 0, done.stderr
    clip = Rows(folder / "data", "test").read(0, range(16))
    media.write_image(folder / "me.png", clip.frames[0])
    track = files.Track(clip.keypoints, 48, 32, 8.0)
    files.write(folder / "dance.npz", track)
    files.write(folder / "me.npz", track._replace(keypoints=clip.keypoints[:1]))
    return folder


def sample(given, out, *more):
    words = {
        "--reference": given / "me.png",
        "--reference_keypoints": given / "me.npz",
        "--driving": given / "dance.npz",
        "--out": out,
        "--set": "steps=1",
    }
    words |= dict(word.split("=", 1) for word in more)
    done = run("sample.py", *(f"{k}={v}" for k, v in words.items() if v))
    assert done.returncode == 0 or not list(out.parent.glob(out.name + "*"))
    return done


def train(given, workdir, *more, stage=0, **environment):
    return run("train.py", f"--config=configs/stage{stage}.py:tiny", *SMALL,
               f"--workdir={workdir}", f"--config.data.root={given / 'data'}",
               *more, **environment)  # fmt: skip


def test_missing_checkpoint(given, tmp_path):
    done = sample(given, tmp_path / "out", "--checkpoint=/nowhere")
    refused(done, "/nowhere is no checkpoint")


def test_truncated_checkpoint(given, tmp_path):
    shutil.copytree(SHIPPED, tmp_path / "cut")
    largest = max((tmp_path / "cut").rglob("*"), key=lambda p: p.stat().st_size)
    os.truncate(largest, largest.stat().st_size // 2)
    done = sample(given, tmp_path / "out", f"--checkpoint={tmp_path / 'cut'}")
    refused(done, "damaged or incomplete")


def test_wrong_kind(given, tmp_path):
    done = sample(given, tmp_path / "out", f"--checkpoint={given / 'base'}")
    refused(done, "takes no reference")


def test_wrong_size(given, tmp_path):
    start = f"--config.init_from={given / 'base'}"
    done = train(given, tmp_path / "run", "--config.model.mlp_dim=32", start, stage=1)
    refused(done, "of another size")


def test_corrupt_video(given, tmp_path):
    (tmp_path / "bad.mp4").write_bytes(b"these are no pictures" * 100)
    done = sample(given, tmp_path / "out", f"--driving={tmp_path / 'bad.mp4'}")
    refused(done, "not a video that can be read")


def test_no_person(given, tmp_path):
    if not (detect.DEFAULT_ENVIRONMENT.expanduser() / "bin" / "python").exists():
        pytest.skip("the offline detector is not installed")
    media.write_image(tmp_path / "grey.png", np.full((64, 48, 3), 90, np.uint8))
    done = sample(given, tmp_path / "out", "--reference_keypoints=",
                  f"--reference={tmp_path / 'grey.png'}")  # fmt: skip
    refused(done, "No person was found")


def test_picture_too_small(given, tmp_path):
    media.write_image(tmp_path / "dot.png", np.zeros((6, 6, 3), np.uint8))
    done = sample(given, tmp_path / "out", f"--reference={tmp_path / 'dot.png'}")
    refused(done, "too small")


def test_odd_sizes(given, tmp_path):
    done = sample(given, tmp_path / "out", "--height=47", "--width=33")
    refused(done, "47")


def test_unknown_setting_names_the_nearest(given, tmp_path):
    done = train(given, tmp_path / "run", "--config.training.step=3")
    refused(done, 'Did you mean "steps"')
    assert not (tmp_path / "run").exists()


def test_workdir_of_another_config(given):
    before = json.loads((given / "base" / "settings.json").read_text())
    done = train(given, given / "base", "--config.training.seed=7")
    refused(done, "belongs to a run with training.seed=43")
    assert json.loads((given / "base" / "settings.json").read_text()) == before


def test_disk_full_while_saving(given, tmp_path):
    full = tmp_path / "small"
    full.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(full)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no right to make a small file system")
    try:
        done = train(given, full / "run")
        refused(done, "The disk is full")
        assert not list((full / "run" / "checkpoints").glob("[0-9]*"))
    finally:
        subprocess.run(["umount", str(full)], check=True)
