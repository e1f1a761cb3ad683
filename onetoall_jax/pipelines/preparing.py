"""From a picture and a driving clip to the prepared pair, by settings."""

import dataclasses
import json
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from onetoall_jax import media
from onetoall_jax.alignment.align import AlignConfig
from onetoall_jax.errors import UserError
from onetoall_jax.pipelines import artefact, prepare_pair
from onetoall_jax.pipelines.animator import Animator, Setup
from onetoall_jax.pipelines.prepare_pair import Prepared
from onetoall_jax.pose import choice, detect
from onetoall_jax.pose.detect import Search
from onetoall_jax.pose.files import Track


@dataclasses.dataclass(frozen=True)
class PrepareConfig:
    """How a pair is made ready.

    Attributes:
      alignment: how reference and driving clip are brought together.
      height, width: of the result; None follows the reference.
      num_frames: at most so many; None takes the whole clip.
      fps: "native", or frames a second to take of the driving clip.
      person, reference_person: whom to take of several; see `choice.choose`.
    """

    alignment: AlignConfig = AlignConfig()
    height: int | None = None
    width: int | None = None
    num_frames: int | None = None
    fps: str = prepare_pair.NATIVE
    person: str = choice.ONLY
    reference_person: str = choice.ONLY

    def __post_init__(self) -> None:
        if (self.height is None) != (self.width is None):
            raise UserError("Give both height and width, or neither.")
        if self.num_frames is not None and self.num_frames < 1:
            raise UserError(f"num_frames={self.num_frames}: give at least 1.")
        for person in (self.person, self.reference_person):
            choice.check(person)

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width, where they are set."""
        if self.height is None or self.width is None:
            return None
        return self.height, self.width


class Pair(NamedTuple):
    """What is to be animated, and by what.

    Attributes:
      reference: a picture.
      driving: a video, a picture (image pose transfer) or key points (.npz).
      reference_keypoints, driving_keypoints: files instead of detection; see
        `detect.given`.
    """

    reference: Path
    driving: Path
    reference_keypoints: Path | None = None
    driving_keypoints: Path | None = None


@dataclasses.dataclass(frozen=True)
class Preparer:
    """Makes a pair ready for a model.

    Attributes:
      pair: None where only a prepared folder is given.
    """

    model: Animator | Setup
    pair: Pair | None
    config: PrepareConfig
    search: Search

    def __call__(self, folder: Path) -> Prepared:
        """The prepared pair in a folder: used again, or made.

        Raises:
          UserError: anything about the pair, or about the folder.
        """
        geometry, cap = self.model.codec.geometry, self.model.sampling.short_side
        if self.pair is None:
            return artefact.given(folder, geometry, cap, self._shown)
        return artefact.obtain(folder, self._made_of(), self._aligned)

    def _made_of(self) -> dict[str, Any]:
        assert self.pair is not None
        made: dict[str, Any] = {
            k: artefact.digest(v) for k, v in self.pair._asdict().items()
        }
        made |= dataclasses.asdict(self.config)
        made |= {
            "detector": self.search.detector,
            "colours": self.search.colours,
            "canvas_side": self.model.canvas_side,
            "short_side": self.model.sampling.short_side,
        }
        return json.loads(json.dumps(made))

    def _aligned(self) -> Prepared:
        assert self.pair is not None
        pair, config, model = self.pair, self.config, self.model
        picture = media.read_image(pair.reference)
        prepare_pair.output_sizes(
            (picture.shape[0], picture.shape[1]),
            config.size,
            model.sampling.short_side,
            model.codec.geometry,
        )
        shown, own = self._track(
            pair.reference, pair.reference_keypoints, config.reference_person
        )
        moved, notes = self._track(pair.driving, pair.driving_keypoints, config.person)
        moved, more = prepare_pair.timed(moved, config.fps, config.num_frames)
        made = prepare_pair.prepare(
            picture,
            shown,
            moved,
            model.codec.geometry,
            canvas_side=model.canvas_side,
            size=config.size,
            cap=model.sampling.short_side,
            config=config.alignment,
        )
        choices = {**made.choices, **dataclasses.asdict(config)}
        return made._replace(notes=(*own, *notes, *more, *made.notes), choices=choices)

    def _track(
        self, footage: Path, keypoints: Path | None, person: str
    ) -> tuple[Track, tuple[str, ...]]:
        if keypoints is None and footage.suffix == ".npz":
            keypoints = footage
        if keypoints is not None:
            return detect.given(keypoints, footage), ()
        return detect.find(footage, self.search._replace(person=person))

    def _shown(
        self, reference: np.ndarray, size: tuple[int, int]
    ) -> tuple[np.ndarray, list[str]]:
        """Pose of a picture whose folder has none, and what to tell of it."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "reference.png"
            media.write_image(path, reference)
            track, notes = self._track(path, None, self.config.reference_person)
        alone = track._replace(keypoints=track.keypoints[:1])
        made = prepare_pair.prepare(
            reference,
            alone,
            alone,
            self.model.codec.geometry,
            canvas_side=self.model.canvas_side,
            size=size,
            cap=min(size),
            config=AlignConfig("reference"),
        )
        return made.reference_pose, list(notes)
