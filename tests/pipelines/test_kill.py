"""Killed over and over, four times in the middle of a save: nothing is lost."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from data_pipeline import synthetic

ROOT = Path(__file__).resolve().parent.parent.parent
STEPS, KILLS, IN_A_SAVE = 60, 10, 4
SMALL = (
    "--config.model.num_layers=2",
    "--config.model.mlp_dim=64",
    f"--config.training.steps={STEPS}",
    "--config.training.checkpoint_every=3",
    "--config.training.optimizer.warmup_steps=5",
    "--config.data.batch=4",
    "--config.data.num_frames=5",
    "--config.data.workers=1",
)


def start(data: Path, workdir: Path) -> subprocess.Popen:
    words = ["train.py", "--config=configs/stage0.py:tiny", *SMALL]
    words += [f"--workdir={workdir}", f"--config.data.root={data}"]
    return subprocess.Popen(
        [sys.executable, *words],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "XLA_FLAGS": ""},
        start_new_session=True,
    )


def kill(process: subprocess.Popen) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def records(workdir: Path) -> list[dict]:
    path = workdir / "log.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    made = []
    for line in lines:
        try:
            made.append(json.loads(line))
        except json.JSONDecodeError:
            continue  # the line that the kill cut
    return made


def half_written(workdir: Path) -> list[Path]:
    return list((workdir / "checkpoints").glob("*tmp*"))


def kill_in_a_save(process: subprocess.Popen, workdir: Path) -> bool:
    """True once the process is dead and what it was saving lies there unfinished."""
    while process.poll() is None:
        if half_written(workdir):
            kill(process)
            return bool(half_written(workdir))
        time.sleep(0.001)
    return False


def kill_after_some_steps(process: subprocess.Popen, workdir: Path, more: int) -> None:
    wanted = len(records(workdir)) + more
    while process.poll() is None and len(records(workdir)) < wanted:
        time.sleep(0.01)
    kill(process)


@pytest.mark.slow
def test_ten_kills_leave_the_run_of_an_unbroken_one(tmp_path):
    data = tmp_path / "data"
    synthetic.main([f"--output={data}", "--clips=40", "--test_clips=1"])
    assert start(data, tmp_path / "whole").wait() == 0
    whole = {r["step"]: r for r in records(tmp_path / "whole")}
    assert sorted(whole) == list(range(1, STEPS + 1))

    broken, rng = tmp_path / "broken", np.random.default_rng(0)
    caught = kills = 0
    while kills < KILLS:
        process = start(data, broken)
        if caught < IN_A_SAVE:
            hit = kill_in_a_save(process, broken)
            caught += hit
            kills += hit
        else:
            kill_after_some_steps(process, broken, int(rng.integers(1, 5)))
            kills += 1
    print(f"{kills} kills, {caught} of them inside a save")
    assert start(data, broken).wait() == 0

    made = records(broken)
    repeated = len(made) - STEPS
    print(f"{repeated} steps were gone through more than once")
    assert repeated > 0
    for record in made:  # repeated ones too
        assert record == whole[record["step"]]
    assert {r["step"] for r in made} == set(whole)
    assert not half_written(broken)
