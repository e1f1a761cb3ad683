"""Reads and writes videos and pictures; RGB uint8 everywhere."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageOps

from onetoall_jax.errors import UserError

VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".gif")
PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
_WIDEST_PIXEL = 8  # times as wide as high, or as high as wide; more is damage
# Files alone: some formats name addresses to open.
_OPENING: dict[str, Any] = {"options": {"protocol_whitelist": "file"}}
if int(av.__version__.split(".")[0]) < 19:  # later ones mind no title's code
    _OPENING["metadata_errors"] = "ignore"


def read_image(path: Path) -> np.ndarray:
    """[H,W,3], turned upright as the file says; transparent parts become white.

    Raises:
      UserError: no such file, or no picture.
    """
    try:
        with Image.open(path) as opened:
            upright = _eight_bit(ImageOps.exif_transpose(opened)).convert("RGBA")
    except FileNotFoundError as error:
        raise UserError(f"There is no picture {path}.") from error
    except Exception as error:  # each format's reader has its own for a damaged file
        raise UserError(f"{path} is not a picture that can be read.") from error
    white = Image.new("RGBA", upright.size, "white")
    return np.asarray(Image.alpha_composite(white, upright).convert("RGB"))


def _eight_bit(picture: Image.Image) -> Image.Image:
    # Pillow would cut 16 bits of grey off at 255, which leaves white.
    if not picture.mode.startswith("I"):
        return picture
    grey = np.asarray(picture).astype(np.int64) >> 8
    return Image.fromarray(np.clip(grey, 0, 255).astype(np.uint8))


def write_image(path: Path, picture: np.ndarray) -> None:
    """PNG; the file appears when it is complete."""
    beside = path.with_name(path.name + ".part")
    Image.fromarray(picture).save(beside, format="PNG")
    os.replace(beside, path)


class Video:
    """An opened video.

    Attributes:
      fps: frames a second, average.
      has_sound: there is an audio stream.

    Raises:
      UserError: no such file, not a video, or sound without pictures.
    """

    def __init__(self, path: Path):
        self.path = Path(path)
        if not self.path.is_file():
            raise UserError(f"There is no video {path}.")
        try:
            with av.open(str(path), **_OPENING) as opened:
                if not opened.streams.video:
                    raise UserError(f"{path} has no pictures, only sound.")
                rate = opened.streams.video[0].average_rate
                pixel = opened.streams.video[0].sample_aspect_ratio
                self.has_sound = bool(opened.streams.audio)
        except (av.FFmpegError, ValueError) as error:
            raise UserError(f"{path} is not a video that can be read.") from error
        self.fps = float(rate) if rate else 25.0
        self._pixel = float(pixel) if pixel else 1.0
        if not 1 / _WIDEST_PIXEL <= self._pixel <= _WIDEST_PIXEL:
            raise UserError(
                f"{path} says that its pixels are {self._pixel:.3g} times as wide as "
                "high: convert it anew."
            )

    def frames(self) -> Iterator[np.ndarray]:
        """Upright frames [H,W,3] of square pixels, one at a time.

        Raises:
          UserError: damaged, or without a single frame.
        """
        for _, picture in self.timed_frames():
            yield picture

    def timed_frames(self) -> Iterator[tuple[float | None, np.ndarray]]:
        """The same with their times in seconds; None where the file tells none.

        Raises:
          UserError: damaged, or without a single frame.
        """
        count = 0
        try:
            with av.open(str(self.path), **_OPENING) as opened:
                opened.streams.video[0].thread_type = "AUTO"
                for frame in opened.decode(video=0):
                    yield frame.time, self._upright(frame)
                    count += 1
        except (av.FFmpegError, ValueError) as error:
            raise UserError(
                f"{self.path} is damaged after frame {count}: convert it anew."
            ) from error
        if not count:
            raise UserError(f"{self.path} holds no frame.")

    def _upright(self, frame: Any) -> np.ndarray:
        picture = frame.to_ndarray(format="rgb24")
        if self._pixel != 1:
            size = max(1, round(picture.shape[1] * self._pixel)), picture.shape[0]
            picture = cv2.resize(picture, size, interpolation=cv2.INTER_LINEAR)
        turns = round(getattr(frame, "rotation", 0) / 90) % 4
        return np.ascontiguousarray(np.rot90(picture, turns))


class VideoWriter:
    """H.264 in mp4, in a file beside that can be watched while it grows.

    Its name is that of the video and ".part"; closed, it becomes an ordinary mp4.
    Equal frames make equal bytes.

    Args:
      sound: a video whose sound is copied in, cut to the length of the pictures.
    Raises:
      UserError: odd sides, which H.264 cannot hold.
    """

    def __init__(
        self, path: Path, fps: float, height: int, width: int,
        sound: Path | None = None,
    ):  # fmt: skip
        if height % 2 or width % 2:
            raise UserError(
                f"A video of {height}x{width} pixels cannot be written: both sides "
                "must be even."
            )
        self._path, self._sound, self._fps = Path(path), sound, fps
        self._beside = self._path.with_name(self._path.name + ".part")
        # Fragments of a second: what is written can be played.
        growing = {
            "movflags": "empty_moov+default_base_moof",
            "frag_duration": "1000000",
            "flush_packets": "1",
        }
        self._out = av.open(str(self._beside), "w", format="mp4", options=growing)
        rate = Fraction(fps).limit_denominator(1001)
        # A short look ahead and few threads: what was written is in the file five
        # pictures later, in less memory, and the bytes do not depend on the machine's
        # cores.
        how = {"crf": "16", "preset": "medium", "rc-lookahead": "4", "bf": "1"}
        how["threads"] = "2"
        self._stream: Any = self._out.add_stream("libx264", rate=rate, options=how)
        self._stream.height, self._stream.width = height, width
        self._stream.pix_fmt = "yuv420p"
        self._count = 0

    def write(self, frames: np.ndarray) -> None:
        """Appends frames [F,H,W,3]."""
        for picture in frames:
            frame = av.VideoFrame.from_ndarray(
                np.ascontiguousarray(picture), format="rgb24"
            )
            for packet in self._stream.encode(frame):
                self._out.mux(packet)
            self._count += 1

    def close(self) -> None:
        """Flushes, adds the sound and gives the file its name."""
        for packet in self._stream.encode():
            self._out.mux(packet)
        self._out.close()
        whole = self._path.with_name(self._path.name + ".whole")
        try:
            _remux(self._beside, whole, self._sound, self._count / self._fps)
            os.replace(whole, self._path)
        finally:
            whole.unlink(missing_ok=True)
        self._beside.unlink()

    def abandon(self) -> None:
        """Removes what was written."""
        try:
            self._out.close()
        except (OSError, av.FFmpegError):
            pass  # the disk that was full is full still
        self._beside.unlink(missing_ok=True)


def _remux(pictures: Path, target: Path, sound: Path | None, length_s: float) -> None:
    """Copies the pictures of one file and the first seconds of another's sound."""
    with contextlib.ExitStack() as opened:
        seen: Any = opened.enter_context(av.open(str(pictures)))
        heard: Any = opened.enter_context(av.open(str(sound))) if sound else None
        out: Any = opened.enter_context(av.open(str(target), "w", format="mp4"))
        video = out.add_stream_from_template(seen.streams.video[0])
        audio = None
        if heard is not None and heard.streams.audio:
            audio = out.add_stream_from_template(heard.streams.audio[0])
        start = None
        for packet in seen.demux(video=0):
            if packet.dts is None:
                continue
            # A growing file counts from its first decoding time, not its first picture.
            start = packet.pts if start is None else start
            packet.pts, packet.dts = packet.pts - start, packet.dts - start
            packet.stream = video
            out.mux(packet)
        for packet in heard.demux(audio=0) if audio else ():
            if packet.dts is None:
                continue
            if float(packet.pts * packet.time_base) > length_s:
                break
            packet.stream = audio
            out.mux(packet)


