import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from data_pipeline import synthetic

ROOT = Path(__file__).resolve().parents[2]
SMALL = (
    "--config=configs/stage0.py:tiny",
    "--config.model.num_layers=2",
    "--config.model.mlp_dim=64",
    "--config.data.batch=8",
    "--config.data.num_frames=5",
    "--config.data.workers=1",
    "--config.training.log_every=10",
)


class Runs:
    """Starts of train.py on data and a cache of programs that all share."""

    def __init__(self, folder: Path):
        self._folder = folder
        synthetic.main([f"--output={folder / 'data'}", "--clips=40", "--test_clips=1"])

    def start(self, workdir: Path, *words: str, devices: int = 1) -> subprocess.Popen:
        return subprocess.Popen(
            [
                sys.executable, "train.py", *SMALL, f"--workdir={workdir}",
                f"--config.data.root={self._folder / 'data'}",
                f"--config.training.compilation_cache={self._folder / 'cache'}",
                *words,
            ],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env={
                **os.environ,
                "JAX_PLATFORMS": "cpu",
                # No optimising: it takes longest, and the steps are few and small.
                "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices} "
                "--xla_backend_optimization_level=0",
            },
            start_new_session=True,
        )  # fmt: skip


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    return Runs(tmp_path_factory.mktemp("runs"))


@pytest.fixture
def port():
    with socket.socket() as s:
        s.bind(("localhost", 0))
        return s.getsockname()[1]
