"""500 inputs that people have or fear: no crash, no wrong aspect, no half set.

Every picture shows red in its upper left quarter, so that a turned or mirrored one is
found out.
"""

import json
import os
import shutil
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from data_pipeline import builder
from data_pipeline.importers import layouts
from data_pipeline.prepare import run
from data_pipeline.prepare.screening import ScreenConfig
from data_pipeline.prepare.settings import PrepareConfig
from onetoall_jax.errors import UserError
from onetoall_jax.pose import files
from onetoall_jax.pose.files import Track
from tests.turned import turn

pytestmark = pytest.mark.slow
COUNT, FRAMES = 500, 12
CONFIG = PrepareConfig(
    short_side=48,
    screen=ScreenConfig(
        smallest_side=1, widest=1e9, sharpness=-1, person_height=0, seen=0,
        shot_change=2.0, duplicate_bits=-1,
    ),
)  # fmt: skip
# Codec, container, pixel formats it takes, multiple that sides must be of.
CODECS = (
    ("libx264", "mp4", ("yuv420p", "yuv444p", "gray"), 2),
    ("libx264", "mkv", ("yuv420p",), 2),
    ("libx264", "mov", ("yuv420p",), 2),
    ("mpeg4", "avi", ("yuv420p",), 1),
    ("mjpeg", "avi", ("yuvj420p",), 1),
    ("libvpx-vp9", "webm", ("yuv420p", "yuva420p"), 1),
    ("ffv1", "mkv", ("gray", "bgr0", "gray10le", "yuv420p10le"), 1),
    ("png", "mov", ("rgba", "gray", "rgb48be"), 1),
    ("gif", "gif", ("pal8", "rgb8", "gray"), 1),
    ("rawvideo", "avi", ("bgr24",), 1),
    ("libx265", "mp4", ("yuv420p",), 32),
)
RAW = CODECS[-2]
ODD_SIZES = ((1, 1), (1, 40), (40, 1), (2, 2), (3, 5), (16, 500), (501, 17))


