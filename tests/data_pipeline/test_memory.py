"""Memory of the training process and of its loader processes stays where it is."""

import dataclasses
import multiprocessing
import os
from pathlib import Path

import numpy as np
import pytest

from data_pipeline import builder, cache_latents, loader, synthetic
from data_pipeline.settings import AugmentConfig, Resolution
from tests.data_pipeline.sets import Corners, settings

ALLOWED_MB = 8  # above the mean of the second fifth of a run


def resident_mb():
    """Of this process and of every child."""
    pids = [os.getpid(), *(c.pid for c in multiprocessing.active_children())]
    made = {}
    for pid in pids:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        (line,) = (line for line in lines if line.startswith("VmRSS"))
        made[pid] = int(line.split()[1]) / 1024
    return made


@pytest.mark.slow
@pytest.mark.parametrize(("stored", "batches"), [(True, 5000), (False, 500)])
def test_memory_stays_flat(tmp_path, stored, batches):
    made = synthetic.SyntheticConfig(num_frames=16, canvas_side=0 if stored else 256)
    builder.write(tmp_path / "data", {"train": synthetic.clips(made, "train", 24, 1)})
    config = settings(
        tmp_path / "data",
        resolutions=(Resolution("tiny", image_share=0.1),),
        batch=2,
        windows="cached",
        augment=AugmentConfig(zoom=0.1),
    )
    if stored:
        cache_latents.write(config, Corners(), tmp_path / "latents")
        config = dataclasses.replace(config, latents=str(tmp_path / "latents"))
    config = dataclasses.replace(config, workers=2)
    seen = []
    for i, _ in enumerate(loader.build(config, Corners.geometry)):
        if i == batches:
            break
        if i % (batches // 50) == 0:
            seen.append(resident_mb())
    assert len(seen[-1]) >= 3  # two workers beside this process
    for pid in seen[-1]:
        sizes = np.array([s[pid] for s in seen if pid in s])
        early, late = sizes[10:20].mean(), sizes[-10:].mean()
        print(f"process {pid}: {early:.1f} MB early, {late:.1f} MB late")
        assert late < early + ALLOWED_MB, (pid, early, late)
