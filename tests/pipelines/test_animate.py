"""The one call: lengths, growing files, broken runs, what is refused."""

import dataclasses
import fcntl
import json

import jax
import numpy as np
import pytest

import onetoall_jax
from onetoall_jax import media
from onetoall_jax.errors import UserError
from onetoall_jax.pipelines.animate import animate
from onetoall_jax.pipelines.preparing import PrepareConfig
from onetoall_jax.pose import files

RESULTS = ("result.mp4", "side_by_side.mp4", "contact_sheet.png", "drift.png")


def call(pair, model, out=None, num_frames=20, **more):
    given = {
        "reference": pair / "me.png",
        "driving": pair / "dance.npz",
        "reference_keypoints": pair / "me.npz",
        "config": PrepareConfig(num_frames=num_frames),
        "model": model,
        "out": out,
    }
    return animate(**(given | more))


def length_of(path):
    return sum(1 for _ in media.Video(path).frames())


@pytest.fixture(scope="module")
def unbroken(pair, model, tmp_path_factory):
    """(folder, frames) of a call that nothing disturbed."""
    out = tmp_path_factory.mktemp("unbroken") / "out"
    return out, call(pair, model, out).frames


def test_the_call_is_the_package_s():
    assert onetoall_jax.animate is animate
    assert callable(onetoall_jax.load)


def test_a_clip_is_drawn_and_described(unbroken):
    out, frames = unbroken
    assert frames.shape == (20, 48, 32, 3) and frames.std() > 5
    assert {p.name for p in out.iterdir()} == {*RESULTS, "report.json", "prepared"}
    assert length_of(out / "result.mp4") == length_of(out / "side_by_side.mp4") == 20
    report = json.loads((out / "report.json").read_text())
    assert report["frames"] == 20 and report["fps"] == 8
    assert [s["start"] for s in report["segments"]] == [0, 4, 8, 11]
    assert len(report["drift"]) == 4 and report["drift"][0]["contrast"] == 1
    # H.264 keeps them nearly as they are.
    video = np.stack(list(media.Video(out / "result.mp4").frames()))
    off = np.abs(video[:, 4::8, 4::8].astype(int) - frames).mean()
    assert off < 8, off


@pytest.mark.parametrize("when", [1, 3])
def test_a_broken_call_goes_on_to_the_same_bytes(pair, model, unbroken, tmp_path, when):
    out = tmp_path / "out"
    seen = []

    def stop(done, total, left_s):
        seen.append(done)
        part = tmp_path / "out.part"
        assert len((part / "journal.jsonl").read_text().splitlines()) == len(seen)
        if len(seen) == when:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        call(pair, model, out, progress=stop)
    assert not out.exists()
    # A line that the kill tore, and a segment that is not to be trusted.
    with open(tmp_path / "out.part" / "journal.jsonl", "a") as journal:
        journal.write('{"start": 8, "len')
    if when == 3:
        torn = tmp_path / "out.part" / "segments" / "00002.mkv"
        torn.write_bytes(torn.read_bytes()[:-100])
    said = []
    frames = call(pair, model, out, say=said.append).frames
    assert any("are there already" in note for note in said)
    whole, expected = unbroken
    np.testing.assert_array_equal(frames, expected)
    for name in RESULTS:
        assert (out / name).read_bytes() == (whole / name).read_bytes(), name
    assert not list(tmp_path.glob("*.part"))


def test_the_video_can_be_watched_while_it_grows(pair, model, tmp_path):
    seen = {}

    def look(done, total, left_s):
        if done in (32, 60):
            seen[done] = length_of(tmp_path / "out.part" / "result.mp4.part")

    points = files.read(pair / "dance.npz")
    twice = np.concatenate([points.keypoints] * 3)
    files.write(tmp_path / "long.npz", points._replace(keypoints=twice))
    call(pair, model, tmp_path / "out", 72, driving=tmp_path / "long.npz",
         progress=look, output_type="none")  # fmt: skip
    # Fragments of a second (8 frames), and an encoder that looks ahead.
    assert 0 < seen[32] < seen[60] < 60
    assert length_of(tmp_path / "out" / "result.mp4") == 72


SOME = [1, 5, 10]
REST = [pytest.param(n, marks=pytest.mark.slow) for n in (2, 3, 4, 8, 9, 17, 18)]


@pytest.mark.parametrize("num_frames", SOME + REST)
def test_any_length_gives_exactly_so_many_frames(pair, model, tmp_path, num_frames):
    frames = call(pair, model, tmp_path / "out", num_frames).frames
    assert len(frames) == num_frames
    if num_frames == 1:
        assert (tmp_path / "out" / "result.png").exists()
        assert not (tmp_path / "out" / "result.mp4").exists()
    else:
        assert length_of(tmp_path / "out" / "result.mp4") == num_frames


