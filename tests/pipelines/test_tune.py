import math

import pytest

from onetoall_jax.errors import UserError
from onetoall_jax.models.attention import AttentionConfig, Blocks, Tuned
from onetoall_jax.pipelines import tune

SHAPE = tune.Shape(tokens=4096, keys=2048)


def cost(blocks):
    """Fastest at 1024 queries and 2048 keys forward, at 512 and 1024 backward."""
    if blocks.query == 4096:
        return math.inf  # too large for the device
    forward = abs(blocks.query - 1024) + abs(blocks.keys - 2048) + blocks.keys_compute
    backward = abs(blocks.query_backward - 512) + abs(blocks.keys_backward - 1024)
    return 1 + (forward + backward + blocks.keys_backward_compute) / 1e4


def test_the_fastest_blocks_are_found_forward_first():
    found, tried = tune.tune("splash", SHAPE, cost)
    assert found == Tuned(
        "splash", 4096, 2048, 128, Blocks(1024, 2048, 512, 512, 1024, 512)
    )
    assert max(b.keys for b, _ in tried) == 2048  # no longer than the keys
    assert len(tried) < 120 and tried[0][0] == Blocks()


def test_a_kernel_without_blocks_and_one_that_never_runs_are_said():
    with pytest.raises(UserError, match="'cudnn' has no blocks"):
        tune.tune("cudnn", SHAPE, cost)
    with pytest.raises(UserError, match="No blocks of 'chunked' ran"):
        tune.tune("chunked", SHAPE, lambda blocks: math.inf)


def test_winners_are_kept_by_device_and_shape(tmp_path):
    path = tmp_path / "tuned.json"
    old, new, other = (
        Tuned("splash", t, 2048, 128, Blocks(query=q))
        for t, q in ((4096, 256), (4096, 512), (1024, 256))
    )
    for device, row in (("v5p", old), ("v5p", other), ("v5p", new), ("v6e", old)):
        tune.keep(path, device, row)
    form = AttentionConfig(tuned_from=str(path))
    assert tune.taken_in(form, "v5p").tuned == (other, new)
    assert tune.taken_in(form, "v6e").blocks_for("splash", 4096, 2048, 128).query == 256
    assert tune.taken_in(form, "cpu").tuned == ()
    assert tune.taken_in(AttentionConfig(), "v5p") == AttentionConfig()
    with pytest.raises(UserError, match="nowhere.json, does not exist: make it with"):
        tune.taken_in(AttentionConfig(tuned_from="nowhere.json"), "v5p")


def test_real_blocks_are_timed_and_impossible_ones_are_not_chosen():
    shape = tune.Shape(48, 48, heads=1, head_dim=8, dtype="float32")
    found, tried = tune.tune(
        "chunked", shape, tune.measure("chunked", shape, backward=False), sizes=(16, 48)
    )
    assert len(tried) == 3 and all(0 < took < math.inf for _, took in tried)
    assert found.blocks in [blocks for blocks, _ in tried]
    broken = tune.measure("splash", tune.Shape(128, 128, heads=1))
    assert broken(Blocks(query=100)) == math.inf
