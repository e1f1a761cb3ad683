import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from onetoall_jax.checkpoints import state
from onetoall_jax.errors import UserError

ROOT = Path(__file__).parents[2]


def trees_(step: int):
    params = {"dit": {"w": jnp.full((64, 3), float(step))}}
    return params, {"step": jnp.int32(step), "key": jax.random.key(step)}


def abstract(tree):
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=place), tree
    )


def test_the_newest_checkpoint_comes_back_and_older_ones_go(tmp_path):
    store = state.Store(tmp_path, keep=2)
    for step in (1, 2, 3):
        store.save(step, *trees_(step), {"a": 1})
    store.close()
    again = state.Store(tmp_path, keep=2)
    assert again.latest() == 3
    params, training = again.restore(*map(abstract, trees_(0)))
    np.testing.assert_array_equal(params["dit"]["w"], 3.0)
    assert training["key"] == jax.random.key(3)
    names = {p.name for p in (tmp_path / "checkpoints").iterdir() if p.is_dir()}
    assert names == {"2", "3"}
    again.close()


def test_what_was_given_away_while_saving_is_saved_as_it_was(tmp_path):
    store = state.Store(tmp_path)
    add = jax.jit(lambda t: jax.tree.map(lambda x: x + 1, t), donate_argnums=0)
    params = add({"w": jnp.zeros((2000, 2000))})
    store.save(1, params, {"step": jnp.int32(1)}, {})
    for _ in range(5):
        params = add(params)
    store.close()
    again = state.Store(tmp_path)
    target = abstract(({"w": jnp.zeros((2000, 2000))}, {"step": jnp.int32(1)}))
    saved, _ = again.restore(*target)
    np.testing.assert_array_equal(saved["w"], 1.0)
    again.close()


KILLED = """
import os, signal, sys
from pathlib import Path
import jax.numpy as jnp
from onetoall_jax.checkpoints.state import Store
store = Store(Path(sys.argv[1]))
store.save(1, {"w": jnp.zeros(3)}, {"step": jnp.int32(1)}, {})
store._manager.wait_until_finished()
store.save(2, {"w": jnp.zeros(50_000_000)}, {"step": jnp.int32(2)}, {})
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_save_leaves_is_no_checkpoint(tmp_path):
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], cwd=ROOT)
    names = {p.name for p in (tmp_path / "checkpoints").iterdir()}
    assert names == {"1", "2.orbax-checkpoint-tmp"}
    again = state.Store(tmp_path)
    assert again.latest() == 1
    again.save(2, *trees_(2), {})
    again.close()
    names = {p.name for p in (tmp_path / "checkpoints").iterdir()}
    assert names == {"1", "2"}


def test_a_damaged_checkpoint_is_named(tmp_path):
    store = state.Store(tmp_path)
    store.save(5, *trees_(5), {})
    store.close()
    for file in (tmp_path / "checkpoints" / "5" / "params").rglob("*"):
        if file.is_file():
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    again = state.Store(tmp_path)
    with pytest.raises(UserError, match="checkpoints/5 cannot be read"):
        again.restore(*map(abstract, trees_(0)))
    again.close()


def test_a_full_disk_is_one_sentence(tmp_path, monkeypatch):
    store = state.Store(tmp_path)
    store.save(1, *trees_(1), {})

    def full(*_, **__):
        raise ValueError("write") from OSError(28, "No space left on device")

    monkeypatch.setattr(store._manager, "save", full)
    with pytest.raises(UserError, match="disk is full.*free some space"):
        store.save(2, *trees_(2), {})
    store.close()


def test_a_workdir_of_other_settings_is_refused_by_the_first_difference(tmp_path):
    settings = {"model": {"dim": 8}, "training": {"steps": 5, "rate": (0.1, 0.2)}}
    free = ("training.steps",)
    state.check_owner(tmp_path, settings, free)
    state.claim(tmp_path, settings)
    settings["training"]["steps"] = 6
    state.check_owner(tmp_path, settings, free)
    settings["training"]["rate"] = (0.1, 0.3)
    settings["training"]["steps"] = 7
    with pytest.raises(UserError, match=r"training\.rate=\[0\.1, 0\.2\]"):
        state.check_owner(tmp_path, settings, free)
