"""Data sets of clips on disk: TFDS in ArrayRecord, without TensorFlow."""

import contextlib
import dataclasses
import errno
import functools
import io
import itertools
import json
import os
import shutil
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core.writer import ExampleWriter
from tensorflow_datasets.proto import tf_example_pb2

from onetoall_jax.errors import UserError
from onetoall_jax.pose.keypoints import COUNT

# What a system says when nothing more can be written.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NAME, _VERSION = "clips", "1.1.0"
_READABLE = (_VERSION, "1.0.0")  # the older one has no captions
# What reading or decoding a damaged record raises.
_DAMAGED = (RuntimeError, ValueError, zlib.error, cv2.error)
_JPEG_START = b"\xff\xd8"
_INDEX = "rows.json"  # sizes of all rows, so that a plan needs no decoding


@dataclasses.dataclass(frozen=True)
class Clip:
    """One clip; with a single frame one picture, with two a target and its source.

    Attributes:
      frames: [F,H,W,3] uint8, RGB.
      keypoints: [F,133,3], pixels and scores of the one person.
      fps: frames a second.
      poses: [F,H,W,3] uint8, drawn once with face points, or None.
      text_boxes: for each frame, boxes (x1, y1, x2, y2) of on-screen text in pixels.
      caption: what somebody said of it; "" where nobody did.
      lossless: store frames as they are (zlib); otherwise as JPEG of high quality.
    """

    frames: np.ndarray
    keypoints: np.ndarray
    fps: float
    poses: np.ndarray | None = None
    text_boxes: Sequence[Sequence[Sequence[float]]] = ()
    caption: str = ""
    lossless: bool = True


class Marks(NamedTuple):
    """Frames of a clip that its footage's table names; without any, all will do.

    Attributes:
      starts: where windows begin.
      references: what may stand beside them.
    """

    starts: tuple[int, ...] = ()
    references: tuple[int, ...] = ()


UNMARKED = Marks()


@dataclasses.dataclass(frozen=True)
class RowSizes:
    """Sizes of every row of a split, all [n]: pixels, frames, frames a second.

    Attributes:
      marks: of every row; () where no row has any.
    """

    height: np.ndarray
    width: np.ndarray
    num_frames: np.ndarray
    fps: np.ndarray
    marks: Sequence[Marks] = ()

    def __len__(self) -> int:
        return len(self.height)

    def marked(self, row: int) -> Marks:
        """Marks of a row."""
        return self.marks[row] if len(self.marks) else UNMARKED


@dataclasses.dataclass(frozen=True)
class Coded:
    """A row as it is stored: the same as a clip, its pictures coded one by one.

    Attributes:
      frames, poses: coded pictures (`code`); no poses where they are drawn when read.
      size: height and width of the pictures.
    """

    frames: Sequence[bytes]
    poses: Sequence[bytes]
    keypoints: np.ndarray
    fps: float
    size: tuple[int, int]
    text_boxes: Sequence[Sequence[Sequence[float]]] = ()
    caption: str = ""
    marks: Marks = UNMARKED

    def sizes(self) -> "Sizes":
        """The row's entry in the index."""
        return (*self.size, len(self.frames), self.fps, self.marks)


Shard = Callable[[], Iterable[Coded]]
# Height, width, frames, frames a second, marks.
Sizes = tuple[int, int, int, float, Marks]


def code(picture: np.ndarray, lossless: bool) -> bytes:
    """A picture [H,W,3] uint8 as it is stored."""
    return _zipped(picture) if lossless else _jpeg(picture)


def coded(clip: Clip) -> Coded:
    """All pictures of a clip coded; drawn poses exactly."""
    return Coded(
        [code(f, clip.lossless) for f in clip.frames],
        [] if clip.poses is None else [code(p, True) for p in clip.poses],
        clip.keypoints,
        clip.fps,
        (clip.frames.shape[1], clip.frames.shape[2]),
        clip.text_boxes,
        clip.caption,
    )


def _zipped(picture: np.ndarray) -> bytes:
    # Drawn pictures are flat: smaller than PNG at a third of its time.
    return zlib.compress(np.ascontiguousarray(picture).tobytes(), 1)


def _jpeg(picture: np.ndarray) -> bytes:
    reverse = np.ascontiguousarray(picture[..., ::-1])
    return cv2.imencode(".jpg", reverse, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()


def _unpack(
    data: bytes, lengths: np.ndarray, size: tuple[int, int], wanted: Sequence[int]
) -> np.ndarray:
    if not len(wanted):
        return np.zeros((0, *size, 3), np.uint8)
    ends = np.cumsum(lengths)
    coded = (data[ends[i] - lengths[i] : ends[i]] for i in wanted)
    return np.stack([_decoded(c, size) for c in coded])


def _decoded(coded: bytes, size: tuple[int, int]) -> np.ndarray:
    if coded[:2] == _JPEG_START:
        picture = cv2.imdecode(np.frombuffer(coded, np.uint8), cv2.IMREAD_COLOR)
        if picture is None:
            raise ValueError("a stored frame is no picture")
        return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)
    return np.frombuffer(zlib.decompress(coded), np.uint8).reshape(*size, 3)


