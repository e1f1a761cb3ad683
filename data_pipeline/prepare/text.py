"""Text on screen: boxes from the probability map of a detector that the user has.

The network is one that scores every pixel for being part of a word (DB and its kin, as
exported by OCR packages): input [1,3,h,w] in BGR, standardised, sides multiples of 32;
output [1,1,h,w] in 0..1.
"""

import bisect
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from onetoall_jax.errors import UserError
from onetoall_jax.pose import detect_onnx

_STRIDE = 32
_LONGEST = 960  # side of the network's picture
_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
_STD = np.array([0.229, 0.224, 0.225], np.float32)
_PIXEL, _WORD = 0.3, 0.6  # probability of a pixel, mean of a word
_SMALLEST = 3  # pixels of the map, height and width of a word
# Networks mark the cores of words; area times this, over the circumference, is what is
# missing on each side.
_GROW = 1.5
Boxes = list[list[float]]


class TextDetector:
    """Boxes of the words in a picture.

    Args:
      session: an onnxruntime session of the network.
    """

    def __init__(self, session: detect_onnx.Session):
        self._session = session
        self._name = session.get_inputs()[0].name

    def __call__(self, picture: np.ndarray) -> Boxes:
        """RGB uint8 [H,W,3] -> boxes (x1, y1, x2, y2) in its pixels.

        Raises:
          UserError: the network answers with something else than a map.
        """
        sample = network_input(picture)
        answer = np.asarray(self._session.run(None, {self._name: sample})[0])
        if answer.shape != (1, 1, *sample.shape[2:]):
            raise UserError(
                f"The text detector answers {answer.shape} to {sample.shape}: give a "
                "network that scores every pixel."
            )
        return boxes(answer[0, 0], *picture.shape[:2])


def open_detector(
    path: Path, session: Callable[..., detect_onnx.Session] = detect_onnx.open_session
) -> TextDetector:
    """The detector in an ONNX file.

    Raises:
      UserError: no such file, no network, or no onnxruntime.
    """
    if not path.is_file():
        raise UserError(f"There is no text detector {path}.")
    return TextDetector(session(path))


def network_input(picture: np.ndarray) -> np.ndarray:
    """[1,3,h,w] float32, at most 960 pixels long and both sides multiples of 32."""
    height, width = picture.shape[:2]
    scale = min(1.0, _LONGEST / max(height, width))
    high, wide = (
        max(_STRIDE, round(n * scale / _STRIDE) * _STRIDE) for n in (height, width)
    )
    small = cv2.resize(picture[..., ::-1], (wide, high), interpolation=cv2.INTER_LINEAR)
    even = (small.astype(np.float32) / 255 - _MEAN) / _STD
    return np.ascontiguousarray(even.transpose(2, 0, 1)[None], np.float32)


def boxes(probability: np.ndarray, height: int, width: int) -> Boxes:
    """Boxes of a map [h,w] in pixels of a picture of `height` x `width`, top first.

    Connected pixels above 0.3 are a word if their mean is 0.6 or more; its box grows to
    what the network leaves out around it.
    """
    above = (probability > _PIXEL).astype(np.uint8)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(above, connectivity=8)
    made: Boxes = []
    across, down = width / probability.shape[1], height / probability.shape[0]
    for i in range(1, count):
        x, y, wide, high = (int(v) for v in stats[i, :4])
        if min(wide, high) < _SMALLEST:
            continue
        inside = labels[y : y + high, x : x + wide] == i
        if probability[y : y + high, x : x + wide][inside].mean() < _WORD:
            continue
        more = wide * high * _GROW / (2 * (wide + high))
        made.append(
            [
                max(0.0, x - more) * across,
                max(0.0, y - more) * down,
                min(float(width), (x + wide + more) * across),
                min(float(height), (y + high + more) * down),
            ]
        )
    return made


def spread(found: dict[int, Boxes], num_frames: int) -> list[Boxes]:
    """Boxes of every frame, of which some were looked at: those of both neighbours."""
    looked = sorted(found)
    made = []
    for i in range(num_frames):
        before = looked[bisect.bisect_right(looked, i) - 1]
        after = looked[min(bisect.bisect_left(looked, i), len(looked) - 1)]
        made.append(found[before] + (found[after] if after != before else []))
    return made
