import pytest

from configs import sizes
from onetoall_jax import config
from onetoall_jax.models.settings import ModelConfig
from onetoall_jax.training import flops, stages


def model(size: str, **parts: bool) -> ModelConfig:
    return config.build(ModelConfig, sizes.model(size, **parts).to_dict())


def clip(frames: int, height: int, width: int, text: int) -> flops.Clip:
    grid = ((frames - 1) // 4 + 1, height // 16, width // 16)
    return flops.Clip(frames, height, width, grid, text)


def test_a_forward_pass_counts_what_the_released_network_was_counted_to_do():
    # Operations of the released classes, counted on shapes.
    sizes_ = {"1_3b": 0.672121e15, "14b": 3.537628e15}
    for size, want in sizes_.items():
        ops = flops.operations(model(size), clip(81, 576, 1024, 512), ())
        assert flops.total(ops) == pytest.approx(want, rel=1e-5)
        assert not any(op.backward for op in ops)


@pytest.mark.parametrize(
    ("size", "stage", "side", "want"),
    [
        ("1_3b", "stage1", 512, 88e12),
        ("1_3b", "stage2", 512, 117e12),
        ("1_3b", "stage2", 768, 420e12),
        ("14b", "stage1", 512, 620e12),
        ("14b", "stage2", 768, 2469e12),
    ],
)
def test_a_training_step_counts_only_the_gradients_it_needs(size, stage, side, want):
    sizes_ = model(size, pose=stage != "stage1")
    ops = flops.operations(sizes_, clip(29, side, side, 226), stages.patterns(stage))
    assert flops.total(ops) == pytest.approx(want, rel=6e-3)


def test_training_everything_costs_three_forward_passes_but_for_the_first_layers():
    ops = flops.operations(model("tiny", pose=False), clip(5, 96, 64, 8), ("",))
    forward = sum(op.forward for op in ops)
    first = [
        op.forward
        for op in ops
        if op.name.endswith(("patch_embedding", "text_embedding/in", "embedding/in"))
    ]
    assert flops.total(ops) == pytest.approx(3 * forward - sum(first), rel=1e-9)


def test_peaks_are_known_by_device_kind_and_a_cpu_has_none():
    assert flops.peak("NVIDIA H100 80GB HBM3") == 989.4
    assert flops.peak("TPU v5 lite") == 197.0
    assert flops.peak("TPU v5") == 459.0
    assert flops.peak("cpu") is None