def is_full(error: OSError | RuntimeError) -> bool:
    """Is it that nothing more could be written?

    The writer of these files has only words for what the system said.
    """
    if isinstance(error, OSError):
        return error.errno in _FULL
    return any(os.strerror(number) in str(error) for number in _FULL)


class _Writer(ExampleWriter):
    """Writes the fields of a row in one order: else it differs from run to run."""

    def write(self, path: Any, examples: Iterable[tuple[Any, bytes]]) -> Any:
        try:
            return super().write(path, ((k, _ordered(row)) for k, row in examples))
        except RuntimeError as error:
            if not is_full(error):
                raise
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path) from error


def _ordered(row: bytes) -> bytes:
    parsed = tf_example_pb2.Example.FromString(row)
    return parsed.SerializeToString(deterministic=True)


class _Builder(tfds.core.ShardBasedBuilder):
    """Clips of people with whole-body key points."""

    VERSION = tfds.core.Version(_VERSION)
    name = _NAME

    def __init__(
        self, made: Mapping[str, Sequence[Shard]] | None = None, **kwargs: Any
    ):
        self._made = made or {}
        super().__init__(**kwargs, file_format="array_record")

    def _info(self) -> tfds.core.DatasetInfo:
        blob = tfds.features.Tensor(shape=(), dtype=np.object_)
        lengths = tfds.features.Tensor(shape=(None,), dtype=np.int64)
        features = {
            "frames": blob,
            "frame_bytes": lengths,
            "poses": blob,
            "pose_bytes": lengths,
            "keypoints": tfds.features.Tensor(shape=(None, COUNT, 3), dtype=np.float32),
            "text_boxes": tfds.features.Text(),
            "caption": tfds.features.Text(),
            "fps": np.float32,
            "height": np.int64,
            "width": np.int64,
        }
        # Asking TFDS for the default info would look for a package folder of its own.
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(features),
            disable_shuffling=True,  # the index follows the order of making
        )

    def _example_writer(self) -> ExampleWriter:
        return _Writer(self.info.file_format)

    def _shard_iterators_per_split(self, dl_manager: Any) -> dict[str, Any]:
        return {
            split: [functools.partial(_examples, shard) for shard in shards]
            for split, shards in self._made.items()
        }


def _examples(shard: Shard) -> Iterator[tuple[int, dict[str, Any]]]:
    for i, row in enumerate(shard()):
        yield i, _fields(row)


def _fields(row: Coded) -> dict[str, Any]:
    return {
        "frames": b"".join(row.frames),
        "frame_bytes": np.array([len(f) for f in row.frames], np.int64),
        "poses": b"".join(row.poses),
        "pose_bytes": np.array([len(p) for p in row.poses], np.int64),
        "keypoints": row.keypoints.astype(np.float32),
        "text_boxes": json.dumps([list(map(list, f)) for f in row.text_boxes]),
        "caption": row.caption,
        "fps": np.float32(row.fps),
        "height": row.size[0],
        "width": row.size[1],
    }


def _folder(root: Path) -> Path:
    return Path(root) / _NAME / _VERSION


def _finished(root: Path) -> Path | None:
    """Folder of the finished data set in `root`."""
    folders = (Path(root) / _NAME / version for version in _READABLE)
    return next((f for f in folders if (f / _INDEX).is_file()), None)


def exists(root: Path) -> bool:
    """Does `root` hold a finished data set?"""
    return _finished(root) is not None


