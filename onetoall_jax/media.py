"""Reads and writes videos and pictures; RGB uint8 everywhere."""

import os
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from PIL import Image, ImageDraw, UnidentifiedImageError

from onetoall_jax.errors import UserError

VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".gif")


def read_image(path: Path) -> np.ndarray:
    """[H,W,3]; transparent parts become white.

    Raises:
      UserError: no such file, or no picture.
    """
    try:
        with Image.open(path) as opened:
            upright = opened.convert("RGBA")
    except FileNotFoundError as error:
        raise UserError(f"There is no picture {path}.") from error
    except (UnidentifiedImageError, OSError) as error:
        raise UserError(f"{path} is not a picture that can be read.") from error
    white = Image.new("RGBA", upright.size, "white")
    return np.asarray(Image.alpha_composite(white, upright).convert("RGB"))


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
            with av.open(str(path)) as opened:
                if not opened.streams.video:
                    raise UserError(f"{path} has no pictures, only sound.")
                rate = opened.streams.video[0].average_rate
                self.has_sound = bool(opened.streams.audio)
        except av.FFmpegError as error:
            raise UserError(f"{path} is not a video that can be read.") from error
        self.fps = float(rate) if rate else 25.0

    def frames(self) -> Iterator[np.ndarray]:
        """Upright frames [H,W,3], one at a time.

        Raises:
          UserError: damaged, or without a single frame.
        """
        count = 0
        try:
            with av.open(str(self.path)) as opened:
                opened.streams.video[0].thread_type = "AUTO"
                for frame in opened.decode(video=0):
                    picture = frame.to_ndarray(format="rgb24")
                    turns = (getattr(frame, "rotation", 0) // 90) % 4
                    yield np.ascontiguousarray(np.rot90(picture, turns))
                    count += 1
        except av.FFmpegError as error:
            raise UserError(
                f"{self.path} is damaged after frame {count}: convert it anew."
            ) from error
        if not count:
            raise UserError(f"{self.path} holds no frame.")


class VideoWriter:
    """H.264 in mp4; the file appears under its name when it is closed.

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
        self._out = av.open(str(self._beside), "w", format="mp4")
        rate = Fraction(fps).limit_denominator(1001)
        self._stream: Any = self._out.add_stream(
            "libx264", rate=rate, options={"crf": "16", "preset": "medium"}
        )
        self._stream.height, self._stream.width = height, width
        self._stream.pix_fmt = "yuv420p"
        self._audio = self._open_sound()
        self._count = 0

    def _open_sound(self) -> Any:
        if self._sound is None:
            return None
        with av.open(str(self._sound)) as source:
            if not source.streams.audio:
                return None
            return self._out.add_stream_from_template(source.streams.audio[0])

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
        if self._audio is not None:
            self._copy_sound()
        self._out.close()
        os.replace(self._beside, self._path)

    def abandon(self) -> None:
        """Removes what was written."""
        self._out.close()
        self._beside.unlink(missing_ok=True)

    def _copy_sound(self) -> None:
        length_s = self._count / self._fps
        with av.open(str(self._sound)) as source:
            for packet in source.demux(source.streams.audio[0]):
                if packet.pts is None or packet.time_base is None:
                    continue
                if float(packet.pts * packet.time_base) > length_s:
                    break
                packet.stream = self._audio
                self._out.mux(packet)


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
