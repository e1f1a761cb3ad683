"""Tables of passes against the formulas they stand for."""

import dataclasses

import numpy as np
import pytest

from onetoall_jax.errors import UserError
from onetoall_jax.sampling import guidance
from onetoall_jax.sampling.settings import SamplingConfig

# Velocities of the passes that the formulas name.
V = {"c": 3.0, "u": -1.0, "p": 0.5, "r": 2.0, "u'": 7.0}
NAMES = {
    ("real", "prompt", "real", 1.0): "c",
    ("black", "negative", "blank", 0.0): "u",
    ("black", "prompt", "real", 1.0): "p",
    ("real", "prompt", "blank", 1.0): "r",
    ("black", "negative", "real", 1.0): "u'",
}
c, u, p, r, v = V["c"], V["u"], V["p"], V["r"], V["u'"]
CASES = {
    "none": ((1.0, 3.0, False, True), c, "c"),
    "split_case2": ((2.5, 1.5, False, True), u + 1.5 * (p - u) + 2.5 * (c - p), "cup"),
    "split_case1": ((2.5, 1.5, True, True), u + 2.5 * (r - u) + 1.5 * (c - r), "cur"),
    "joint": ((1.5, 0.5, False, False), u + 1.5 * (c - u), "cu"),
    "joint without pose": ((2.0, 0.0, False, True), u + 2.0 * (c - u), "cu"),
    "image_only": ((2.0, 0.0, False, False), v + 2.0 * (c - v), "cv"),
    "equal": ((2.0, 2.0, False, True), u + 2.0 * (c - u), "cu"),
    "equal, case 1": ((2.0, 2.0, True, True), u + 2.0 * (c - u), "cu"),
}


def config_of(image, pose, case1, black_pose):
    return SamplingConfig(
        image_guidance=image, pose_guidance=pose, case1=case1, black_pose=black_pose
    )


@pytest.mark.parametrize("name", CASES)
def test_a_table_is_its_formula(name):
    scales, expected, letters = CASES[name]
    rows = guidance.table(config_of(*scales))
    names = [NAMES[row.reference, row.text, row.pose, row.pose_scale] for row in rows]
    assert "".join(names).replace("u'", "v") == letters
    total = sum(row.weight * V[n] for row, n in zip(rows, names, strict=True))
    assert total == pytest.approx(expected)
    assert sum(row.weight for row in rows) == pytest.approx(1)


def test_weights_sum_to_one_for_any_scales():
    rng = np.random.default_rng(1)
    for image, pose in rng.uniform(0, 4, (50, 2)):
        for case1 in (False, True):
            rows = guidance.table(config_of(image, pose, case1, True))
            assert sum(row.weight for row in rows) == pytest.approx(1)
            assert 1 <= len(rows) <= 3


def test_the_pose_scale_reaches_every_pass_but_the_empty_one():
    rows = guidance.table(SamplingConfig(pose_scale=0.7))
    scales = {dataclasses.astuple(row)[:3]: row.pose_scale for row in rows}
    assert scales[("black", "negative", "blank")] == 0
    assert scales[("real", "prompt", "real")] == 0.7
    assert scales[("black", "prompt", "real")] == 0.7


@pytest.mark.parametrize(
    ("passes", "clips", "devices", "pass_bytes", "free", "expected"),
    [
        (1, 1, 8, 1, None, False),  # nothing to join
        (3, 1, 1, 1e9, 40e9, False),  # large passes gain nothing
        (3, 1, 1, 1e8, 40e9, True),  # small ones start fewer kernels
        (3, 1, 1, 1e8, None, False),  # a CPU has no such cost
        (2, 1, 2, 30e9, 40e9, True),  # each device makes one pass
        (3, 1, 2, 30e9, 40e9, False),  # one would have to hold two
        (3, 8, 8, 30e9, 400e9, False),  # all devices have clips of their own
    ],
)
def test_passes_share_a_batch_where_devices_or_kernels_would_be_idle(
    passes, clips, devices, pass_bytes, free, expected
):
    given = passes, clips, devices, pass_bytes, free
    assert guidance.together("auto", *given) is expected
    assert guidance.together("batched", *given) is True
    assert guidance.together("sequential", *given) is False


def test_another_way_to_make_passes_is_refused():
    with pytest.raises(UserError, match="'parallel'"):
        guidance.together("parallel", 3, 1, 1, 1, None)
