import dataclasses
import io
import itertools
import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from onetoall_jax.errors import STOPPED, Stopped, UserError, reported
from onetoall_jax.training import log, loop
from onetoall_jax.training.metrics import Metrics
from onetoall_jax.training.settings import TrainingConfig

CONFIG = TrainingConfig(steps=6, trainable="all", log_every=2, checkpoint_every=3)


def batches(start=0):
    while True:
        yield {"frames_u8": np.full((2, 1, 8, 8, 3), start, np.uint8)}
        start += 1


def job(saved, *, bad_at=None):
    def step(state, batch, knobs):
        k = state.step + 1
        value = jnp.float32(np.nan if k == bad_at else 1.0 / k)
        metrics = Metrics.single_from_model_output(
            losses=jnp.full(2, value), timestep=jnp.asarray([10.0, 990.0]),
            grad_norm=jnp.float32(1),
        )  # fmt: skip
        return SimpleNamespace(step=k), value, metrics

    return loop.Job(
        config=CONFIG,
        step=step,
        place=lambda batch: batch,
        save=lambda step, state: saved.append(step),
        work=lambda batch: 1e9,
        clips=lambda batch: 2,
        peak=1e12,
    )


def records(workdir):
    lines = (workdir / "log.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_every_step_is_recorded_once_with_its_loss_and_batch(tmp_path):
    saved = []
    loop.run(SimpleNamespace(step=0), batches(), job(saved), tmp_path)
    made = records(tmp_path)
    assert [r["step"] for r in made] == [1, 2, 3, 4, 5, 6]
    assert made[3]["loss"] == 0.25 and saved == [3, 6]
    assert len({r["batch"] for r in made}) == 6
    metrics = [json.loads(x) for x in (tmp_path / "metrics.jsonl").open()]
    assert [m["step"] for m in metrics] == [2, 4, 6]
    assert metrics[1]["loss"] == pytest.approx((1 / 3 + 1 / 4) / 2)
    assert metrics[1]["loss_time_0"] == metrics[1]["loss_time_3"]
    assert "loss_time_1" not in metrics[1]
    assert {"samples_per_s", "percent_of_peak", "data_wait_share"} <= set(metrics[1])


def test_repeated_steps_are_appended_and_half_a_line_is_closed(tmp_path):
    loop.run(SimpleNamespace(step=0), batches(), job([]), tmp_path)
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 7, "lo')
    loop.run(SimpleNamespace(step=3), batches(3), job([]), tmp_path)
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    assert len(lines) == 6 + 1 + 3
    assert [json.loads(x) for x in lines[3:6]] == [json.loads(x) for x in lines[7:]]


def test_a_loss_that_is_no_number_stops_before_the_next_checkpoint(tmp_path):
    saved = []
    with pytest.raises(UserError, match="Step 5: the loss of the batch is nan"):
        loop.run(SimpleNamespace(step=0), batches(), job(saved, bad_at=5), tmp_path)
    assert saved == [3]


def test_the_progress_line_tells_the_time_left():
    out = io.StringIO()
    values = {"loss": 0.5, "learning_rate": 1e-3, "samples_per_s": 2.0}
    log.Progress(0, 100, out).write(50, values)
    assert out.getvalue().startswith("step 50/100  loss 0.5000  lr 1.00e-03")
    assert log.duration(7320) == "2 h 02 min" and log.duration(75) == "1 min 15 s"


def test_the_hash_sees_every_field():
    one = next(batches())
    other = {"frames_u8": one["frames_u8"], "row": np.arange(2)}
    assert loop.batch_hash(one) != loop.batch_hash(other)
    assert loop.batch_hash(one) == loop.batch_hash(jax.tree.map(np.copy, one))


def test_asked_to_stop_it_saves_the_last_step_and_says_so(tmp_path):
    saved = []
    stopping = dataclasses.replace(job(saved), stop=lambda step: step == 5)
    with pytest.raises(Stopped, match="after step 5 of 6, which is saved"):
        loop.run(SimpleNamespace(step=0), batches(), stopping, tmp_path)
    assert saved == [3, 5] and [r["step"] for r in records(tmp_path)] == [1, 2, 3, 4, 5]
    at_once = dataclasses.replace(job(saved), stop=lambda step: True)
    with pytest.raises(Stopped, match="after step 3"):  # saved before, or never begun
        loop.run(SimpleNamespace(step=3), batches(3), at_once, tmp_path)
    assert saved == [3, 5]


def test_readers_that_the_signal_ended_too_do_not_hide_it(tmp_path):
    def cut():
        yield from itertools.islice(batches(), 2)
        raise RuntimeError("a worker was terminated")

    saved, asked = [], []
    with pytest.raises(RuntimeError, match="worker"):
        loop.run(SimpleNamespace(step=0), cut(), job(saved), tmp_path)
    # Asked before the third batch, no; asked again when reading it failed, yes.
    late = dataclasses.replace(
        job(saved), stop=lambda step: asked.append(step) or asked.count(2) == 2
    )
    with pytest.raises(Stopped, match="after step 2"):
        loop.run(SimpleNamespace(step=0), cut(), late, tmp_path)
    assert saved == [2]


def test_a_stopped_run_ends_with_a_code_of_its_own(capsys):
    @reported
    def main():
        raise Stopped("Stopped after step 3.")

    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == STOPPED == 75
    assert capsys.readouterr().err == "Stopped after step 3.\n"
