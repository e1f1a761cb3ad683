import dataclasses
import itertools
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from data_pipeline import builder, cache_latents, latents, loader, synthetic
from data_pipeline.builder import Rows
from data_pipeline.settings import AugmentConfig, Resolution
from data_pipeline.windows import Window
from onetoall_jax import batch
from onetoall_jax.errors import UserError
from tests.data_pipeline.sets import Corners, digest, settings

GEOMETRY = Corners.geometry


def clips():
    """Videos of two rates, single pictures and pairs."""
    plain = synthetic.SyntheticConfig(num_frames=14, canvas_side=0)
    for i in range(14):
        fps, frames = (32.0, 28) if i % 3 == 0 else (8.0, 14)
        made = dataclasses.replace(plain, num_frames=frames, fps=fps)
        yield synthetic.make_clip(made, "train", i)
    for i in range(14, 26):
        made = dataclasses.replace(plain, num_frames=1 + i % 2)
        yield synthetic.make_clip(made, "train", i)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    root = tmp_path_factory.mktemp("set") / "data"
    builder.write(root, {"train": clips()})
    return settings(
        root,
        resolutions=(Resolution("tiny", image_share=0.4),),
        batch=2,
        windows="cached",
        windows_per_clip=3,
        augment=AugmentConfig(
            drop_all=0.05, drop_reference=0.05, keep_reference=0.4, zoom=0.6
        ),
    )


