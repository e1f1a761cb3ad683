import dataclasses
import itertools
import zlib

import numpy as np
import pytest

from data_pipeline import builder, loader, synthetic
from data_pipeline.plan import Plan
from data_pipeline.settings import AugmentConfig, Resolution
from tests.data_pipeline.sets import GEOMETRY, settings, write_pool


def clips():
    """Videos of several lengths and shapes, pairs and single pictures."""
    for i in range(48):
        high = i % 3 != 1
        frames = (1, 9, 14, 9, 2, 14, 9, 14)[i % 8]
        made = synthetic.SyntheticConfig(
            height=48 if high else 32,
            width=32 if high else 48,
            num_frames=frames,
            canvas_side=0,
        )
        yield synthetic.make_clip(made, "train", i)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    root = tmp_path_factory.mktemp("set")
    builder.write(root / "data", {"train": clips()})
    return settings(
        root / "data",
        resolutions=(Resolution("tiny", image_share=0.2),),
        pose_pool=write_pool(root / "data", 4),
        augment=AugmentConfig(change_pose=0.7, zoom=0.3),
    )


def marks(config, count, **kwargs):
    """A number for every byte of a batch, and its rows."""
    made = []
    for b in itertools.islice(loader.build(config, GEOMETRY, **kwargs), count):
        crc = 0
        for name in sorted(b):
            crc = zlib.crc32(f"{name} {b[name].shape} {b[name].dtype}".encode(), crc)
            crc = zlib.crc32(np.ascontiguousarray(b[name]).data, crc)
        made.append((crc, b["row"].tolist()))
    return made


@pytest.fixture(scope="module")
def alone(config):
    return marks(config, 14)


@pytest.mark.parametrize(
    "steps", [(1, 6), pytest.param(range(13), marks=pytest.mark.slow)]
)
def test_a_start_at_any_step_goes_on_with_the_same_bytes(config, alone, steps):
    assert len({crc for crc, _ in alone}) == 14
    for step in steps:
        assert marks(config, 2, start_step=step) == alone[step : step + 2]


@pytest.mark.slow
@pytest.mark.parametrize("windows", ["any", "cached"])
def test_any_number_of_workers_gives_the_same_bytes(config, windows):
    config = dataclasses.replace(config, windows=windows)
    alone = marks(config, 14)
    for workers in (1, 2):
        several = dataclasses.replace(config, workers=workers)
        assert marks(several, 14) == alone
        assert marks(several, 9, start_step=5) == alone[5:]


@pytest.mark.parametrize("hosts", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_hosts_see_parts_of_an_epoch_that_share_no_row(config, hosts):
    steps = Plan(config, builder.Rows(config.root, "train").sizes)
    length = next(i for i in itertools.count() if steps[i].epoch == 1)
    parts = [marks(config, length, host=h, hosts=hosts) for h in range(hosts)]
    rows = [[row for _, part in p for row in part] for p in parts]
    epoch = sorted(row for i in range(length) for row in steps[i].rows.tolist())
    assert sorted(row for part in rows for row in part) == epoch
    assert len(set(epoch)) == len(epoch) > 20
    for a, b in itertools.combinations(rows, 2):
        assert not set(a) & set(b)


def test_two_hosts_go_on_where_four_stopped(config, alone):
    def together(parts):
        """Rows of every step in the order of the batch: host h holds h::n."""
        return [list(itertools.chain(*zip(*step, strict=True))) for step in parts]

    def rows(hosts, start, count):
        made = (
            [r for _, r in marks(config, count, host=h, hosts=hosts, start_step=start)]
            for h in range(hosts)
        )
        return together(zip(*made, strict=True))

    whole = [row for _, row in alone]
    assert rows(4, 0, 5) + rows(2, 5, 9) == whole


def test_a_seed_decides_everything(config, alone):
    other = marks(dataclasses.replace(config, seed=44), 3)
    assert not {crc for crc, _ in other} & {crc for crc, _ in alone}
