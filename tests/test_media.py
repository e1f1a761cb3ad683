from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from onetoall_jax import media
from onetoall_jax.errors import UserError
from onetoall_jax.pose import files
from tests.turned import turn


def ramp(count=7, height=32, width=48):
    frames = np.zeros((count, height, width, 3), np.uint8)
    frames += (np.arange(count, dtype=np.uint8) * 30)[:, None, None, None]
    return frames


def test_a_video_comes_back_frame_by_frame(tmp_path):
    media.write_video(tmp_path / "a.mp4", ramp(), fps=12)
    opened = media.Video(tmp_path / "a.mp4")
    back = np.stack(list(opened.frames()))
    assert opened.fps == 12 and not opened.has_sound
    assert back.shape == ramp().shape
    assert np.abs(back.astype(int) - ramp()).max() <= 3


def test_bad_videos_get_one_sentence(tmp_path):
    (tmp_path / "cut.mp4").write_bytes(b"\x00\x00\x00\x18ftypmp42 and nothing more")
    with pytest.raises(UserError, match="not a video"):
        media.Video(tmp_path / "cut.mp4")
    with pytest.raises(UserError, match="There is no video"):
        media.Video(tmp_path / "none.mp4")
    with pytest.raises(UserError, match="must be even"):
        media.write_video(tmp_path / "odd.mp4", ramp(height=33), fps=12)
    assert not (tmp_path / "odd.mp4").exists()


def test_transparent_pictures_stand_on_white(tmp_path):
    Image.new("RGBA", (4, 6), (255, 0, 0, 0)).save(tmp_path / "a.png")
    assert (media.read_image(tmp_path / "a.png") == 255).all()
    (tmp_path / "b.png").write_text("words")
    with pytest.raises(UserError, match="not a picture"):
        media.read_image(tmp_path / "b.png")


def test_a_contact_sheet_has_a_row_for_each_clip():
    sheet = media.contact_sheet([("a", ramp()), ("b", ramp(2))], columns=4, height=64)
    assert sheet.shape == (2 * (14 + 64), 4 * 96, 3)


def test_side_by_side_repeats_a_still_picture():
    both = media.side_by_side(ramp()[3], ramp())
    assert both.shape == (7, 32, 96, 3)
    assert (both[:, :, :48] == 90).all() and (both[6, :, 48:] == 180).all()


def test_key_points_survive_their_file(tmp_path):
    track = files.Track(np.random.default_rng(0).random((3, 133, 3)), 20, 30, 8.0)
    files.write(tmp_path / "a.npz", track)
    back = files.read(tmp_path / "a.npz")
    np.testing.assert_allclose(back.keypoints, track.keypoints, atol=1e-6)
    assert back[1:] == (20, 30, 8.0)
    np.savez(tmp_path / "b.npz", keypoints=np.zeros((2, 5, 3)), size=[1, 1], fps=1.0)
    with pytest.raises(UserError, match=r"\(2, 5, 3\)"):
        files.read(tmp_path / "b.npz")


@pytest.mark.parametrize("quarters, dark", [(1, "top"), (2, "right"), (3, "bottom")])
def test_videos_are_turned_as_their_file_says(quarters, dark, tmp_path):
    frames = np.full((3, 32, 48, 3), 255, np.uint8)
    frames[:, :, :24] = 0  # the left
    media.write_video(tmp_path / "a.mp4", frames, fps=12)
    turn(tmp_path / "a.mp4", quarters)
    back = np.stack(list(media.Video(tmp_path / "a.mp4").frames()))
    assert back.shape == ((3, 48, 32, 3) if quarters % 2 else frames.shape)
    height, width = back.shape[1:3]
    sides = {
        "top": back[:, : height // 3],
        "bottom": back[:, -(height // 3) :],
        "right": back[:, :, -(width // 3) :],
    }
    assert sides[dark].mean() < 16
    assert back.mean() == pytest.approx(127.5, abs=8)


def test_pictures_are_turned_as_their_file_says(tmp_path):
    picture = Image.fromarray(np.zeros((4, 6, 3), np.uint8))
    picture.putpixel((0, 0), (255, 255, 255))
    told = Image.Exif()
    told[0x0112] = 6  # to be turned a quarter clockwise
    picture.save(tmp_path / "a.png", exif=told)
    seen = media.read_image(tmp_path / "a.png")
    assert seen.shape == (6, 4, 3) and seen[0, 3].tolist() == [255] * 3


def test_grey_of_16_bits_keeps_its_shades(tmp_path):
    grey = np.array([[0, 0x8000, 0xFFFF]], np.uint16)
    Image.fromarray(grey).save(tmp_path / "a.png")
    assert media.read_image(tmp_path / "a.png")[0, :, 0].tolist() == [0, 128, 255]


def written(path, frames, rate=12, **stream):
    """An mp4 whose stream has the given properties; times in twelfths of a second."""
    times = stream.pop("times", range(len(frames)))
    with av.open(str(path), "w") as out:
        made = out.add_stream("libx264", rate=rate)
        made.height, made.width = frames.shape[1:3]
        made.pix_fmt = "yuv420p"
        made.codec_context.time_base = Fraction(1, 12)
        for name, value in stream.items():
            setattr(made.codec_context, name, value)
        for picture, time in zip(frames, times, strict=True):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 12)
            for packet in made.encode(frame):
                out.mux(packet)
        for packet in made.encode():
            out.mux(packet)


def test_pixels_that_are_not_square_are_made_so(tmp_path):
    written(tmp_path / "a.mp4", ramp(), sample_aspect_ratio=Fraction(4, 3))
    frames = list(media.Video(tmp_path / "a.mp4").frames())
    assert frames[0].shape == (32, 64, 3)
    written(tmp_path / "b.mp4", ramp(), sample_aspect_ratio=Fraction(9))
    with pytest.raises(UserError, match="9 times as wide as high"):
        media.Video(tmp_path / "b.mp4")


def test_frames_come_with_their_times(tmp_path):
    when = [0, 1, 2, 6, 7, 12, 13]
    written(tmp_path / "a.mp4", ramp(), times=when)
    times = [t for t, _ in media.Video(tmp_path / "a.mp4").timed_frames()]
    np.testing.assert_allclose(times, np.array(when) / 12)
