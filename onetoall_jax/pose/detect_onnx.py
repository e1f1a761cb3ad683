"""The released detectors: two chains of ONNX networks, a person detector and a pose.

    python -m onetoall_jax.pose.detect_onnx --chain=vitpose --models=DIR \\
        --input=dance.mp4 --output=dance.npz

`vitpose` (YOLOv10-m, ViTPose-H whole body) makes the release's poses at inference,
`dwpose` (YOLOX-L, DWPose) those it was trained on. The networks are downloaded by the
user; onnxruntime comes with the extra `pose`.
"""

import argparse
import dataclasses
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from onetoall_jax import errors, media
from onetoall_jax.errors import UserError
from onetoall_jax.pose import decode, files
from onetoall_jax.pose.files import Track
from onetoall_jax.pose.keypoints import COUNT

DEFAULT_MODELS = Path("~/.cache/onetoall_jax/onnx")
_VITPOSE_INPUT = 256, 192  # height, width
_SURE = 0.3  # score of a box that is a person to choose from
BGR, RGB = "bgr", "rgb"
_IN_FOLDER = "end2end.onnx"  # of a network that is a folder


class Session(Protocol):
    """What is used of an `onnxruntime.InferenceSession`."""

    def get_inputs(self) -> Any: ...

    def run(self, outputs: Any, inputs: dict[str, np.ndarray]) -> Any: ...


@dataclasses.dataclass(frozen=True)
class VitPose:
    """YOLOv10 and ViTPose; a frame where nobody is found is taken whole.

    Attributes:
      colours: order in which ViTPose gets them. The release gives "bgr" to a network
        that learned "rgb", a slip that its published results were made with.

    Source: section 3 of the released preprocessing page.
    """

    detector: Session
    pose: Session
    colours: str = BGR
    sees_all = True

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        """RGB uint8 [H,W,3] -> [133,3] float32, pixels and scores."""
        return self.points(frame, None)

    def people(self, frame: np.ndarray) -> np.ndarray:
        """Boxes [n,4] of everybody who is surely there, in pixels."""
        (raw,) = _run(self.detector, decode.person_input(frame))
        found = decode.all_people(raw, *frame.shape[:2])
        return found[found[:, 4] > _SURE, :4]

    def points(self, frame: np.ndarray, box: np.ndarray | None) -> np.ndarray:
        """The same of the person in a box [4], or of the released choice."""
        rows, columns = frame.shape[:2]
        if box is None:
            (raw,) = _run(self.detector, decode.person_input(frame))
            person = decode.choose_person(raw, rows, columns)
        else:
            person = np.append(box, 1.0)
        height, width = _VITPOSE_INPUT
        placed = decode.heatmap_box(person, rows, columns, height / width)
        picture = frame
        if self.colours == BGR:
            picture = np.ascontiguousarray(frame[..., ::-1])
        (maps,) = _run(self.pose, decode.heatmap_input(picture, placed, height, width))
        return _joined(*decode.heatmap_points(maps, placed))


@dataclasses.dataclass(frozen=True)
class DwPose:
    """YOLOX and DWPose; the surest person, or the whole frame.

    Source: section 7 of the released preprocessing page.
    """

    detector: Session
    pose: Session
    sees_all = True

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        """RGB uint8 [H,W,3] -> [133,3] float32, pixels and scores."""
        return self.counted(frame)[0]

    def counted(self, frame: np.ndarray) -> tuple[np.ndarray, int]:
        """The same, and how many people there are; 0 took the whole frame."""
        boxes = self.people(frame)
        first = decode.people_or_frame(boxes, *frame.shape[:2])[0]
        return self.points(frame, first), len(boxes)

    def people(self, frame: np.ndarray) -> np.ndarray:
        """Boxes [n,4] of everybody, in pixels, the surest first."""
        (raw,) = _run(self.detector, decode.letterbox(frame))
        *_, ratio = decode.letterbox_size(*frame.shape[:2])
        return decode.yolox_people(decode.yolox_rows(raw), ratio)

    def points(self, frame: np.ndarray, box: np.ndarray | None) -> np.ndarray:
        """[133,3] of the person in a box [4], or of the surest."""
        if box is None:
            return self.counted(frame)[0]
        height, width = self.pose.get_inputs()[0].shape[2:]
        placed = decode.simcc_box(box, height, width)
        crop = decode.simcc_crop(frame, placed, height, width)
        x, y = _run(self.pose, decode.simcc_input(crop))
        return _joined(*decode.simcc_points(x, y, placed))


class Chain(NamedTuple):
    """How a chain is made and where its networks lie in the folder of models."""

    make: Callable[[Session, Session], VitPose | DwPose]
    detector: str
    pose: str


