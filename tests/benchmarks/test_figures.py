"""Benchmarks at tiny sizes: what is printed is stored, and its parts agree."""

import argparse
import json

import pytest

from benchmarks import attention, block, checkpoint, rates, report, step, vae
from benchmarks.rates import Rates, Shape
from configs import sizes
from onetoall_jax import config
from onetoall_jax.errors import UserError
from onetoall_jax.models.settings import ModelConfig
from onetoall_jax.planning.work import Size
from onetoall_jax.training import flops, stages


def published(main, capsys, tmp_path, *words):
    """(stored figures, printed cells of every row), after checks that they agree."""
    out = tmp_path / "made.json"
    main([*words, "--rounds=2", f"--out={out}", f"--trace={tmp_path / 'trace'}"])
    made = json.loads(out.read_text())
    lines = [x for x in capsys.readouterr().out.splitlines() if x.startswith("|")]
    heads, *cells = ([c.strip() for c in x.strip("|").split("|")] for x in lines)
    assert len(cells) == 1 + len(made["rows"])  # the rule below the headings
    by_name = {heading: (key, form) for heading, key, form in report.COLUMNS}
    for row, printed in zip(made["rows"], cells[1:], strict=True):
        for heading, cell in zip(heads, printed, strict=True):
            key, form = by_name[heading]
            assert cell == (format(row[key], form) if key in row else "")
        if "work" in row:
            total = sum(row["work"].values())
            assert row["tflop"] == total / 1e12
            assert row["tflops_per_s"] == pytest.approx(total / row["seconds"] / 1e12)
        assert row["p10"] <= row["seconds"] <= row["p90"] and row["n"] == 2
    assert list((tmp_path / "trace").rglob("*.xplane.pb"))
    return made["rows"]


def test_attention_prints_what_it_stores(capsys, tmp_path):
    words = ("--shapes", "1x64x2x32", "--dtype=float32")
    forward, gradient = published(attention.main, capsys, tmp_path, *words)
    assert forward["work"] == {"attention": 4.0 * 64 * 64 * 2 * 32}
    assert gradient["work"] == {"attention": 3 * forward["work"]["attention"]}
    best = rates.matmul("float32", 2)
    want = 1e14 * forward["tflops_per_s"] / best
    assert forward["percent_of_matmul"] == pytest.approx(want)
    assert forward["program_gib"] > 4 * 64 * 2 * 32 * 4 / report.GIB


def test_work_at_the_own_rates_is_all_that_can_be_had():
    best = Rates(matmul=10.0, attention=4.0, with_gradient=2.0)
    work = {"matmul": 30.0, "convolution": 10.0, "attention": 8.0}
    assert best.seconds(work, gradient=False) == 4 + 2
    assert best.seconds(work, gradient=True) == 4 + 4
    ideal = best.seconds(work, gradient=True)
    row = report.row("", "", [ideal] * 3, work=work, matmul=10.0, ideal=ideal, clips=2)
    assert row["percent_of_rates"] == 100 and row["percent_of_matmul"] == 60
    assert row["seconds_a_clip"] == 4
    assert "percent_of_peak" not in row  # a CPU's is unknown


@pytest.mark.parametrize("trained", [(), stages.patterns("stage2")])
def test_a_block_costs_what_one_more_block_adds_to_the_network(trained):
    cfg = config.build(ModelConfig, sizes.model("1_3b").to_dict())
    more = config.build(ModelConfig, sizes.model("1_3b").to_dict() | {"num_layers": 31})
    clip = flops.Clip(29, 512, 512, (8, 32, 32), block.TEXT)
    totals = [flops.total(flops.operations(c, clip, trained)) for c in (cfg, more)]
    memory = 2 * 2.0 * block.TEXT * cfg.dim**2  # keys and values of the prompt
    made = sum(block.operations(cfg, (9, 32, 32), trained).values())
    assert made == pytest.approx(totals[1] - totals[0] - memory, rel=1e-9)


def test_the_largest_batch_is_what_the_memory_of_two_steps_tells():
    class Run:
        shards = 2

        def program(self, size, clips):
            return argparse.Namespace(bytes=100 + 10 * clips)

    size = Size(29, 512, 512)
    assert [step.largest(Run(), size, n) for n in (120, 139, 140, 205)] == [2, 2, 4, 10]
    with pytest.raises(UserError, match="A step of one clip of 29x512x512"):
        step.largest(Run(), size, 119)


def test_a_shape_reads_as_it_is_written():
    assert str(Shape.parse("1x50688x40x128")) == "1x50688x40x128"
    with pytest.raises(ValueError):
        Shape.parse("1x2")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("main", "words", "rows"),
    [
        (block.main, ("--size=tiny", "--grids", "3x3x2", "--dtype=float32"), 2),
        (vae.main, ("--sizes", "1x16x16", "--base_dim=8", "--dtype=float32"), 2),
    ],
    ids=["block", "vae"],
)
def test_every_benchmark_prints_what_it_stores(main, words, rows, capsys, tmp_path):
    assert len(published(main, capsys, tmp_path, *words)) == rows


@pytest.mark.slow
def test_steps_and_checkpoints_print_what_they_store(capsys, tmp_path):
    small = (
        "--config=configs/stage0.py:tiny",
        "--config.model.num_layers=1",
        "--config.model.mlp_dim=64",
    )
    words = (*small, "--sizes", "5x16x16", "--batches", "1", "2")
    one, two = published(step.main, capsys, tmp_path, *words)
    assert "8 clips" in one["name"] and "16 clips" in two["name"]  # of 8 devices
    assert two["tflop"] == pytest.approx(2 * one["tflop"])
    assert two["seconds_a_clip"] == two["seconds"] / 16
    saved = published(
        checkpoint.main, capsys, tmp_path, *small, "--size=5x16x16",
        f"--folder={tmp_path}",
    )  # fmt: skip
    assert [row["name"].split(",")[0] for row in saved[:3]] == [
        "save",
        "save",
        "restore",
    ]
    assert saved[0]["seconds"] <= saved[1]["seconds"]
    assert saved[1]["gb_per_s"] == pytest.approx(
        float(saved[1]["shape"].split()[0]) * report.GIB / saved[1]["seconds"] / 1e9,
        rel=0.05,
    )
