import json

import numpy as np
import pytest

from configs import stage2
from onetoall_jax.pipelines import settings as run_settings
from onetoall_jax.planning import growth, plan, search, table, topology
from onetoall_jax.planning.work import Size
from tools import plan as tool


def asked(batch: int) -> plan.Request:
    settings = run_settings.build(stage2.get_config("1_3b").to_dict())
    size = Size(29, 512, 512)
    where = topology.parse("v5p:2x2x1")
    return plan.Request("configs/stage2.py:1_3b", settings, where, batch, size)


def test_a_search_ranks_what_fits_by_time_and_only_meshes_that_the_batch_allows():
    plans = search.ranked(asked(2))
    assert {tuple(p.mesh.values()) for p in plans} == {
        (1, 1, 2, 2), (1, 1, 4, 1), (1, 1, 1, 4),
        (1, 2, 1, 2), (1, 2, 2, 1), (2, 1, 1, 2), (2, 1, 2, 1),
    }  # fmt: skip
    assert {p.request.settings.training.remat for p in plans} == {
        "none", "block", "attention", "offload",
    }  # fmt: skip
    fitting = [p for p in plans if p.used <= 0.9 * p.limit]
    assert plans[: len(fitting)] == fitting
    times = [round(p.time.step, 2) for p in fitting]
    assert times == sorted(times)
    best = search.recommended(plans)
    assert best is plans[0]
    assert best.request.changes["mesh.fsdp"] == best.mesh["fsdp"]


def test_a_request_comes_back_from_its_record(tmp_path):
    case = table.CASES[0]
    request = table.request(case.asked(), tool._load)
    assert request.to_dict() == json.loads(json.dumps(case.asked()))
    assert table.missing(tmp_path) == list(table.CASES)
    assert any(word.startswith("--config.data.latents") for word in case.words())


def test_compiled_cases_cover_sizes_programs_and_chips():
    chips = {case.topology.partition(":")[0] for case in table.CASES}
    assert chips == {"v4", "v5e", "v5p", "v6e"} and len(table.CASES) >= 12
    assert {case.config.rpartition(":")[2] for case in table.CASES} == {"1_3b", "14b"}
    assert {case.sampler for case in table.CASES} == {True, False}
    counts = [topology.parse(case.topology).devices for case in table.CASES]
    assert min(counts) == 1 and {8, 64, 256} <= set(counts)


def test_the_recipe_costs_what_the_published_rates_say():
    # Seconds of one clip, block remat, latents stored: H100 and v5p, 29x768x768.
    for size, chip, want in (("1_3b", "h100", 1.21), ("14b", "v5p", 16.2)):
        made = table._seconds(tool._load, size, 2, Size(29, 768, 768), chip)
        assert made == pytest.approx(want, rel=0.03)


def test_a_diagram_has_its_lines_where_the_numbers_are():
    line = {"a": [(1, 1.0), (10, 10.0), (100, 100.0)]}
    panel = growth.Panel("t", "x", "y", line, {})
    picture = growth.draw([panel]).astype(int)
    assert picture.shape == (420, 1240, 3)
    blue = np.argwhere(np.abs(picture - (31, 95, 168)).sum(-1) < 10)
    inside = blue[(blue[:, 0] > 60)]
    # From the lower left corner of the diagram to the upper right one.
    assert abs(inside[:, 0].max() - 350) < 6 and abs(inside[:, 0].min() - 70) < 6
    middle = inside[np.abs(inside[:, 1] - 310) < 3]
    assert abs(middle[:, 0].mean() - 210) < 6
