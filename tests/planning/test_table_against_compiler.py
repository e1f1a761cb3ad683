"""The table of operations against XLA's own count, which sees a loop's body once.

So the program is unrolled and its attention written out; it is lowered, never compiled.
"""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from configs import sizes
from onetoall_jax import config, trees
from onetoall_jax.models import onetoall
from onetoall_jax.models.attention import AttentionConfig
from onetoall_jax.models.settings import ModelConfig
from onetoall_jax.training import flops, stages

FRAMES, HEIGHT, WIDTH, TEXT = 13, 256, 256, 226


def unrolled_scan(body, carry, xs, length=None):
    count = length or len(jax.tree.leaves(xs)[0])
    outs = []
    for i in range(count):
        carry, y = body(carry, jax.tree.map(lambda a, i=i: a[i], xs))
        outs.append(y)
    return carry, jax.tree.map(lambda *ys: jnp.stack(ys), *outs)


def unrolled_map(fn, xs):
    return unrolled_scan(lambda c, x: (c, fn(x)), 0, xs)[1]


@pytest.fixture
def unrolled(monkeypatch):
    monkeypatch.setattr(jax.lax, "scan", unrolled_scan)
    monkeypatch.setattr(jax.lax, "map", unrolled_map)


def counted(cfg: ModelConfig, patterns: tuple[str, ...]) -> float:
    """XLA's count of forward and backward, on the program before optimisation."""
    form = AttentionConfig(kernel="plain")
    fns = onetoall.functions(cfg, dtype=jnp.bfloat16, attention=form)
    trained, frozen = trees.split(onetoall.abstract(cfg), patterns)
    f, h, w = (FRAMES - 1) // 4 + 1, HEIGHT // 8, WIDTH // 8

    def loss(trained, frozen, latents, time, text, reference, pose, reference_pose):
        params = trees.join(trained, frozen)
        given = fns.conditions(params, text, reference, pose, reference_pose)
        features = fns.reference_features(params, reference, time)
        out = fns.velocity(params, latents, time, given, features)
        return jnp.sum(jnp.square(out.astype(jnp.float32)))

    shapes = (
        (1, f, h, w, 16),
        (1,),
        (1, TEXT, cfg.text_dim),
        (1, 1, h, w, 32),
        (1, FRAMES, HEIGHT, WIDTH, 3),
        (1, 1, HEIGHT, WIDTH, 3),
    )
    args = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    lowered = jax.jit(jax.value_and_grad(loss)).lower(trained, frozen, *args)
    return lowered.cost_analysis()["flops"]


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_the_table_is_within_two_percent_of_xla_at_two_depths(unrolled, stage):
    whole = sizes.model("1_3b", pose=stage != "stage1").to_dict()
    patterns = stages.patterns(stage)
    clip = flops.Clip(
        FRAMES, HEIGHT, WIDTH, ((FRAMES - 1) // 4 + 1, HEIGHT // 16, WIDTH // 16), TEXT
    )
    ratios, sums = [], []
    for layers, reference in ((4, 1), (7, 3)):
        cfg = dataclasses.replace(
            config.build(ModelConfig, whole),
            num_layers=layers,
            reference_layers=reference,
        )
        table = flops.total(flops.operations(cfg, clip, patterns))
        xla = counted(cfg, patterns)
        ratios.append(table / xla)
        sums.append((table, xla))
        print(f"{stage}, {layers}+{reference} layers: table {table:.6g}, XLA {xla:.6g}")
    assert ratios == pytest.approx([1, 1], abs=0.02)
    more = [b - a for a, b in zip(*sums, strict=True)]
    assert more[0] / more[1] == pytest.approx(1, abs=0.02)
