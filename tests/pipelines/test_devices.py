"""One clip over several devices."""

import numpy as np
import pytest

from onetoall_jax.errors import UserError
from onetoall_jax.pipelines import animator, devices
from onetoall_jax.sampling.settings import SamplingConfig


@pytest.mark.parametrize(
    ("count", "passes", "expected"),
    [
        (8, 1, (1, 8)),
        (8, 2, (2, 4)),
        (8, 3, (1, 8)),  # three passes would leave a device of four idle
        (6, 3, (3, 2)),
        (4, 3, (1, 4)),
        (2, 2, (2, 1)),
        (3, 2, (1, 3)),
    ],
)
def test_devices_are_divided_without_leaving_one_idle(count, passes, expected):
    split = devices.shares(count, passes)
    assert (split.fsdp, split.context) == expected
    assert (split.data, split.tensor) == (1, 1)


def test_more_devices_than_there_are_is_refused():
    with pytest.raises(UserError, match="there are 8 devices"):
        devices.mesh_of(SamplingConfig(devices=9))
    assert devices.mesh_of(SamplingConfig()) is None


@pytest.mark.slow
def test_the_shipped_model_draws_the_same_over_eight_devices():
    """Two passes by four shares of the tokens, parameters in eight shards."""
    rng = np.random.default_rng(0)

    def picture(*shape):
        return rng.integers(0, 256, (*shape, 64, 64, 3), np.uint8)

    batch = {
        "reference_u8": picture(1),
        "reference_mask_u8": np.zeros((1, 64, 64), np.uint8),
        "reference_pose_u8": picture(1),
        "pose_u8": picture(1, 9),
    }
    drawn = {}
    for count in (1, 8):
        changes = {
            "steps": 2, "image_guidance": 2.0, "pose_guidance": 2.0, "devices": count
        }  # fmt: skip
        made = animator.load(overrides=changes)
        drawn[count] = animator.sample_batch(made, batch).astype(int)
        with pytest.raises(UserError, match="give them to `load`"):
            made.changed({"devices": 3})
    off = np.abs(drawn[8] - drawn[1])
    assert off.max() <= 1 and (off > 0).mean() < 1e-2
    assert drawn[1].std() > 5
