"""Several processes of train.py on this machine, joined as those of a cluster are."""

import json
import os
import signal
import time

import numpy as np
import pytest

from onetoall_jax.errors import STOPPED

pytestmark = [pytest.mark.multihost, pytest.mark.slow]
STEPS = ("--config.training.steps=8", "--config.training.checkpoint_every=4")


def losses(workdir):
    made = [json.loads(line) for line in (workdir / "log.jsonl").open()]
    return {row["step"]: row["loss"] for row in made}


def together(runs, workdir, port, *words):
    join = (f"--coordinator=localhost:{port}", "--processes=2", *words)
    return [runs.start(workdir, f"--process={i}", *join, devices=2) for i in range(2)]


def ended(processes):
    said = [p.communicate(timeout=500)[1] for p in processes]
    return [p.returncode for p in processes], said


def test_two_processes_train_the_losses_of_one(runs, port, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    alone = runs.start(one, *STEPS, devices=4)
    assert ended([alone])[0] == [0]
    codes, said = ended(together(runs, two, port, *STEPS))
    assert codes == [0, 0], said
    want, made = losses(one), losses(two)
    assert list(made) == list(range(1, 9))  # one of the two kept the records
    worst = max(abs(made[k] / want[k] - 1) for k in want)
    print(f"largest relative difference of a loss: {worst:.1e}")
    assert worst <= 1e-5


def test_all_processes_stop_after_the_same_step_and_go_on(runs, port, tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert ended([runs.start(whole, *STEPS, devices=4)])[0] == [0]
    processes = together(runs, broken, port, *STEPS)
    log = broken / "log.jsonl"
    while not log.exists() or len(log.read_text().splitlines()) < 2:
        assert all(p.poll() is None for p in processes)
        time.sleep(0.02)
    os.kill(processes[1].pid, signal.SIGTERM)  # the one that keeps no records
    codes, said = ended(processes)
    assert codes == [STOPPED, STOPPED], said
    assert ended([runs.start(broken, *STEPS, devices=4)])[0] == [0]
    want, made = losses(whole), losses(broken)
    np.testing.assert_allclose(
        [made[k] for k in range(1, 9)], [want[k] for k in range(1, 9)], rtol=1e-5
    )
