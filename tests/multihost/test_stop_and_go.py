"""Asked to stop again and again, going on with other devices: the run stays itself."""

import json
import os
import signal
import time

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from onetoall_jax.errors import STOPPED

pytestmark = pytest.mark.slow
# Devices and mesh of every start; in between, SIGTERM.
STARTS = (
    (1, ()),
    (1, ()),
    (2, ()),
    (4, ("--config.mesh.data=2", "--config.mesh.fsdp=2")),
    (8, ("--config.mesh.context=2", "--config.mesh.tensor=2")),
)
COMPARED = 20
STEPS = 110
SAME = (f"--config.training.steps={STEPS}", "--config.training.checkpoint_every=1000")


def records(workdir):
    path = workdir / "log.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return {row["step"]: row for row in map(json.loads, lines)}


def stopped(process, workdir, after):
    while len(records(workdir)) < after:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)
    # To all of its processes, as a scheduler may: also those that read the data.
    os.killpg(process.pid, signal.SIGTERM)
    said = process.communicate(timeout=300)[1]
    assert process.returncode == STOPPED, said
    assert "\nStopped as asked after step " in said, said
    assert "Traceback" not in said
    return len(records(workdir))


def final(workdir):
    """Arrays of the last checkpoint: means, parameters, moments, step and key."""
    folder = max((workdir / "checkpoints").iterdir(), key=lambda p: int(p.name))
    assert int(folder.name) == STEPS
    arrays = {}
    for part in ("params", "training"):
        tree = ocp.PyTreeCheckpointer().restore(folder / part)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
                leaf = jax.random.key_data(leaf)
            arrays[part + jax.tree_util.keystr(path)] = np.asarray(leaf)
    return arrays


def test_restarts_on_other_devices_continue_the_unbroken_run(runs, tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    unbroken = runs.start(whole, *SAME)
    unbroken.communicate(timeout=900)
    assert unbroken.returncode == 0
    want, rng, changes = records(whole), np.random.default_rng(0), [0]
    for i, (devices, words) in enumerate(STARTS):
        process = runs.start(broken, *SAME, *words, devices=devices)
        if i + 1 < len(STARTS):
            target = changes[-1] + (3 if not i else COMPARED) + int(rng.integers(1, 4))
            changes.append(stopped(process, broken, target))
        else:
            said = process.communicate(timeout=900)[1]
            assert process.returncode == 0, said
    made = records(broken)
    assert sorted(made) == list(range(1, STEPS + 1))
    assert all(made[k]["batch"] == want[k]["batch"] for k in want)
    for k in range(1, changes[2] + 1):  # one device, stopped in between
        assert made[k] == want[k]
    print(f"stopped after steps {changes[1:]}")
    for (devices, words), start in zip(STARTS[1:], changes[1:], strict=True):
        steps = range(start + 1, start + COMPARED + 1)
        errors = [abs(made[k]["loss"] / want[k]["loss"] - 1) for k in steps]
        print(f"{devices} devices {words} from step {start}: {max(errors):.1e}")
        assert max(errors) <= 1e-5
    ours, theirs = final(broken), final(whole)
    assert list(ours) == list(theirs)
    for name in ours:
        if not np.issubdtype(ours[name].dtype, np.floating):  # steps, key
            np.testing.assert_array_equal(ours[name], theirs[name])
    for part in ("params", "training"):
        of_it = [n for n in ours if n.startswith(part) and ours[n].dtype == np.float32]
        a, b = (np.concatenate([t[n].ravel() for n in of_it]) for t in (ours, theirs))
        print(f"{part} at the end: {np.linalg.norm(a - b) / np.linalg.norm(b):.1e}")
        assert np.linalg.norm(a - b) <= 1e-3 * np.linalg.norm(b)
