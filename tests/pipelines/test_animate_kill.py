"""sample.py killed with the tiny model, and lengths that people ask for."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from onetoall_jax import animate, load, media
from onetoall_jax.pipelines.preparing import PrepareConfig
from onetoall_jax.pose import files

ROOT = Path(__file__).resolve().parent.parent.parent
pytestmark = pytest.mark.slow


def start(pair, out, *more):
    words = {
        "--reference": pair / "me.png",
        "--reference_keypoints": pair / "me.npz",
        "--driving": pair / "dance.npz",
        "--out": out,
        "--num_frames": 20,
    }
    return subprocess.Popen(
        [sys.executable, "sample.py", *(f"{k}={v}" for k, v in words.items()), *more],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "XLA_FLAGS": ""},
    )


def finished(folder):
    journal = folder / "journal.jsonl"
    return len(journal.read_text().splitlines()) if journal.exists() else 0


def killed_when(process, is_time):
    """False if it ended before."""
    while process.poll() is None:
        if is_time():
            process.send_signal(signal.SIGKILL)
            process.wait()
            return True
        time.sleep(0.001)
    assert process.returncode == 0
    return False


def test_killed_in_a_segment_and_while_writing(pair, tmp_path):
    part, out = tmp_path / "out.part", tmp_path / "out"
    # In the middle of drawing the third segment.
    assert killed_when(start(pair, out), lambda: finished(part) == 2)
    assert finished(part) == 2 and not out.exists()
    # While a segment is written, then while the videos are completed: moments of
    # milliseconds, so a busy machine may miss one.
    killed_when(start(pair, out), lambda: list(part.glob("segments/*.mkv.part")))
    if not out.exists():
        killed_when(start(pair, out), lambda: (part / "result.mp4.whole").exists())
    if not out.exists():
        assert start(pair, out).wait() == 0
    assert start(pair, tmp_path / "whole").wait() == 0
    for name in ("result.mp4", "side_by_side.mp4", "contact_sheet.png", "drift.png"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert {p.name for p in tmp_path.iterdir()} == {"whole", "out"}


def test_the_tiny_model_draws_exactly_so_many_frames(pair, tmp_path):
    track = files.read(pair / "dance.npz")
    points = np.concatenate([track.keypoints] * 6)
    files.write(tmp_path / "long.npz", track._replace(keypoints=points))
    model = load()
    for num_frames in (1, 2, 3, 4, 5, 80, 81, 82, 157, 158):
        out = tmp_path / str(num_frames)
        frames, report = animate(
            pair / "me.png",
            tmp_path / "long.npz",
            reference_keypoints=pair / "me.npz",
            config=PrepareConfig(num_frames=num_frames),
            model=model,
            out=out,
        )
        assert len(frames) == report["frames"] == num_frames
        if num_frames > 1:
            video = media.Video(out / "result.mp4")
            assert sum(1 for _ in video.frames()) == num_frames