def shown(height, width):
    """Grey noise with a red upper left quarter, [H,W,3]."""
    made = np.random.default_rng(height * 1000 + width).integers(
        90, 110, (height, width)
    )
    made = np.repeat(made[..., None], 3, axis=2).astype(np.uint8)
    made[: (height + 1) // 2, : (width + 1) // 2] = (220, 20, 20)
    return made


def video(rng, path, height, width, kind):
    """Writes a video; (path, size that an upright viewer sees, quarter turns)."""
    codec = CODECS[rng.integers(len(CODECS))]
    if kind in ("turned", "wide pixels"):
        codec = CODECS[0]
    pixel = codec[2][rng.integers(len(codec[2]))]
    ratio = (4, 3) if kind == "wide pixels" else (1, 1)
    steps = rng.integers(1, 4 if kind == "uneven" else 2, FRAMES)
    try:
        path, height, width = encode(path, height, width, codec, pixel, ratio, steps)
    except av.FFmpegError:  # not at this size
        path, height, width = encode(path, height, width, RAW, "bgr24", ratio, steps)
    if kind == "wide pixels":
        width = round(width * ratio[0] / ratio[1])
    if kind == "turned":
        turns = int(rng.integers(1, 4))
        turn(path, turns)
        return path, (width, height) if turns % 2 else (height, width), turns
    return path, (height, width), 0


def encode(path, height, width, codec, pixel, ratio, steps):
    name, container, _, step = codec
    height, width = (max(step, n // step * step) for n in (height, width))
    path = path.with_suffix("." + container)
    even = container in ("avi", "gif")
    with av.open(str(path), "w") as out:
        stream = out.add_stream(name, rate=12)
        stream.height, stream.width, stream.pix_fmt = height, width, pixel
        if ratio != (1, 1):
            stream.codec_context.sample_aspect_ratio = Fraction(*ratio)
        for i in range(FRAMES):
            frame = av.VideoFrame.from_ndarray(shown(height, width), format="rgb24")
            frame = frame.reformat(format=pixel) if pixel != "pal8" else frame
            frame.pts = i if even else int(steps[:i].sum())
            frame.time_base = Fraction(1, 12)
            for packet in stream.encode(frame):
                out.mux(packet)
        for packet in stream.encode():
            out.mux(packet)
    return path, height, width


def picture(rng, path, height, width, kind):
    """Writes a picture; as `video`."""
    made, turns = Image.fromarray(shown(height, width)), 0
    if kind == "alpha":
        made.putalpha(255)
        path = path.with_suffix([".png", ".webp"][rng.integers(2)])
        made.save(path, lossless=True)
    elif kind == "grey":
        mode = ["L", "1", "I;16", "LA"][rng.integers(4)]
        grey = made.convert("L")
        if mode == "I;16":
            grey = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
        else:
            grey = grey.convert(mode)
        path = path.with_suffix(".png")
        grey.save(path)
    elif kind == "turned":
        turns = int(rng.integers(1, 4))
        told = Image.Exif()
        told[0x0112] = {1: 6, 2: 3, 3: 8}[turns]  # quarters clockwise
        path = path.with_suffix([".jpg", ".png", ".webp"][rng.integers(3)])
        made.save(path, exif=told)
    else:
        suffix = [".jpg", ".png", ".bmp", ".webp", ".jpeg"][rng.integers(5)]
        mode = "RGB"
        if kind == "palette" and suffix in (".png", ".bmp"):
            mode = "P"
        if kind == "cmyk" and suffix in (".jpg", ".jpeg"):
            mode = "CMYK"
        path = path.with_suffix(suffix)
        made.convert(mode).save(path)
    size = (width, height) if turns % 2 else (height, width)
    return path, size, turns


KINDS = (
    "plain", "plain", "grey", "alpha", "palette", "cmyk", "turned", "turned",
    "wide pixels", "uneven", "uneven", "odd size", "odd size",
)  # fmt: skip
DAMAGE = (
    "whole", "whole", "whole", "cut", "bytes", "renamed", "empty", "noise",
    "key points", "appended",
)  # fmt: skip


def fuzzed(folder, number):
    """Makes input `number`; (name, size an upright viewer sees, turns, damage)."""
    rng = np.random.default_rng([8, number])
    kind = KINDS[rng.integers(len(KINDS))]
    height, width = (int(n) for n in rng.integers(24, 97, 2))
    if kind == "odd size":
        height, width = ODD_SIZES[rng.integers(len(ODD_SIZES))]
    moving = rng.random() < 0.6 or kind in ("wide pixels", "uneven")
    write = video if moving else picture
    path, size, turns = write(rng, folder / f"{number:03d}", height, width, kind)
    points = rng.uniform(0, 1, (FRAMES if moving else 1, 133, 3))
    track = Track(points * (size[1], size[0], 1), *size, 12.0)
    files.write(path.with_suffix(".npz"), track)
    damage = DAMAGE[rng.integers(len(DAMAGE))]
    path = damaged(rng, path, damage)
    return path.name, size, turns, damage


def damaged(rng, path, damage):
    data = bytearray(path.read_bytes())
    if damage == "cut":
        path.write_bytes(data[: int(len(data) * rng.uniform(0.02, 0.98))])
    elif damage == "bytes":
        for _ in range(int(rng.integers(1, 20))):
            data[rng.integers(len(data))] = rng.integers(256)
        path.write_bytes(data)
    elif damage == "renamed":
        suffixes = [".mp4", ".jpg", ".png", ".gif", ".webm", ".avi", ".bmp", ".MOV"]
        path = path.rename(path.with_suffix(suffixes[rng.integers(len(suffixes))]))
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "noise":
        path.write_bytes(rng.bytes(int(rng.integers(1, 5000))))
    elif damage == "appended":
        path.write_bytes(data + rng.bytes(500))
    elif damage == "key points":
        beside = path.with_suffix(".npz")
        kept = beside.read_bytes()
        what = rng.integers(4)
        if what == 0:
            beside.write_bytes(kept[: int(len(kept) * rng.uniform(0, 0.99))])
        elif what == 1:
            beside.unlink()
            array = np.empty(1, object)
            array[0] = {"bodies": os.system}
            np.save(beside.with_suffix(".npy"), array, allow_pickle=True)
        elif what == 2:
            track = files.read(beside)
            files.write(beside, track._replace(height=track.height * 2))
        else:
            track = files.read(beside)
            files.write(beside, track._replace(keypoints=track.keypoints * np.nan))
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz") / "input"
    folder.mkdir()
    known = [fuzzed(folder, i) for i in range(COUNT)]
    return folder, {name: rest for name, *rest in known}


def test_no_input_crashes_or_gets_a_wrong_aspect(made):
    folder, known = made
    out = folder.parent / "set"
    found = layouts.read("folder", folder)
    assert len(found.items) == COUNT
    run.prepare(found, out, CONFIG, run.local(2))
    told = json.loads((out / "report" / "report.json").read_text())
    clips = told["clips"]
    assert {c["source"] for c in clips} == set(known)
    left = [c for c in clips if c["reason"] is not None]
    for clip in left:
        reason = clip["reason"]
        assert "\n" not in reason and (reason.endswith(".") or " " in reason)
        assert "ended the process" not in reason, reason
    kept = [c for c in clips if c["reason"] is None]
    rows = builder.Rows(out, "train")
    assert len(rows) == len(kept) == told["kept"]
    turned = 0
    for i, clip in enumerate(kept):
        (height, width), turns, damage = known[clip["source"]]
        row = rows.read(i, range(rows.num_frames(i)))
        assert row.frames.shape[0] == len(row.keypoints)
        if damage in ("bytes", "noise"):
            continue  # may say anything of itself
        seen = row.frames.shape[1:3]
        scale = min(1.0, 48 / min(height, width))
        assert seen == (max(1, round(height * scale)), max(1, round(width * scale))), (
            clip
        )
        if min(seen) >= 20:
            assert quarter(row.frames[0]) == [0, 1, 3, 2][turns], clip
            turned += turns > 0
    whole = [n for n, (_, _, damage) in known.items() if damage == "whole"]
    lost = {c["source"]: c["reason"] for c in left if c["source"] in whole}
    assert not lost, lost
    assert turned > 20
    kinds = {**told["left_out"], "kept": told["kept"]}
    print(f"\n{COUNT} inputs: {kinds}; {turned} turned upright; "
          f"{sum(rows.sizes.num_frames)} frames")  # fmt: skip


def quarter(frame):
    """Which quarter is unlike the others: 0 1 / 2 3."""
    height, width = (n // 2 for n in frame.shape[:2])
    grey = frame.astype(float) @ (0.3, 0.6, 0.1)
    parts = [grey[:height, :width], grey[:height, -width:],
             grey[-height:, :width], grey[-height:, -width:]]  # fmt: skip
    means = np.array([p.mean() for p in parts])
    return int(np.abs(means - np.median(means)).argmax())


def test_folders_of_nothing_good_leave_nothing_behind(made):
    folder, known = made
    bad = sorted(
        n for n, (_, _, damage) in known.items() if damage in ("empty", "noise")
    )
    strict = PrepareConfig(screen=ScreenConfig(sharpness=1e9))
    for number in range(10):
        part = folder.parent / f"bad{number}"
        part.mkdir()
        for name in bad[number::10]:
            path = folder / name
            shutil.copy(path, part)
            shutil.copy(path.with_suffix(".npz"), part)
        out = folder.parent / f"none{number}"
        with pytest.raises(UserError, match="good enough to train on"):
            run.prepare(layouts.read("folder", part), out, strict, run.local(0))
        assert not out.exists() and not out.with_name(out.name + ".part").exists()