@pytest.mark.slow
def test_segments_of_81_frames_give_exactly_so_many(pair, model, tmp_path):
    points = files.read(pair / "dance.npz")
    long = np.concatenate([points.keypoints] * 6)
    files.write(tmp_path / "long.npz", points._replace(keypoints=long))
    real = model.changed({"segment_frames": 81, "final_lengths": (65, 69, 73, 77, 81)})
    static, released = [], []
    for num_frames in (80, 81, 82, 157, 158):
        for found, plan in ((static, "static"), (released, "release")):
            changed = real.changed({"plan": plan})
            made = call(pair, changed, None, num_frames, driving=tmp_path / "long.npz")
            assert len(made.frames) == made.report["frames"] == num_frames
            segments = made.report["segments"]
            found.append([(s["start"], s["start"] + s["length"]) for s in segments])
    assert static[1:4] == [[(0, 81)], [(0, 81), (1, 82)], [(0, 81), (76, 157)]]
    assert released[1] == [(0, 81), (16, 81)]
    assert released[4] == [(0, 81), (76, 157), (93, 158)]


def test_at_most_three_programs_whatever_the_length(pair, model):
    sampler = dataclasses.replace(model.sampler)
    fresh = model._replace(sampler=sampler)
    compiled = []

    def count(event, seconds, **more):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(count)
    try:
        for num_frames in (12, 20, 29):
            call(pair, fresh, num_frames=num_frames, seed=num_frames)
    finally:
        jax.monitoring.unregister_event_duration_listener(count)
    assert len(compiled) <= 3


def test_pictures_come_as_asked(pair, model):
    pictures, _ = call(pair, model, num_frames=2, output_type="pil")
    assert [p.size for p in pictures] == [(32, 48)] * 2
    assert call(pair, model, num_frames=2, output_type="none").frames is None
    with pytest.raises(UserError, match="choose 'np'"):
        call(pair, model, output_type="gif")


def test_sound_is_kept_unless_it_is_not_wanted(pair, model, tmp_path):
    video = tmp_path / "dance.mp4"
    with_sound(video)
    for audio in (True, False):
        out = tmp_path / str(audio)
        call(pair, model, out, driving=video, audio=audio,
             driving_keypoints=pair / "dance.npz")  # fmt: skip
        assert media.Video(out / "result.mp4").has_sound == audio


def with_sound(path, frames=20):
    import av

    with av.open(str(path), "w") as out:
        pictures = out.add_stream("libx264", rate=8)
        pictures.height, pictures.width, pictures.pix_fmt = 48, 32, "yuv420p"
        sound = out.add_stream("aac", rate=44100)
        for i in range(frames):
            picture = np.full((48, 32, 3), 10 * i, np.uint8)
            for packet in pictures.encode(av.VideoFrame.from_ndarray(picture)):
                out.mux(packet)
        for i in range(0, 44100 * frames // 8, 1024):
            wave = np.sin(np.arange(i, i + 1024) / 20).astype(np.float32)[None]
            part = av.AudioFrame.from_ndarray(wave, format="fltp", layout="mono")
            part.sample_rate, part.pts = 44100, i
            for packet in sound.encode(part):
                out.mux(packet)
        for stream in (pictures, sound):
            for packet in stream.encode():
                out.mux(packet)


def test_frames_are_taken_by_time(pair, model, tmp_path):
    config = PrepareConfig(fps="4")
    _, report = call(pair, model, tmp_path / "out", config=config)
    assert report["frames"] == 15 and report["fps"] == 4
    assert any("15 of 30 driving frames taken" in n for n in report["notes"])
    _, report = call(pair, model, config=PrepareConfig(fps="16", num_frames=3))
    assert report["fps"] == 8
    with pytest.raises(UserError, match="give 'native' or a number"):
        call(pair, model, config=PrepareConfig(fps="fast"))


def test_an_unfinished_run_is_not_mixed_with_another(pair, model, tmp_path):
    def stop(done, total, left_s):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        call(pair, model, tmp_path / "out", progress=stop)
    with pytest.raises(UserError, match="unfinished run with another sampling.seed"):
        call(pair, model, tmp_path / "out", seed=7)
    with open(tmp_path / "out.part" / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="Another process is drawing"):
            call(pair, model, tmp_path / "out")


def test_what_cannot_be_drawn_leaves_nothing(pair, model, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(UserError, match="There is no file"):
        call(pair, model, out, driving=tmp_path / "none.npz")
    with pytest.raises(UserError, match="reads no prompt"):
        call(pair, model, out, prompt="x" * 10_000)
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        call(pair, model, tmp_path / "file" / "out")
    media.write_image(tmp_path / "dot.png", np.zeros((20, 20, 3), np.uint8))
    with pytest.raises(UserError, match="20x20 pixels, which is too small"):
        call(pair, model, out, reference=tmp_path / "dot.png")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("")
    with pytest.raises(UserError, match="exists already"):
        call(pair, model, out)