def write_lossless(path: Path, frames: np.ndarray) -> None:
    """Frames [F,H,W,3] to the bit, FFV1 in Matroska; appears when it is complete."""
    beside = path.with_name(path.name + ".part")
    with av.open(str(beside), "w", format="matroska") as out:
        stream: Any = out.add_stream("ffv1", rate=25)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "bgr0"
        for picture in frames:
            frame = av.VideoFrame.from_ndarray(
                np.ascontiguousarray(picture), format="rgb24"
            )
            for packet in stream.encode(frame.reformat(format="bgr0")):
                out.mux(packet)
        for packet in stream.encode():
            out.mux(packet)
    os.replace(beside, path)


def read_lossless(path: Path) -> np.ndarray:
    """What `write_lossless` wrote, [F,H,W,3]."""
    return np.stack(list(Video(path).frames()))


def write_video(
    path: Path, frames: np.ndarray, fps: float, sound: Path | None = None
) -> None:
    """A whole clip [F,H,W,3] at once; see `VideoWriter`."""
    _, height, width, _ = frames.shape
    writer = VideoWriter(path, fps, height, width, sound)
    try:
        writer.write(frames)
    except BaseException:
        writer.abandon()
        raise
    writer.close()


def enlarged(pictures: np.ndarray, factor: int) -> np.ndarray:
    """[...,H,W,3] with every pixel repeated, for looking at small pictures."""
    return pictures.repeat(factor, axis=-3).repeat(factor, axis=-2)


def side_by_side(*clips: np.ndarray) -> np.ndarray:
    """Clips [F,H,W,3] of one size next to each other; a picture [H,W,3] stays still."""
    length = max(len(c) for c in clips if c.ndim == 4)
    whole = [
        np.broadcast_to(c, (length, *c.shape)) if c.ndim == 3 else c for c in clips
    ]
    return np.concatenate(whole, axis=2)


def contact_sheet(
    rows: Sequence[tuple[str, np.ndarray]], columns: int = 8, height: int = 160
) -> np.ndarray:
    """One picture: a labelled row for each clip, `columns` of its frames side by side.

    Args:
      rows: (label, frames [F,H,W,3]).
      height: of a frame in the sheet, in pixels.
    """
    strips = []
    for label, frames in rows:
        wanted = np.linspace(0, len(frames) - 1, min(columns, len(frames)))
        width = max(1, round(frames.shape[2] * height / frames.shape[1]))
        method = cv2.INTER_NEAREST if height > frames.shape[1] else cv2.INTER_AREA
        row = [
            cv2.resize(frames[round(i)], (width, height), interpolation=method)
            for i in wanted
        ]
        row += [np.zeros_like(row[0])] * (columns - len(row))
        strip = Image.fromarray(np.concatenate(row, axis=1))
        banner = Image.new("RGB", (strip.width, 14), "white")
        ImageDraw.Draw(banner).text((3, 1), label, fill="black")
        strips += [np.asarray(banner), np.asarray(strip)]
    widest = max(s.shape[1] for s in strips)
    padded = [
        np.pad(s, ((0, 0), (0, widest - s.shape[1]), (0, 0)), constant_values=255)
        for s in strips
    ]
    return np.concatenate(padded)
