"""A video that is being drawn: finished segments, kept so that a killed run goes on."""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from onetoall_jax import media
from onetoall_jax.errors import UserError
from onetoall_jax.sampling.clip import Made

_REQUEST, _JOURNAL, _SEGMENTS, _LOCK = (
    "request.json", "journal.jsonl", "segments", "lock",
)  # fmt: skip


class Entry(NamedTuple):
    """A finished segment.

    Attributes:
      start, length: frames of the clip.
      tone: as in `clip.Made`; measures: of `drift.measure`; seconds: drawing it took.
      file: its frames; digest: their SHA-256.
    """

    start: int
    length: int
    tone: list
    measures: dict[str, Any]
    seconds: float
    file: str
    digest: str


class Unfinished:
    """The folder of one request; only one process at a time may hold it.

    Args:
      request: all that the frames depend on, ready for JSON.
    Raises:
      UserError: the folder belongs to another request or another process, or cannot be
        written.
    """

    def __init__(self, folder: Path, request: Mapping[str, Any]):
        self.folder = folder
        try:
            (folder / _SEGMENTS).mkdir(parents=True, exist_ok=True)
            self._lock = open(folder / _LOCK, "w")
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._claim(json.loads(json.dumps(request)))
        except BlockingIOError as error:
            raise UserError(f"Another process is drawing {folder}.") from error
        except OSError as error:
            raise UserError(f"{folder} cannot be written: {error.strerror}.") from error
        self.entries = list(self._whole())

    def _claim(self, request: Mapping[str, Any]) -> None:
        path = self.folder / _REQUEST
        if not path.exists():
            _put(path, json.dumps(request, indent=1).encode())
        before = json.loads(path.read_text())
        if before != request:
            names = [k for k in request if before.get(k) != request[k]]
            raise UserError(
                f"{self.folder} is an unfinished run with another "
                f"{', '.join(names)}: remove it, or choose another --out."
            )

    def _whole(self) -> Iterator[Entry]:
        """Entries as far as all of them are there to the bit."""
        path = self.folder / _JOURNAL
        for line in path.read_text().splitlines() if path.exists() else ():
            try:
                entry = Entry(**json.loads(line))
                data = (self.folder / _SEGMENTS / entry.file).read_bytes()
            except (OSError, ValueError, TypeError):
                return  # torn by the kill
            if hashlib.sha256(data).hexdigest() != entry.digest:
                return
            yield entry

    def keep(self, count: int) -> None:
        """Forgets all but the first `count` segments."""
        self.entries = self.entries[:count]
        lines = [json.dumps(e._asdict()) + "\n" for e in self.entries]
        _put(self.folder / _JOURNAL, "".join(lines).encode())

    def add(self, made: Made, measures: dict[str, Any], seconds: float) -> None:
        """Keeps a segment; only then is it finished."""
        name = f"{len(self.entries):05d}.mkv"
        path = self.folder / _SEGMENTS / name
        media.write_lossless(path, made.frames_u8[0])
        _synced(path)
        entry = Entry(
            made.segment.start,
            made.segment.length,
            made.tone.tolist(),
            measures,
            seconds,
            name,
            hashlib.sha256(path.read_bytes()).hexdigest(),
        )
        with open(self.folder / _JOURNAL, "a") as journal:
            journal.write(json.dumps(entry._asdict()) + "\n")
            journal.flush()
            os.fsync(journal.fileno())
        self.entries.append(entry)

    def frames(self, index: int) -> np.ndarray:
        """Frames [F,H,W,3] of a finished segment."""
        return media.read_lossless(self.folder / _SEGMENTS / self.entries[index].file)

    def finish(self, out: Path) -> None:
        """Gives the folder its name; only the results stay in it."""
        os.replace(self.folder, out)
        shutil.rmtree(out / _SEGMENTS)
        for name in (_REQUEST, _JOURNAL, _LOCK):
            (out / name).unlink()
        self._lock.close()

    def leave(self) -> bool:
        """Lets go of the folder; removes it, unless there is something to go on from.

        Returns:
          Is it still there?
        """
        self._lock.close()
        if not self.entries:
            shutil.rmtree(self.folder, ignore_errors=True)
        return bool(self.entries)


def _put(path: Path, data: bytes) -> None:
    beside = path.with_name(path.name + ".part")
    beside.write_bytes(data)
    _synced(beside)
    os.replace(beside, path)


def _synced(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())
