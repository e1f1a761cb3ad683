"""Data sets of clips on disk: TFDS in ArrayRecord, without TensorFlow."""

import contextlib
import dataclasses
import io
import json
import shutil
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tensorflow_datasets as tfds

from onetoall_jax.errors import UserError
from onetoall_jax.pose.keypoints import COUNT

_NAME, _VERSION = "clips", "1.0.0"
_JPEG_START = b"\xff\xd8"
_INDEX = "rows.json"  # sizes of all rows, so that a plan needs no decoding


@dataclasses.dataclass(frozen=True)
class Clip:
    """One clip (or, with a single frame, one picture).

    Attributes:
      frames: [F,H,W,3] uint8, RGB.
      keypoints: [F,133,3], pixels and scores of the one person.
      fps: frames a second.
      poses: [F,H,W,3] uint8, drawn once with face points, or None.
      text_boxes: for each frame, boxes (x1, y1, x2, y2) of on-screen text in pixels.
      lossless: store frames as they are (zlib); otherwise as JPEG of high quality.
    """

    frames: np.ndarray
    keypoints: np.ndarray
    fps: float
    poses: np.ndarray | None = None
    text_boxes: Sequence[Sequence[Sequence[float]]] = ()
    lossless: bool = True


@dataclasses.dataclass(frozen=True)
class RowSizes:
    """Sizes of every row of a split, all [n]: pixels, frames, frames a second."""

    height: np.ndarray
    width: np.ndarray
    num_frames: np.ndarray
    fps: np.ndarray

    def __len__(self) -> int:
        return len(self.height)


def _pack(
    pictures: np.ndarray | None, lossless: bool = True
) -> tuple[bytes, np.ndarray]:
    """(coded pictures one after another, the length of each)."""
    code = _zipped if lossless else _jpeg
    coded = [] if pictures is None else [code(p) for p in pictures]
    return b"".join(coded), np.array([len(c) for c in coded], np.int64)


def _zipped(picture: np.ndarray) -> bytes:
    # Drawn pictures are flat: smaller than PNG at a third of its time.
    return zlib.compress(np.ascontiguousarray(picture).tobytes(), 1)


def _jpeg(picture: np.ndarray) -> bytes:
    reverse = np.ascontiguousarray(picture[..., ::-1])
    return cv2.imencode(".jpg", reverse, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()


def _unpack(
    data: bytes, lengths: np.ndarray, size: tuple[int, int], wanted: Sequence[int]
) -> np.ndarray:
    ends = np.cumsum(lengths)
    coded = (data[ends[i] - lengths[i] : ends[i]] for i in wanted)
    return np.stack([_decoded(c, size) for c in coded])


def _decoded(coded: bytes, size: tuple[int, int]) -> np.ndarray:
    if coded[:2] == _JPEG_START:
        picture = cv2.imdecode(np.frombuffer(coded, np.uint8), cv2.IMREAD_COLOR)
        return np.asarray(picture)[..., ::-1]
    return np.frombuffer(zlib.decompress(coded), np.uint8).reshape(*size, 3)


class _Builder(tfds.core.GeneratorBasedBuilder):
    """Clips of people with whole-body key points."""

    VERSION = tfds.core.Version(_VERSION)
    name = _NAME

    def __init__(self, made: Mapping[str, Iterable[Clip]] | None = None, **kwargs: Any):
        self._made = made or {}
        self.sizes: dict[str, list[tuple]] = {split: [] for split in self._made}
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

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {split: self._generate_examples(split) for split in self._made}

    def _generate_examples(self, split: str) -> Any:
        for i, clip in enumerate(self._made[split]):
            frames, lengths = _pack(clip.frames, clip.lossless)
            poses, pose_lengths = _pack(clip.poses)
            num, height, width, _ = clip.frames.shape
            self.sizes[split].append((height, width, num, clip.fps))
            yield (
                i,
                {
                    "frames": frames,
                    "frame_bytes": lengths,
                    "poses": poses,
                    "pose_bytes": pose_lengths,
                    "keypoints": clip.keypoints.astype(np.float32),
                    "text_boxes": json.dumps(
                        [list(map(list, f)) for f in clip.text_boxes]
                    ),
                    "fps": np.float32(clip.fps),
                    "height": height,
                    "width": width,
                },
            )


def _folder(root: Path) -> Path:
    return Path(root) / _NAME / _VERSION


def exists(root: Path) -> bool:
    """Does `root` hold a finished data set?"""
    return (_folder(root) / _INDEX).is_file()


def write(root: Path, made: Mapping[str, Iterable[Clip]]) -> None:
    """Writes all splits; an interrupted run leaves nothing that looks whole.

    Rows of a split are stored in the order they are made.

    Raises:
      UserError: a split has no clip.
    """
    root = Path(root)
    half = root.with_name(root.name + ".part")
    shutil.rmtree(half, ignore_errors=True)
    tfds.disable_progress_bar()  # the caller shows its own
    builder = _Builder(made, data_dir=str(half))
    with contextlib.redirect_stdout(io.StringIO()):  # it names the passing folder
        builder.download_and_prepare()
    empty = [split for split, rows in builder.sizes.items() if not rows]
    if empty:
        shutil.rmtree(half)
        raise UserError(f"No clip was made for {empty}: nothing was written.")
    (_folder(half) / _INDEX).write_text(json.dumps(builder.sizes))
    root.mkdir(parents=True, exist_ok=True)
    shutil.move(str(half / _NAME), str(root / _NAME))
    shutil.rmtree(half)


class Rows:
    """Random access to one split.

    Raises:
      UserError: there is no such data set or split.
    """

    def __init__(self, root: str | Path, split: str):
        folder = _folder(Path(root))
        if not exists(Path(root)):
            raise UserError(
                f"There is no data set at {root}: make one with "
                f"python -m data_pipeline.synthetic --output={root}"
            )
        index = json.loads((folder / _INDEX).read_text())
        if split not in index:
            raise UserError(f"{root} has no split {split!r}: it has {sorted(index)}.")
        columns = zip(*index[split], strict=True)
        self.sizes = RowSizes(*(np.array(c) for c in columns))
        self._folder, self._split = str(folder), split
        self._source: Any = None

    def __len__(self) -> int:
        return len(self.sizes)

    def __getstate__(self) -> dict[str, Any]:
        # Each worker opens the files itself.
        return {**self.__dict__, "_source": None}

    def read(self, row: int, wanted: Sequence[int]) -> Clip:
        """Frames `wanted` of a row, with their key points, poses and text boxes."""
        if self._source is None:
            builder = tfds.builder_from_directory(self._folder)
            self._source = builder.as_data_source(split=self._split)
        raw = self._source[int(row)]
        size = int(raw["height"]), int(raw["width"])
        poses = None
        if len(raw["pose_bytes"]):
            poses = _unpack(raw["poses"], raw["pose_bytes"], size, wanted)
        boxes = json.loads(raw["text_boxes"])
        return Clip(
            _unpack(raw["frames"], raw["frame_bytes"], size, wanted),
            raw["keypoints"][list(wanted)],
            float(raw["fps"]),
            poses,
            [boxes[i] if boxes else [] for i in wanted],
        )

    def num_frames(self, row: int) -> int:
        """Stored frames of a row."""
        return int(self.sizes.num_frames[row])
