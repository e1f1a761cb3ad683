"""Stages on Apache Beam make the set of a run without it."""

import functools
import sys

import numpy as np
import pytest

from data_pipeline import builder, synthetic
from data_pipeline.importers import layouts
from data_pipeline.prepare import beam, run
from data_pipeline.prepare.screening import ScreenConfig
from data_pipeline.prepare.settings import PrepareConfig
from onetoall_jax.errors import UserError
from tests.data_pipeline.sets import digest, write_footage


def test_without_beam_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    with pytest.raises(UserError, match=r"pip install onetoall-jax\[beam\]"):
        beam.open_runner("")


@pytest.mark.slow
def test_beam_makes_the_same_set(tmp_path, monkeypatch):
    pytest.importorskip("apache_beam")
    source = tmp_path / "footage"
    write_footage(source, 96, 64, 12, 6)
    monkeypatch.setattr(run, "_SHARD", 1)  # a row a file, written side by side
    screen = ScreenConfig(sharpness=0, duplicate_bits=-1)
    settings = PrepareConfig(test_every=3, screen=screen)
    footage = layouts.read("folder", source)
    run.prepare(footage, tmp_path / "local", settings, run.local(0))
    stages, writing = beam.open_runner("--runner=DirectRunner")
    made = run.prepare(footage, tmp_path / "beam", settings, stages, writing)
    assert made.rows == 6
    local, both = (digest(tmp_path / out / "clips") for out in ("local", "beam"))
    assert sum("array_record" in name for name in both) == 6
    assert both == local
    assert len(builder.Rows(tmp_path / "beam", "test")) == 2


def some(first, count):
    config = synthetic.SyntheticConfig(16, 16, 2, canvas_side=0)
    clips = (synthetic.make_clip(config, "train", first + i) for i in range(count))
    return [builder.coded(clip) for clip in clips]


@pytest.mark.slow
def test_rows_of_many_files_are_found(tmp_path):
    """Twelve files of one, two and three rows: row i is the i-th that was made."""
    pytest.importorskip("apache_beam")
    counts = [1 + i % 3 for i in range(12)]
    starts = [sum(counts[:i]) for i in range(12)]
    shards = [
        functools.partial(some, s, n) for s, n in zip(starts, counts, strict=True)
    ]
    sizes = {"train": [(16, 16, 2, 8.0)] * sum(counts)}
    _, writing = beam.open_runner("--runner=DirectRunner")
    builder.write_shards(tmp_path / "set", {"train": shards}, sizes, writing)
    rows = builder.Rows(tmp_path / "set", "train")
    config = synthetic.SyntheticConfig(16, 16, 2, canvas_side=0)
    for i in range(sum(counts)):
        clip = synthetic.make_clip(config, "train", i)
        np.testing.assert_array_equal(rows.read(i, [0, 1]).frames, clip.frames)
