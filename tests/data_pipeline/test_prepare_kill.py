"""Preparation that is killed, or runs out of disk, ends in the set of a calm run."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.data_pipeline.sets import digest, write_footage

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parent.parent.parent
CLIPS, KILLS = 14, 10


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("footage")
    write_footage(folder, 192, 128, 30, CLIPS)
    return folder


def command(source, out, *more):
    words = ("-m", "data_pipeline.prepare", f"--input={source}", f"--output={out}",
             "--workers=2", "--sharpness=0", "--test_every=5", "--canvas_side=256",
             "--duplicate_bits=-1", *more)  # fmt: skip
    return [sys.executable, *words]


@pytest.fixture(scope="module")
def calm(source, tmp_path_factory):
    out = tmp_path_factory.mktemp("calm") / "set"
    subprocess.run(command(source, out), cwd=ROOT, check=True, capture_output=True)
    return digest(out)


def done(out):
    """Finished pieces: notes and rows, and a last one while the set is written."""
    work = out.with_name(out.name + ".work")
    pieces = len([*work.glob("*.npz"), *work.glob("*.row")]) if work.exists() else 0
    return pieces + out.with_name(out.name + ".part").exists()


def children(pid):
    return [
        int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    ]


def gone(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_ten_kills_end_in_the_set_of_a_calm_run(source, calm, tmp_path):
    out = tmp_path / "set"
    last = 2 * CLIPS + 2  # notes with the damaged one, rows, and writing
    marks = np.linspace(1, last, KILLS).round().astype(int)
    stood = []
    for mark in marks:
        assert done(out) <= mark  # each run starts where the last one ended
        run = subprocess.Popen(
            command(source, out), cwd=ROOT,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        while done(out) < mark and run.poll() is None:
            time.sleep(0.002)
        assert run.poll() is None, run.stderr.read()
        workers = children(run.pid)
        os.kill(run.pid, signal.SIGKILL)
        run.wait()
        stood.append(done(out))
        assert not (out / "clips").exists()
        end = time.monotonic() + 20
        while not all(gone(pid) for pid in workers):
            assert time.monotonic() < end, "orphans are left"
            time.sleep(0.05)
    final = subprocess.run(
        command(source, out), cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert digest(out) == calm
    assert sorted(p.name for p in tmp_path.iterdir()) == ["set"]
    assert "1 unreadable" in final.stdout
    print(f"\nkilled with {stood} of {last} pieces done")


def test_finished_pieces_are_not_made_again(source, calm, tmp_path):
    """Killed while it writes: the next run only writes."""
    out = tmp_path / "set"
    run = subprocess.Popen(command(source, out), cwd=ROOT, stderr=subprocess.DEVNULL)
    while not out.with_name("set.part").exists():
        assert run.poll() is None
        time.sleep(0.002)
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    work = out.with_name("set.work")
    dates = {p: p.stat().st_mtime_ns for p in work.iterdir() if p.suffix != ".part"}
    dates.pop(work / "lock")
    assert len(dates) == 2 * CLIPS + 1
    run = subprocess.Popen(command(source, out), cwd=ROOT, stderr=subprocess.DEVNULL)
    kept = True
    while run.poll() is None:
        for path, date in dates.items():
            try:
                kept &= path.stat().st_mtime_ns == date
            except FileNotFoundError:
                continue  # the work is done and its folder removed
        time.sleep(0.01)
    assert run.returncode == 0 and kept and digest(out) == calm


@pytest.mark.parametrize("room", [3_000, 30_000, 400_000])
def test_a_full_disk_is_one_sentence_and_the_run_goes_on(source, calm, tmp_path, room):
    """No file may grow past `room` bytes, which is told much as a full disk is."""
    out = tmp_path / "set"

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))

    failed = subprocess.run(
        command(source, out), cwd=ROOT, capture_output=True, text=True,
        check=False, preexec_fn=limit,
    )  # fmt: skip
    said = failed.stderr.strip().splitlines()
    assert failed.returncode == 2, failed.stderr
    assert "no room left on the disk" in said[-1] and "Traceback" not in failed.stderr
    assert not out.exists() and not out.with_name("set.part").exists()
    subprocess.run(command(source, out), cwd=ROOT, check=True, capture_output=True)
    assert digest(out) == calm


def test_other_thresholds_need_no_second_look(source, tmp_path):
    """A run that keeps nothing leaves its notes, which serve other thresholds."""
    out = tmp_path / "set"
    strict = command(source, out, "--person_height=5")
    failed = subprocess.run(
        strict, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert failed.returncode == 2 and "14 x person too small" in failed.stderr
    notes = {p: p.stat().st_mtime_ns for p in tmp_path.glob("set.work/*.npz")}
    assert len(notes) == CLIPS + 1
    one = subprocess.Popen(command(source, out), cwd=ROOT, stderr=subprocess.DEVNULL)
    two = None
    while one.poll() is None:
        if two is None and done(out) > CLIPS + 2:
            two = subprocess.run(
                command(source, out), cwd=ROOT, capture_output=True, text=True,
                check=False,
            )  # fmt: skip
        time.sleep(0.01)
    assert one.returncode == 0
    if two is not None:
        assert two.returncode == 2
        assert "Another run is at work" in two.stderr or "already holds" in two.stderr
    told = json.loads((out / "report" / "report.json").read_text())
    assert told["kept"] == CLIPS
