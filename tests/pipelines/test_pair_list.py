"""Lists of pairs: what is read, shared, skipped and told at the end."""

import pytest

from onetoall_jax.errors import UserError
from onetoall_jax.pipelines import pairs
from onetoall_jax.pipelines.preparing import PrepareConfig

LIST = """reference,driving,name,seed,options
me.png,a.mp4,one,7,steps=2; fps=16
me.png,b.mp4,,,seed=9
"/abs/you.png",c.mp4,three,,alignment.mode=driving; person=1
"""


def written(folder, text=LIST):
    (folder / "pairs.csv").write_text(text)
    return folder / "pairs.csv"


def test_rows_are_read(tmp_path):
    one, two, three = pairs.read(written(tmp_path))
    assert one.name == "one" and one.seed == 7 and two.seed is None
    assert two.name == "0001_me_b"
    assert one.files == {
        "reference": tmp_path / "me.png",
        "driving": tmp_path / "a.mp4",
    }
    assert str(three.files["reference"]) == "/abs/you.png"


def test_options_are_settings():
    preparing, sampling = pairs.options(
        "steps=2; fps=16; alignment.mode=driving; person=1", PrepareConfig()
    )
    assert sampling == {"steps": 2} and preparing.fps == "16"
    assert preparing.alignment.mode == "driving" and preparing.person == "1"
    for text, message in (
        ("fpz=3", "did you mean 'fps'"),
        ("fps", "has no value"),
        ("num_frames=two", "must be int"),
        ("fps.x=3", "no setting 'fps.x'"),
    ):
        with pytest.raises(UserError, match=message):
            pairs.options(text, PrepareConfig())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("reference,driver\na,b\n", "lacks the column driving"),
        ("reference,driving,sead\na,b,1\n", "did you mean 'seed'"),
        ("reference,driving\na,\n", "row 1 has no driving"),
        ("reference,driving,seed\na,b,x\n", "seed 'x' is no number"),
        ("reference,driving,name\na,b,../c\n", "no name of a folder"),
        ("reference,driving,name\na,b,c\nd,e,c\n", "names c twice"),
        ("reference,driving\na,b,c\n", "more cells"),
    ],
)
def test_a_list_that_cannot_be_meant_is_one_sentence(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        pairs.read(written(tmp_path, text))


def test_a_missing_list_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="no list of pairs"):
        pairs.read(tmp_path / "none.csv")


def drawing(bad=()):
    """A stand-in for `animate` and the calls that it got."""
    calls = []

    def draw(out, **given):
        calls.append((out.name, given))
        if out.name in bad:
            raise bad[out.name]
        out.mkdir(parents=True)
        (out / "report.json").write_text("{}")

    return draw, calls


def test_failures_are_told_at_the_end_and_tried_again(tmp_path, model):
    rows = pairs.read(written(tmp_path))
    bad = {"one": UserError("no person."), "0001_me_b": ZeroDivisionError("x")}
    draw, calls = drawing(bad)
    failed = pairs.run(rows, tmp_path / "out", model, draw=draw, say=lambda note: None)
    assert failed == [("one", "no person."), ("0001_me_b", "ZeroDivisionError: x")]
    assert [name for name, _ in calls] == ["one", "0001_me_b", "three"]
    assert calls[0][1]["seed"] == 7 and calls[0][1]["model"].sampling.steps == 2
    assert calls[1][1]["seed"] == 9 and calls[2][1]["seed"] is None
    assert calls[1][1]["model"] is calls[2][1]["model"] is model
    draw, calls = drawing()
    assert not pairs.run(rows, tmp_path / "out", model, draw=draw)
    assert [name for name, _ in calls] == ["one", "0001_me_b"]


def test_hosts_share_a_list(tmp_path, model):
    rows = pairs.read(written(tmp_path))
    names = []
    for i in range(2):
        draw, calls = drawing()
        pairs.run(rows, tmp_path / str(i), model, draw=draw, share=(i, 2))
        names.append([name for name, _ in calls])
    assert names == [["one", "three"], ["0001_me_b"]]
    with pytest.raises(UserError, match="share 2/2"):
        pairs.run(rows, tmp_path, model, share=(2, 2))
