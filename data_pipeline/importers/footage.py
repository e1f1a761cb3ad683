"""What a folder holds for preparation: videos, pictures, frame by frame, and pairs."""

import csv
import dataclasses
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from onetoall_jax import media
from onetoall_jax.errors import UserError
from onetoall_jax.pose import files
from onetoall_jax.pose.files import Track

_SAME_ASPECT = 0.02  # sizes are rounded to whole, often even, pixels


@dataclasses.dataclass(frozen=True)
class Item:
    """One video or picture.

    Attributes:
      name: unique; what reports call it.
      files: the video, the picture, or the pictures of the frames in order.
      fps: frames a second; None takes the video's own.
      keypoints: a file of them (.npz, or the release's .npy); None detects.
      size: height and width of the frames that an .npy file was made from; None takes
        those of the frames.
      first, end: the part of a video that is used; `end` None is its end.
      cut: may it be cut at shot changes and to length? Else it is one clip.
      group: clips of one group come into one split; "" is the name.
      split: "train" or "test"; None leaves it to the settings.
      caption: what somebody said of it.
      text_boxes: for every frame of the file a list of boxes (x1, y1, x2, y2) in
        pixels, as text; None leaves them to a detector.
      starts, references: frames of the file where windows begin, and that are taken
        as references; () takes any.
    """

    name: str
    files: tuple[Path, ...]
    fps: float | None = None
    keypoints: Path | None = None
    size: tuple[int, int] | None = None
    first: int = 0
    end: int | None = None
    cut: bool = True
    group: str = ""
    split: str | None = None
    caption: str = ""
    text_boxes: str | None = None
    starts: tuple[int, ...] = ()
    references: tuple[int, ...] = ()

    @property
    def is_picture(self) -> bool:
        """Is it a single picture?"""
        return len(self.files) == 1 and not is_video(self.files[0])

    def frames(self) -> Iterator[tuple[float | None, np.ndarray]]:
        """(seconds, frame [H,W,3] uint8) in order.

        Raises:
          UserError: a file that cannot be read.
        """
        if is_video(self.files[0]):
            yield from media.Video(self.files[0]).timed_frames()
            return
        for path in self.files:
            yield None, media.read_image(path)

    def rate(self) -> float:
        """Frames a second; 1 for a picture.

        Raises:
          UserError: a file that cannot be read.
        """
        if self.fps is not None:
            return self.fps
        return media.Video(self.files[0]).fps if is_video(self.files[0]) else 1.0

    def boxes(self, num_frames: int) -> list[list[list[float]]]:
        """`text_boxes` read.

        Raises:
          UserError: broken, or for fewer frames.
        """
        # Lists and tuples of numbers as Python writes them are nearly JSON.
        plain = (self.text_boxes or "[]").translate(str.maketrans("()", "[]"))
        plain = plain.replace("None", "null").replace("nan", "null")
        try:
            told = json.loads(plain)
            made = [[[float(v) for v in box] for box in frame or ()] for frame in told]
            whole = all(len(box) == 4 for frame in made for box in frame)
        except (ValueError, TypeError) as error:
            raise UserError(f"The text boxes of {self.name} are broken.") from error
        if not made:
            return [[]] * num_frames
        if not whole or len(made) < min(num_frames, self.end or num_frames):
            raise UserError(
                f"{self.name} has {num_frames} frames but text boxes for {len(made)}, "
                "or boxes that are not x1, y1, x2, y2."
            )
        return made[:num_frames] + [[]] * (num_frames - len(made))

    def track(self, height: int, width: int) -> Track:
        """Key points from their file, for frames of this size.

        Raises:
          UserError: no such file, other contents, or frames of another aspect.
        """
        assert self.keypoints is not None
        if self.keypoints.suffix == ".npz":
            found = files.read(self.keypoints)
        else:
            found = files.read_release(self.keypoints, *(self.size or (height, width)))
        if abs(found.height * width / (found.width * height) - 1) > _SAME_ASPECT:
            raise UserError(
                f"{self.keypoints} is for frames of {found.height}x{found.width}, but "
                f"{self.name} has {height}x{width}: give key points of the same aspect."
            )
        points = found.keypoints * (width / found.width, height / found.height, 1)
        return Track(points, height, width, found.fps)


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two pictures of one person, by the names of their items."""

    target: str
    source: str
    split: str | None = None
    caption: str = ""


@dataclasses.dataclass(frozen=True)
class Footage:
    """All that a folder holds.

    Attributes:
      items: to be prepared; a picture that a pair names is no row of its own.
      pairs: rows of a target and its source.
      told: sentences on what was found and what was passed over.
    """

    items: tuple[Item, ...]
    pairs: tuple[Pair, ...] = ()
    told: tuple[str, ...] = ()


def is_video(path: Path) -> bool:
    """Is it a video by its name?"""
    return path.suffix.lower() in media.VIDEO_SUFFIXES


def is_picture(path: Path) -> bool:
    """Is it a picture by its name?"""
    return path.suffix.lower() in media.PICTURE_SUFFIXES


def beside(path: Path) -> Path | None:
    """A file of key points that lies beside footage: its name with another ending."""
    for end in (".npz", ".npy", "_pose.npy"):
        there = path.with_name(path.stem + end)
        if there.is_file():
            return there
    return None


def listed(folder: Path) -> Iterator[Path]:
    """All files under a folder in order of their names, but hidden ones."""
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if not hidden and path.is_file():
            yield path


def something(folder: Path, wanted: str, items: list[Item], **more: Any) -> Footage:
    """What was found in a folder.

    Raises:
      UserError: nothing, where `wanted` was.
    """
    if not items:
        raise UserError(f"{folder} holds no {wanted}: name another folder or layout.")
    return Footage(tuple(items), **more)


def columns(path: Path) -> set[str]:
    """Names in the first line of a table."""
    with open(path, newline="", errors="replace") as file:
        try:
            return set(next(csv.reader(file), ()))
        except csv.Error:
            return set()  # no table


def rows(path: Path) -> Iterator[dict[str, str]]:
    """Lines of a table by column; what a line lacks is "".

    Raises:
      UserError: it is no table.
    """
    csv.field_size_limit(sys.maxsize)  # boxes of a long video are a long field
    with open(path, newline="", errors="replace") as file:
        try:
            for row in csv.DictReader(file, restval=""):
                yield {k: v for k, v in row.items() if isinstance(k, str)}
        except csv.Error as error:
            raise UserError(f"{path} is no table: {error}.") from error


def there(folder: Path, text: str) -> Path | None:
    """The file that a table in a folder means, wherever the table was written.

    As it stands, under the folder, or under it without its first parts.
    """
    path = Path(text)
    parts = path.parts[1:] if path.is_absolute() else path.parts
    shorter = (folder.joinpath(*parts[i:]) for i in range(len(parts)))
    places = [*([path] if path.is_absolute() else []), *shorter]
    return next((place for place in places if place.is_file()), None)
