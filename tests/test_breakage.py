"""The recorded cases catch mistakes: each one made on purpose turns its output red.

Every mistake is made in a copy of the sources and judged by the command-line tool, so
that what is tested is what a developer would see.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
MODELS = "onetoall_jax/models"


class Mistake(NamedTuple):
    """`old` in a file becomes `new`; `first_red` is the first output that differs."""

    what: str
    file: str
    old: str
    new: str
    case: str
    first_red: str


MISTAKES = (
    Mistake(
        "reference query rotated with its frame, too",
        f"{MODELS}/hrfa.py",
        "rope.rotate(q, start, time=False)",
        "rope.rotate(q, start)",
        "dit_token_replace",
        "block0",
    ),
    Mistake(
        "reference keys not rotated",
        f"{MODELS}/hrfa.py",
        "still.rotate(rk)",
        "rk",
        "dit_token_replace",
        "block0",
    ),
    Mistake(
        "feature interval by floor",
        f"{MODELS}/settings.py",
        "per_feature = -(-self.num_layers // (self.reference_layers + 1))",
        "per_feature = max(1, self.num_layers // (self.reference_layers + 1))",
        "dit_stage1_h2_unused_feature",
        "out",
    ),
    Mistake(
        "pose tokens added to the embedding",
        f"{MODELS}/denoiser.py",
        "else first + given.pose_tokens",
        "else stream.x + given.pose_tokens",
        "dit_token_replace",
        "out",
    ),
    Mistake(
        "pose scale ignored",
        f"{MODELS}/denoiser.py",
        "x = x + scale[:, None, None] * residual",
        "x = x + residual",
        "dit_all_dropped",
        "out",
    ),
    Mistake(
        "prefix frame last",
        f"{MODELS}/denoiser.py",
        "z = jnp.concatenate([given.prefix.astype(self.dtype), z], axis=1)",
        "z = jnp.concatenate([z, given.prefix.astype(self.dtype)], axis=1)",
        "dit_token_replace",
        "block0",
    ),
    Mistake(
        "token replace from frame 0",
        f"{MODELS}/denoiser.py",
        "first = 1 if self.cfg.pose_layers else 0",
        "first = 0 if self.cfg.pose_layers else 0",
        "dit_token_replace",
        "block0",
    ),
    Mistake(
        "exact GELU in the feed-forward",
        f"{MODELS}/layers.py",
        "approximate=True",
        "approximate=False",
        "dit_token_replace",
        "ref_feature_1",
    ),
    Mistake(
        "time embedding as sines, then cosines",
        f"{MODELS}/layers.py",
        "[jnp.cos(angle), jnp.sin(angle)]",
        "[jnp.sin(angle), jnp.cos(angle)]",
        "dit_wan_h2",
        "block0",
    ),
    Mistake(
        "RoPE turns halves, not neighbours",
        f"{MODELS}/rope.py",
        '"... (k two) -> ... k two"',
        '"... (two k) -> ... k two"',
        "dit_wan_h2",
        "block0",
    ),
    Mistake(
        "RMS norm of each head alone",
        f"{MODELS}/hrfa.py",
        "q = heads(self.query_norm(self.query(x)), self.cfg)",
        "y = self.query(x)\n"
        "        n, h = self.query_norm(y), heads(y, self.cfg)\n"
        "        s = jnp.mean(y * y, -1, keepdims=True)[..., None]\n"
        "        q = heads(n, self.cfg)\n"
        "        q = q * jnp.sqrt(s / jnp.mean(h * h, -1, keepdims=True))",
        "dit_wan_h2",
        "block0",
    ),
    Mistake(
        "pose convolutions see the future",
        f"{MODELS}/pose_resnet.py",
        "((0, 0), (before, 0), (1, 1), (0, 0), (0, 0))",
        "((0, 0), (0, before), (1, 1), (0, 0), (0, 0))",
        "pose_resnet_5f",
        "down1",
    ),
    Mistake(
        "latents multiplied by their deviation",
        f"{MODELS}/vae.py",
        "return (mean - shift) / scale",
        "return (mean - shift) * scale",
        "vae_small_scale",
        "latents",
    ),
)


def verify(root: Path, case: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "tools/verify_parity.py", str(ROOT / "tests/golden" / case)],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda m: m.what)
def test_a_mistake_turns_its_output_red(tmp_path, mistake):
    for room in ("onetoall_jax", "tools"):
        shutil.copytree(ROOT / room, tmp_path / room)
    path = tmp_path / mistake.file
    text = path.read_text()
    assert text.count(mistake.old) == 1, "the line to spoil is not there any more"
    path.write_text(text.replace(mistake.old, mistake.new))
    done = verify(tmp_path, mistake.case)
    assert done.returncode == 1, done.stdout + done.stderr
    red = [line for line in done.stdout.splitlines() if re.search(r"\bRED\b", line)]
    print(mistake.what, "->", red[0].strip())
    assert mistake.first_red in red[0]
