"""The offline detector: MediaPipe in an environment of its own, fed frame by frame."""

import struct
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from onetoall_jax.errors import UserError
from onetoall_jax.pose import choice
from onetoall_jax.pose.keypoints import BODY, COUNT

_FORGET, _PICTURE, _NEXT = 0, 1, 2  # see `offline_worker`
_SURE, _JOINTS = 0.5, 6  # so many body points above the score are a person
_SHOULDERS = [5, 6]
_MOST = 4  # people looked for


class Offline:
    """MediaPipe's detector; it finds one person a frame, and has no small toes."""

    name = "mediapipe"
    sees_all = False

    def __init__(self, python: Path):
        self._python = python
        self._process: Any = None

    def __call__(
        self, frames: Iterable[np.ndarray], *, still: bool = False
    ) -> np.ndarray:
        """Frames [H,W,3] uint8 of one size -> key points [F,133,3].

        Args:
          still: no frame tells of the next one.
        Raises:
          UserError: the detector failed.
        """
        self.begin()
        made = [self.points(frame, None, still=still) for frame in frames]
        return np.stack(made) if made else np.zeros((0, COUNT, 3), np.float32)

    def begin(self) -> None:
        """The next frame belongs to another clip."""
        self._ask(struct.pack("<iii", _FORGET, 0, 0), 0)

    def people(self, frame: np.ndarray) -> np.ndarray:
        """Boxes [n,4] in pixels: whoever is found is painted over, until nobody is."""
        rest = frame.copy()
        found = np.zeros((0, 4))
        while len(found) < _MOST:
            points = self.points(rest, None, still=True)
            if not _is_person(points):
                break
            box = choice.around(points[BODY], frame.shape[:2], 0.1)
            if len(found) and choice.overlaps(box, found).max() > 0.3:
                break  # a shadow of somebody painted over
            found = np.concatenate([found, box[None]])
            x0, y0, x1, y1 = box.astype(int)
            rest[y0:y1, x0:x1] = frame.reshape(-1, 3).mean(axis=0)
        return found

    def points(
        self, frame: np.ndarray, box: np.ndarray | None, *, still: bool = False
    ) -> np.ndarray:
        """[133,3] pixels and scores of the person in a box, all 0 if nobody.

        Args:
          box: [4] in pixels, or None for the whole frame.
          still: as in `__call__`.
        """
        if box is not None:
            x0, y0, x1, y1 = box.astype(int)
            seen = np.full_like(frame, 127)
            seen[y0:y1, x0:x1] = frame[y0:y1, x0:x1]
            frame = seen
        head = struct.pack("<iii", _PICTURE if still else _NEXT, *frame.shape[:2])
        data = self._ask(head + np.ascontiguousarray(frame).tobytes(), 4 * COUNT * 3)
        return np.frombuffer(data, "<f4").reshape(COUNT, 3).astype(np.float32)

    def _ask(self, question: bytes, size: int) -> bytes:
        if self._process is None:
            self._start()
        try:
            self._process.stdin.write(question)
            self._process.stdin.flush()
            data = self._process.stdout.read(size)
            if len(data) < size:
                raise EOFError
        except BaseException as error:
            # Half a question may have been sent: it has to start afresh.
            last = self._stopped()
            if isinstance(error, BrokenPipeError | EOFError):
                raise UserError(f"The offline detector failed: {last}.") from error
            raise
        return data

    def _start(self) -> None:
        self._errors = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            [str(self._python), str(Path(__file__).with_name("offline_worker.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
        )

    def _stopped(self) -> str:
        """Ends the process; its last words."""
        self._process.kill()
        self._process.communicate()
        self._process = None
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace").strip().splitlines()
        return said[-1] if said else "no message"


def _is_person(points: np.ndarray) -> bool:
    scores = points[BODY, 2]
    many = (scores > _SURE).sum() >= _JOINTS
    return bool(many and (scores[_SHOULDERS] > _SURE).all())