def write(
    root: Path,
    made: Mapping[str, Iterable[Clip]],
    counts: Mapping[str, int] | None = None,
    each: int = 256,
) -> None:
    """Writes clips in the order they are made, coded as they come.

    Args:
      counts: rows of every split, to store them in files of `each` rows, which is what
        memory holds; where None is given, a split is one file.
    Raises:
      UserError: a split has no clip.
    """
    sizes: dict[str, list[Sizes]] = {split: [] for split in made}

    def measured(
        split: str, rows: Iterator[Clip], count: int | None
    ) -> Iterator[Coded]:
        for clip in itertools.islice(rows, count):
            row = coded(clip)
            sizes[split].append(row.sizes())
            yield row

    shards: dict[str, list[Shard]] = {}
    for split, clips in made.items():
        rows, files, length = iter(clips), 1, None
        if counts is not None:
            files, length = max(1, -(-counts[split] // each)), each
        shards[split] = [functools.partial(measured, split, rows, length)] * files
    write_shards(root, shards, sizes)


def write_shards(
    root: Path,
    shards: Mapping[str, Sequence[Shard]],
    sizes: Mapping[str, Sequence[Sizes]],
    beam: tfds.download.DownloadConfig | None = None,
) -> None:
    """Writes all splits, a file for each shard; until all is written, nothing is there.

    A shard is coded and held in memory as a whole.

    Args:
      sizes: of all rows of a split, in order; may be filled while shards are made.
      beam: with a Beam runner, which then writes the shards side by side.
    Raises:
      UserError: a split has no clip.
    """
    root = Path(root)
    half = root.with_name(root.name + ".part")
    shutil.rmtree(half, ignore_errors=True)
    tfds.disable_progress_bar()  # the caller shows its own
    builder = _Builder(shards, data_dir=str(half))
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # it names the passing folder
            builder.download_and_prepare(download_config=beam)
        empty = [split for split in shards if not sizes[split]]
        if empty:
            raise UserError(f"No clip was made for {empty}: nothing was written.")
        _lengths_in_order(_folder(half))
        (_folder(half) / _INDEX).write_text(json.dumps(sizes))
    except BaseException:
        shutil.rmtree(half, ignore_errors=True)
        raise
    root.mkdir(parents=True, exist_ok=True)
    shutil.move(str(half / _NAME), str(root / _NAME))
    shutil.rmtree(half)


def _lengths_in_order(folder: Path) -> None:
    """Mends what Beam leaves: TFDS sorts lengths of files as words, 10 before 2."""
    path = folder / "dataset_info.json"
    told = json.loads(path.read_text())
    for split in told["splits"]:
        noted = folder / f"{_NAME}-{split['name']}.shard_infos.json"
        if noted.exists():
            lengths = json.loads(noted.read_text())
            every = range(len(lengths))
            split["shardLengths"] = [str(lengths[str(i)]) for i in every]
            noted.unlink()
    path.write_text(json.dumps(told, indent=2))


def _check_files(folder: Path, split: str) -> None:
    """Raises UserError if a file of a split is missing."""
    told = json.loads((folder / "dataset_info.json").read_text())
    lengths = next(s["shardLengths"] for s in told["splits"] if s["name"] == split)
    for i in range(len(lengths)):
        name = f"{_NAME}-{split}.array_record-{i:05d}-of-{len(lengths):05d}"
        if not (folder / name).is_file():
            raise UserError(
                f"{folder / name} is missing: restore it, or prepare the data set anew."
            )


def _entry(row: Sequence[Any]) -> Sizes:
    """A row of the index; those of older data sets have no marks."""
    height, width, frames, fps, *marks = row
    starts, references = marks[0] if marks else ((), ())
    return height, width, frames, fps, Marks(tuple(starts), tuple(references))


class Rows:
    """Random access to one split.

    Raises:
      UserError: there is no such data set or split, or a file of it is missing.
    """

    def __init__(self, root: str | Path, split: str):
        folder = _finished(Path(root))
        if folder is None:
            raise UserError(
                f"There is no data set at {root}: make one with "
                f"python -m data_pipeline.synthetic --output={root}"
            )
        index = json.loads((folder / _INDEX).read_text())
        if split not in index:
            raise UserError(f"{root} has no split {split!r}: it has {sorted(index)}.")
        _check_files(folder, split)
        entries = list(map(_entry, index[split]))
        height, width, frames, fps = (
            np.array([e[i] for e in entries]) for i in range(4)
        )
        marks = [entry[4] for entry in entries]
        known = marks if any(map(any, marks)) else ()
        self.sizes = RowSizes(height, width, frames, fps, known)
        self._folder, self._split = str(folder), split
        self._source: Any = None

    def __len__(self) -> int:
        return len(self.sizes)

    def __getstate__(self) -> dict[str, Any]:
        # Each worker opens the files itself.
        return {**self.__dict__, "_source": None}

    def read(
        self,
        row: int,
        wanted: Sequence[int],
        shown: Sequence[int] | None = None,
        *,
        poses: bool = True,
    ) -> Clip:
        """Frames `wanted` of a row, with their key points, poses and text boxes.

        Args:
          shown: those whose pictures are decoded; None decodes all that are wanted.
          poses: read stored poses.
        Raises:
          UserError: the row is damaged.
        """
        source = self._opened()
        try:
            raw = source[int(row)]
            size = int(raw["height"]), int(raw["width"])
            drawn = None
            if poses and len(raw["pose_bytes"]):
                drawn = _unpack(raw["poses"], raw["pose_bytes"], size, wanted)
            seen = wanted if shown is None else shown
            frames = _unpack(raw["frames"], raw["frame_bytes"], size, seen)
        except _DAMAGED as error:
            raise UserError(
                f"Row {row} of {self._folder} ({self._split}) is damaged: restore its "
                "files, or prepare the data set anew, then start again: training goes "
                "on from its last checkpoint."
            ) from error
        boxes = json.loads(raw["text_boxes"])
        return Clip(
            frames,
            raw["keypoints"][list(wanted)],
            float(raw["fps"]),
            drawn,
            [boxes[i] if boxes else [] for i in wanted],
            raw.get("caption", b"").decode(),
        )

    def _opened(self) -> Any:
        if self._source is None:
            builder = tfds.builder_from_directory(self._folder)
            try:
                source = builder.as_data_source(split=self._split)
                len(source) and source[0]
            except _DAMAGED as error:
                cause = str(error).splitlines()[0][:120]
                raise UserError(
                    f"A file of {self._folder} ({self._split}) cannot be read "
                    f"({cause}): restore it, or prepare the data set anew."
                ) from error
            self._source = source
        return self._source

    def num_frames(self, row: int) -> int:
        """Stored frames of a row."""
        return int(self.sizes.num_frames[row])