CHAINS = {
    "vitpose": Chain(VitPose, "det/yolov10m.onnx", "pose2d/vitpose_h_wholebody.onnx"),
    "dwpose": Chain(DwPose, "yolox_l.onnx", "dw-ll_ucoco_384.onnx"),
}


def open_chain(
    name: str,
    models: Path = DEFAULT_MODELS,
    session: Callable[[Path], Session] | None = None,
    colours: str = BGR,
) -> VitPose | DwPose:
    """The chain of a name, from a frame to its key points.

    Args:
      models: folder of the networks, laid out as `CHAINS` says.
      session: opens a network; onnxruntime does where None is given.
      colours: see `VitPose`; the other chain gets them as it learned them.
    Raises:
      UserError: an unknown name or order, a missing network, or no onnxruntime.
    """
    if name not in CHAINS:
        raise UserError(f"There is no chain {name!r}: choose from {sorted(CHAINS)}.")
    if colours not in (BGR, RGB):
        raise UserError(
            f"colours={colours!r}: choose '{BGR}' (as released) or '{RGB}'."
        )
    chain = CHAINS[name]
    paths = [
        _network(Path(models).expanduser() / p) for p in (chain.detector, chain.pose)
    ]
    made = chain.make(*map(session or open_session, paths))
    if isinstance(made, VitPose):
        made = dataclasses.replace(made, colours=colours)
    return made


def _network(path: Path) -> Path:
    file = path / _IN_FOLDER if path.is_dir() else path
    if not file.is_file():
        raise UserError(
            f"There is no network {file}: download it from the release's list of "
            "models and put it there, or name its folder by --models."
        )
    return file


def open_session(path: Path, threads: int = 0) -> Session:
    """A network opened by onnxruntime, on the GPU where its build has one.

    Args:
      threads: of the CPU; 0 takes all.
    Raises:
      UserError: onnxruntime is not installed, or the file is no network.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError(
            "The released detectors need onnxruntime: pip install onetoall-jax[pose]."
        ) from error
    there = onnxruntime.get_available_providers()
    wanted = [
        p for p in ("CUDAExecutionProvider", "CPUExecutionProvider") if p in there
    ]
    more = {}
    if threads:
        more["sess_options"] = onnxruntime.SessionOptions()
        more["sess_options"].intra_op_num_threads = threads
    try:
        return onnxruntime.InferenceSession(str(path), providers=wanted, **more)
    except Exception as error:  # its exceptions share no class of their own
        raise UserError(f"{path} is no network that onnxruntime can open.") from error


def track(
    frames: Iterable[np.ndarray], fps: float, chain: Callable[[np.ndarray], np.ndarray]
) -> Track:
    """Key points of every frame, as the chain finds them.

    Args:
      frames: RGB uint8 [H,W,3], all of one size.
    Raises:
      UserError: no frame, or frames of several sizes.
    """
    found: list[np.ndarray] = []
    height = width = 0
    for frame in frames:
        size = frame.shape[:2]
        if found and size != (height, width):
            raise UserError(
                f"Frame {len(found)} has {size[0]}x{size[1]} pixels, those before it "
                f"{height}x{width}: give frames of one size."
            )
        height, width = size
        found.append(chain(frame))
    if not found:
        raise UserError("There is no frame to find key points in.")
    return Track(np.stack(found), height, width, fps)


def _run(session: Session, sample: np.ndarray) -> list[np.ndarray]:
    """All outputs for one sample, without the batch axis."""
    name = session.get_inputs()[0].name
    return [np.asarray(o)[0] for o in session.run(None, {name: sample[None]})]


def _joined(points: np.ndarray, scores: np.ndarray) -> np.ndarray:
    if points.shape != (COUNT, 2):
        raise UserError(
            f"The pose network finds {len(points)} points, not {COUNT}: give one that "
            "was trained on whole bodies."
        )
    return np.concatenate([points, scores[:, None]], axis=1).astype(np.float32)


@errors.reported
def main(argv: list[str]) -> None:
    """Detects one video or picture and writes its key points."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--chain", choices=sorted(CHAINS), default="vitpose")
    parser.add_argument("--models", type=Path, default=DEFAULT_MODELS)
    parser.add_argument("--colours", choices=(BGR, RGB), default=BGR)
    parser.add_argument("--input", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args(argv)
    if args.input.suffix.lower() in media.VIDEO_SUFFIXES:
        video = media.Video(args.input)
        frames, fps = video.frames(), video.fps
    else:
        frames, fps = iter([media.read_image(args.input)]), 1.0
    chain = open_chain(args.chain, args.models, colours=args.colours)
    files.write(args.output, track(frames, fps, chain))


if __name__ == "__main__":
    main(sys.argv[1:])