@pytest.fixture(scope="module")
def stored(config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("latents") / "made"
    cache_latents.write(config, Corners(), folder, per_shard=20)
    return dataclasses.replace(config, latents=str(folder))


def test_windows_of_a_row_by_hand(config):
    layout = latents.Layout(config, Rows(config.root, "train").sizes)
    # 28 frames at 32 a second: every second of 1..26, cut to 13; a window takes 5.
    video = next(b for b in layout.buckets if b.num_frames == 5)
    every = list(range(1, 26, 2))
    plain = [Window(tuple(every[s : s + 5])) for s in (0, 4, 8)]
    *found, zoomed = layout.windows(video, 0)
    assert found == plain
    assert zoomed.frames == plain[1].frames and 1 < zoomed.zoom < 1.2
    picture = next(b for b in layout.buckets if b.num_frames == 1)
    found = layout.windows(picture, 15)
    assert [w.frames for w in found] == [(0,), (1,), (0,)]


def test_every_record_has_a_place_of_its_own(config):
    layout = latents.Layout(config, Rows(config.root, "train").sizes)
    for place in range(len(layout)):
        entry = layout[place]
        number = layout.windows(entry.bucket, entry.row).index(entry.window)
        assert layout.place(entry.bucket, entry.row, number) == place


@pytest.fixture(scope="module")
def released(config, tmp_path_factory):
    """As `stored`, pictures varied as the release does."""
    augment = dataclasses.replace(config.augment, released_pictures=True)
    config = dataclasses.replace(config, augment=augment)
    folder = tmp_path_factory.mktemp("released") / "made"
    cache_latents.write(config, Corners(), folder)
    return dataclasses.replace(config, latents=str(folder))


@pytest.mark.parametrize("name", ["stored", "released"])
def test_batches_hold_the_latents_of_the_frames_they_would_hold(name, request):
    stored = request.getfixturevalue(name)
    config = dataclasses.replace(stored, latents=None)
    encode, seen, lengths = Corners(), set(), set()
    pairs = zip(
        loader.build(config, GEOMETRY), loader.build(stored, GEOMETRY), strict=False
    )
    for with_frames, with_latents in itertools.islice(pairs, 60):
        batch.check(with_latents, GEOMETRY)
        frames = with_frames.pop("frames_u8")
        made = with_latents.pop("latents")
        np.testing.assert_array_equal(made, encode(frames))
        for name, value in with_frames.items():
            np.testing.assert_array_equal(with_latents[name], value, err_msg=name)
        lengths.add(frames.shape[1])
        seen |= set(with_frames["row"].tolist())
    assert lengths == {1, 5} and len(seen) > 20


def test_a_run_that_was_cut_off_leaves_the_same_files(config, stored, tmp_path):
    tries = 0
    while True:
        tries += 1
        try:
            cache_latents.write(config, Corners(tries), tmp_path / "l", per_shard=20)
            break
        except KeyboardInterrupt:
            with pytest.raises(UserError, match="no finished latents"):
                latents.description(tmp_path / "l")
    assert tries > 3
    assert digest(tmp_path / "l") == digest(stored.latents)


def test_a_full_disk_is_one_sentence_and_the_next_run_goes_on(config, stored, tmp_path):
    """No file may grow past 4 kB, which is told much as a full disk is."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, before[1]))
    try:
        with pytest.raises(UserError, match="no room left on the disk"):
            cache_latents.write(config, Corners(), tmp_path / "l", per_shard=20)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    with pytest.raises(UserError, match="no finished latents"):
        latents.description(tmp_path / "l")
    cache_latents.write(config, Corners(), tmp_path / "l", per_shard=20)
    assert digest(tmp_path / "l") == digest(stored.latents)


def test_parts_together_are_the_whole(config, stored, tmp_path):
    for i in (1, 0):
        cache_latents.write(config, Corners(), tmp_path, per_shard=20, part=(i, 2))
    assert digest(tmp_path) == digest(stored.latents)


def test_bfloat16_takes_half_and_comes_back_close(config, stored, tmp_path):
    cache_latents.write(config, Corners(), tmp_path, dtype="bfloat16")
    half = dataclasses.replace(config, latents=str(tmp_path))
    pairs = zip(
        loader.build(stored, GEOMETRY), loader.build(half, GEOMETRY), strict=False
    )
    for a, b in itertools.islice(pairs, 10):
        assert b["latents"].dtype == np.float32
        np.testing.assert_allclose(b["latents"], a["latents"], rtol=2**-8)


def test_latents_of_other_settings_are_refused(config, stored, tmp_path):
    other = dataclasses.replace(stored, windows_per_clip=2)
    with pytest.raises(UserError, match="windows_per_clip 3, not 2"):
        loader.Load(other, GEOMETRY, 0, 1)
    with pytest.raises(UserError, match="data.windows=cached"):
        loader.Load(dataclasses.replace(stored, windows="any"), GEOMETRY, 0, 1)
    with pytest.raises(UserError, match="cache_latents --config"):
        none = dataclasses.replace(stored, latents=str(tmp_path))
        loader.Load(none, GEOMETRY, 0, 1)
    with pytest.raises(UserError, match="another data"):
        cache_latents.write(other, Corners(), Path(stored.latents), per_shard=20)
    released = dataclasses.replace(stored.augment, released_pictures=True)
    with pytest.raises(UserError, match="released_pictures False, not True"):
        loader.Load(dataclasses.replace(stored, augment=released), GEOMETRY, 0, 1)


def test_a_missing_or_damaged_file_is_named_and_can_be_made_anew(
    config, stored, tmp_path
):
    cache_latents.write(config, Corners(), tmp_path, per_shard=20)
    mine = dataclasses.replace(stored, latents=str(tmp_path))
    first = sorted(tmp_path.glob("latents.array_record*"))[0]
    whole = first.read_bytes()
    first.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=f"{first.name} is damaged: remove it"):
        list(itertools.islice(loader.build(mine, GEOMETRY), 30))
    first.unlink()
    with pytest.raises(UserError, match=f"{first.name} is missing: run cache_latents"):
        loader.Load(mine, GEOMETRY, 0, 1)
    cache_latents.write(config, Corners(), tmp_path, per_shard=20)
    assert digest(tmp_path) == digest(stored.latents)


@pytest.mark.slow
def test_ten_kills_leave_the_files_of_an_unbroken_run(config, tmp_path):
    values = [
        "--config=configs/stage2.py:tiny",
        f"--config.data.root={config.root}",
        "--config.data.windows_per_clip=12",
        "--config.data.workers=1",
        "--per_shard=3",
    ]
    call = [sys.executable, "-m", "data_pipeline.cache_latents", *values]
    subprocess.run([*call, f"--output={tmp_path / 'whole'}"], check=True)
    output, rng, kills = tmp_path / "killed", random.Random(0), 0
    while kills < 10:
        seen = len(list(output.glob("*"))) if output.exists() else 0
        process = subprocess.Popen(
            [*call, f"--output={output}"],
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        while process.poll() is None and len(list(output.glob("*"))) <= seen:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.02))
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.wait()
        assert not (output / latents.DESCRIPTION).exists(), "too few records to kill"
    subprocess.run([*call, f"--output={output}"], check=True)
    assert digest(output) == digest(tmp_path / "whole")
