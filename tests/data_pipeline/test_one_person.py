"""Synthetic clips of one person: the same body and clothes, all else as ever."""

import numpy as np
import pytest

from data_pipeline import figure, synthetic


@pytest.fixture
def drawn(monkeypatch):
    """Function of settings: (people, first joints, corners of the pictures)."""

    def made(**settings):
        seen = []

        def render(behind, who, at):
            seen.append((who, at.wrists.tolist(), behind[0, 0].tolist()))
            return behind

        monkeypatch.setattr(figure, "render", render)
        config = synthetic.SyntheticConfig(num_frames=1, canvas_side=0, **settings)
        for split in ("train", "test"):
            for i in range(4):
                synthetic.make_clip(config, split, i)
        return [list(part) for part in zip(*seen, strict=True)]

    return made


def test_one_person_moves_differently_before_other_backgrounds(drawn):
    people, wrists, walls = drawn(character=7)
    assert len(set(people)) == 1
    assert len(np.unique(wrists, axis=0)) == len(np.unique(walls, axis=0)) == 8
    assert drawn(character=8)[0][0] != people[0]
    # The person alone is exchanged: neither motion nor background is drawn anew.
    anybody, _, same_walls = drawn()
    assert len(set(anybody)) == 8 and people[0] not in anybody
    assert same_walls == walls
