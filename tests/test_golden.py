"""Every recorded case of the released code against ours."""

import json
from pathlib import Path

import jax
import pytest

from onetoall_jax.errors import UserError
from tools import verify_parity

GOLDEN = Path(__file__).parent / "golden"
CASES = sorted(p.parent for p in GOLDEN.glob("*/case.json"))
TABLES = sorted(GOLDEN.glob("*.json"))
# Cases that need their own minute of compilation and whose ground another case covers.
LONG = {
    "sampler_e2e_three_segments",
    "sampler_image_joint",
    "sampler_video_case1",
    "sampler_video_equal",
    "sampler_video_noguidance",
    "sampler_video_release",
    "train_loss_stage2",
    "vae_17f",
    "vae_1f",
    "vae_5f",
}
FLOAT32 = [
    pytest.param(p, id=p.stem, marks=[pytest.mark.slow] if p.stem in LONG else [])
    for p in CASES + TABLES
]
WITH_BFLOAT16 = [
    p for p in CASES if json.loads((p / "case.json").read_text()).get("bf16_diff")
]


@pytest.fixture(autouse=True)
def exact_products():
    with jax.default_matmul_precision("highest"):
        yield


def assert_within(path, dtype):
    rows = list(verify_parity.verify(path, dtype))
    assert rows
    red = [f"{r.name} {r.errors} <= {r.allowed}" for r in rows if not r.passed]
    assert not red, "\n".join(red)


@pytest.mark.parametrize("path", FLOAT32)
def test_case_in_float32(path):
    assert_within(path, "float32")


@pytest.mark.slow
@pytest.mark.parametrize("path", WITH_BFLOAT16, ids=lambda p: p.stem)
def test_case_in_bfloat16(path):
    assert_within(path, "bfloat16")


def test_a_tolerance_above_the_ceiling_is_refused(tmp_path):
    case = json.loads((GOLDEN / "pose_resnet_1f" / "case.json").read_text())
    case["tolerance"]["tokens"]["rel_l2"] = 0.5
    case["weights"] = str(GOLDEN / "dit_video_ref_pose" / "weights.safetensors")
    (tmp_path / "case.json").write_text(json.dumps(case))
    for name in ("inputs", "outputs"):
        source = GOLDEN / "pose_resnet_1f" / f"{name}.safetensors"
        (tmp_path / f"{name}.safetensors").write_bytes(source.read_bytes())
    with pytest.raises(UserError, match="above the ceiling"):
        list(verify_parity.verify(tmp_path))


def test_an_unknown_kind_is_named(tmp_path):
    (tmp_path / "case.json").write_text('{"kind": "telepathy"}')
    with pytest.raises(UserError, match="'telepathy'"):
        list(verify_parity.verify(tmp_path))
