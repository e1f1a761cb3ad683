"""Nine framings by four bodies: what is chosen, and that the result fits."""

from pathlib import Path

import numpy as np
import pytest
from bodies import BODIES, FRAMINGS, SIZE, keypoints

from onetoall_jax.alignment import align, inside, limbs
from onetoall_jax.alignment.align import AlignConfig
from onetoall_jax.alignment.person import DRAWN, from_keypoints
from onetoall_jax.alignment.retarget import RetargetConfig

DOCS = Path(__file__).resolve().parents[2] / "docs" / "alignment.md"
TIMES = np.arange(0, 3, 0.5)


def table() -> dict[tuple[str, str], str]:
    """(reference, driving clip) -> mode, as the page says."""
    rows = {}
    for line in DOCS.read_text().splitlines():
        cells = [cell.strip(" `") for cell in line.strip("|").split("|")]
        if len(cells) == 4 and cells[0] in FRAMINGS:
            rows |= dict(zip(((cells[0], f) for f in FRAMINGS), cells[1:], strict=True))
    return rows


PAIRS = [(b, r, d) for b in BODIES for r in FRAMINGS for d in FRAMINGS]


def aligned(body, reference, driving, config=AlignConfig()):  # noqa: B008
    clip = [keypoints("average", driving, t) for t in TIMES]
    return align.align(keypoints(body, reference), SIZE, clip, SIZE, config)


@pytest.mark.parametrize(("body", "reference", "driving"), PAIRS)
def test_auto_chooses_by_the_table_and_the_result_fits(body, reference, driving):
    made = aligned(body, reference, driving)
    assert made.mode == table()[reference, driving]
    own = from_keypoints(keypoints(body, reference), *SIZE)
    before = [from_keypoints(keypoints("average", driving, t), *SIZE) for t in TIMES]
    said = " ".join(made.warnings)
    for was, now in zip(before, made.driving, strict=True):
        for name, ratio in limbs.unlike(own, now, SIZE, 0.03).items():
            assert name in said, f"{name} {ratio:.3f}"
        shown = limbs.inside(was.body[:DRAWN])
        at = now.body[:DRAWN][shown, :2]
        assert ((at >= 0) & (at <= 1)).all()


def test_the_released_slips_are_seen_and_named():
    config = AlignConfig("driving-retarget", retarget=RetargetConfig())
    made = aligned("lanky", "whole", "whole", config)
    assert any("upper arm comes out" in warning for warning in made.warnings)
    mended = aligned("lanky", "whole", "whole").warnings
    assert not any("comes out" in warning for warning in mended)


def test_a_limit_keeps_a_misplaced_joint_from_stretching_a_limb():
    wrong = keypoints("average", "whole")
    wrong[[9, 10], :2] += (0, 60)  # both wrists far down
    clip = [keypoints("average", "whole", t) for t in TIMES]
    lengths = {}
    for limit in (0.0, 1.5):
        config = AlignConfig("reference-retarget", retarget=RetargetConfig(limit=limit))
        made = align.align(wrong, SIZE, clip, SIZE, config)
        own = from_keypoints(keypoints("average", "whole"), *SIZE)
        made_of = limbs.ratios(own, made.driving[0], SIZE)
        lengths[limit] = made_of[3, 4] / made_of[2, 3]
        if limit:
            assert any("forearm" in warning for warning in made.warnings)
    assert lengths[0.0] > 2 > 1.55 > lengths[1.5]


def test_a_clip_is_moved_as_one_and_no_more_than_needed():
    people = [from_keypoints(keypoints("average", "whole", t), *SIZE) for t in TIMES]
    assert inside.keep(people, people) is None
    up = inside.Shift(1.0, np.array([0.0, -0.4]), ())
    gone = [up.person(p) for p in people]
    shift = inside.keep(people, gone)
    assert shift is not None and shift.scale == 1 and "nose" in shift.joints
    back = np.stack([shift.person(p).body[:DRAWN, :2] for p in gone])
    assert back[..., 1].min() == pytest.approx(0.005)
    np.testing.assert_allclose(shift.by[0], 0)


def test_a_clip_larger_than_the_frame_is_made_smaller():
    people = [from_keypoints(keypoints("average", "whole", t), *SIZE) for t in TIMES]
    double = inside.Shift(2.0, np.array([-0.5, -0.5]), ())
    shift = inside.keep(people, [double.person(p) for p in people])
    assert shift is not None and 0.4 < shift.scale < 1
