"""sample.py killed with the tiny model, and lengths that people ask for."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from onetoall_jax import media

ROOT = Path(__file__).resolve().parent.parent.parent
pytestmark = pytest.mark.slow


def start(pair, out, *more):
    words = {
        "--reference": pair / "me.png",
        "--reference_keypoints": pair / "me.npz",
        "--driving": pair / "dance.npz",
        "--out": out,
        "--set": "steps=2",
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
    while not is_time():
        assert process.poll() is None, "ended before it could be killed"
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()


def test_killed_in_a_segment_and_while_writing(pair, tmp_path):
    assert start(pair, tmp_path / "whole").wait() == 0
    part, out = tmp_path / "out.part", tmp_path / "out"
    # In the middle of drawing the third segment, then while a segment is written.
    killed_when(start(pair, out), lambda: finished(part) == 2)
    writing = part / "segments" / "00004.mkv.part"
    killed_when(start(pair, out), writing.exists)
    assert 2 <= finished(part) <= 5 and not out.exists()
    # While the video is completed.
    process = start(pair, out)
    while process.poll() is None and not (part / "result.mp4").exists():
        time.sleep(0.001)
    if process.poll() is None:
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert start(pair, out).wait() == 0
    for name in ("result.mp4", "side_by_side.mp4", "contact_sheet.png", "drift.png"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert {p.name for p in tmp_path.iterdir()} == {"whole", "out"}


@pytest.mark.parametrize("num_frames", [1, 2, 3, 4, 5, 80, 81, 82, 157, 158])
def test_segments_of_81_frames_give_exactly_so_many(pair, tmp_path, num_frames):
    import numpy as np

    from onetoall_jax.pose import files

    track = files.read(pair / "dance.npz")
    points = np.concatenate([track.keypoints] * 6)[:num_frames]
    files.write(tmp_path / "long.npz", track._replace(keypoints=points))
    done = start(pair, tmp_path / "out", f"--driving={tmp_path / 'long.npz'}",
                 "--set=segment_frames=81", "--set=steps=1")  # fmt: skip
    assert done.wait() == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["frames"] == num_frames
    if num_frames > 1:
        video = media.Video(tmp_path / "out" / "result.mp4")
        assert sum(1 for _ in video.frames()) == num_frames
