"""Lists of pairs: what is read, shared, skipped and told at the end."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from onetoall_jax.errors import UserError
from onetoall_jax.pipelines import animator, embed, pairs
from onetoall_jax.pipelines.preparing import PrepareConfig

ROOT = Path(__file__).resolve().parent.parent.parent

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


def test_prompts_are_embedded_before_the_model_is_loaded(tmp_path, model, monkeypatch):
    text = "reference,driving,name,prompt,negative_prompt\na,b,one,x,y\na,b,two,x,\n"
    rows = pairs.read(written(tmp_path, text))
    order = []

    def cached(texts, encoder, settings, apart=False):
        order.append(texts)
        raise UserError("one of them is too long.")

    monkeypatch.setattr(embed, "cached", cached)
    monkeypatch.setattr(animator, "loaded", lambda given: order.append("load") or model)
    draw, calls = drawing()
    given = animator.setup(animator.SHIPPED)
    assert not pairs.run(rows, tmp_path / "out", given, draw=draw)
    assert order == [["x", "y"], "load"]
    assert [c["model"] for _, c in calls] == [model, model]
    draw, calls = drawing()
    pairs.run(rows, tmp_path / "dry", given, draw=draw, dry_run=True)
    assert calls[0][1]["model"] is given and len(order) == 2


@pytest.mark.slow
def test_a_list_is_drawn_from_the_command_line(pair, tmp_path):
    (tmp_path / "pairs.csv").write_text(
        "reference,driving,reference_keypoints,name,options\n"
        f"{pair}/me.png,{pair}/dance.npz,{pair}/me.npz,good,num_frames=5\n"
        f"{pair}/me.png,{pair}/none.mp4,{pair}/me.npz,gone,\n"
        f"{pair}/me.png,{pair}/dance.npz,{pair}/me.npz,odd,steps=0\n"
    )
    words = [
        "sample.py",
        f"--pairs={tmp_path / 'pairs.csv'}",
        f"--out={tmp_path / 'o'}",
    ]
    done = subprocess.run(
        [sys.executable, *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "XLA_FLAGS": ""},
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    told = done.stderr[done.stderr.index("2 pairs failed:") :].splitlines()
    assert told[1].startswith("  gone: There is no file") and len(told) == 3
    assert told[2].startswith("  odd: sampling.steps=0")
    assert [p.name for p in (tmp_path / "o").iterdir()] == ["good"]
    report = json.loads((tmp_path / "o" / "good" / "report.json").read_text())
    assert report["frames"] == 5
