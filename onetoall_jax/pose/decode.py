"""From the raw outputs of the released detectors to one person's 133 points.

Two chains: YOLOv10 with ViTPose (inference) and YOLOX with DWPose (training). The
networks themselves are not here, only what stands before and after them. Orders of
operations and number types are the release's: integer boxes meet exact halves and
coordinates are cut to whole pixels, so the last bit decides.

Source: sections 3 and 7 of the released preprocessing page.
"""

from typing import NamedTuple

import cv2
import numpy as np

MEAN = np.array((0.485, 0.456, 0.406))
STD = np.array((0.229, 0.224, 0.225))
_SIDE = 640  # of the person detectors' input
_PADDING = 1.25  # of a person's box
_UNIT = 200.0  # in which box sizes are kept
_SMALLEST = 10  # a narrower box is no person


class Box(NamedTuple):
    """What a pose network looks at, in pixels of the picture: centre [2], size [2]."""

    centre: np.ndarray
    size: np.ndarray


# --- YOLOv10 -------------------------------------------------------------------------


def person_input(picture: np.ndarray) -> np.ndarray:
    """RGB [H,W,3] -> [3,640,640] float32 in 0..1; the aspect is not kept."""
    resized = cv2.resize(picture, (_SIDE, _SIDE), interpolation=cv2.INTER_LINEAR)
    return (resized / 255).transpose(2, 0, 1).astype(np.float32)


def choose_person(
    raw: np.ndarray,
    height: int,
    width: int,
    sure: float = 0.05,
    overlap: float = 0.5,
    share: float = 0.4,
) -> np.ndarray:
    """The person of a frame: x1, y1, x2, y2 in pixels and the score, float64.

    The largest box; one whose longer side is under `share` of the longest is no rival.

    Args:
      raw: [n,6] corners, score and class at 640x640, or [84,n] centres, sizes and
        class scores.
    Returns:
      [5]; the whole frame with score -1 where there is nobody.
    """
    best, area = np.array([0, 0, width, height, -1], np.float64), -np.inf
    people = all_people(raw, height, width, sure, overlap)
    longest = max(((p[2:4] - p[:2]).max() for p in people), default=0)
    for person in people:
        wide, tall = person[2:4] - person[:2]
        if wide * tall > area and max(wide, tall) >= share * longest:
            best, area, longest = person, wide * tall, max(wide, tall)
    return best


def all_people(
    raw: np.ndarray, height: int, width: int, sure: float = 0.05, overlap: float = 0.5
) -> np.ndarray:
    """Everybody in a frame, [n,5] as `choose_person` gives one, the surest first."""
    boxes, scores, classes = _found(raw, height, width, sure)
    order = cv2.dnn.NMSBoxes(boxes.tolist(), scores.tolist(), sure, overlap)
    people = []
    for i in np.array(order, int).ravel():
        x, y, wide, tall = boxes[i].tolist()
        if classes[i] == 0 and scores[i] > sure:
            people.append([x, y, x + wide, y + tall, scores[i]])
    return np.array(people, np.float64).reshape(-1, 5)


def _found(
    raw: np.ndarray, height: int, width: int, sure: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(x, y, width, height [n,4] int32 in pixels, scores [n] float64, classes [n])."""
    factor = np.array([width, height]) / _SIDE
    if raw.shape[-1] == 6:
        rows = raw[raw[:, 4] >= sure]
        scores, classes = rows[:, 4], rows[:, 5]
        # Sizes are differences of corners that were rounded to the raw type.
        low = (rows[:, :2] * factor).astype(raw.dtype)
        sizes = (rows[:, 2:4] * factor).astype(raw.dtype) - low
    else:
        rows = raw.T[raw[4:].max(axis=0) >= sure]
        scores, classes = rows[:, 4:].max(axis=1), rows[:, 4:].argmax(axis=1)
        low = (rows[:, :2] - rows[:, 2:4] / 2) * factor
        sizes = rows[:, 2:4] * factor
    boxes = np.concatenate([low, sizes], axis=1).astype(np.int32)
    return boxes, scores.astype(np.float64), classes


# --- ViTPose -------------------------------------------------------------------------


def heatmap_box(
    box: np.ndarray | None, height: int, width: int, aspect: float = 4 / 3
) -> Box:
    """Box of the network's aspect (height over width) around a person.

    Args:
      box: [5] of `choose_person`, or None; an unsure or narrow one is the whole frame.
    """
    if box is None or box[4] <= 0 or min(box[2] - box[0], box[3] - box[1]) < _SMALLEST:
        box = np.array([0, 0, width, height, 1], np.float64)
    centre = np.array([(box[0] + box[2]) / 2, (box[1] + box[3]) / 2])
    tall = max(aspect * (box[2] - box[0]), box[3] - box[1])
    tall = _UNIT * ((tall / _UNIT) * _PADDING)
    return Box(centre, np.array([tall / aspect, tall]))


def heatmap_input(picture: np.ndarray, box: Box, height: int, width: int) -> np.ndarray:
    """Channels as they come [H,W,3] -> [3,height,width] float32, normalised.

    The release gives BGR here, with means and deviations of RGB.
    """
    corners = []
    for n, c, e in zip((width, height), box.centre, box.size, strict=True):
        g = 1 / (n / e)
        first = -(n * (-c / e + 0.5)) * g
        corners.append((round(float(first)), round(float(g * n + first))))
    (left, right), (top, bottom) = corners
    crop = np.zeros((bottom - top, right - left, 3), np.float32)
    y0, y1 = max(0, top), min(picture.shape[0], bottom)
    x0, x1 = max(0, left), min(picture.shape[1], right)
    if y0 < y1 and x0 < x1:
        crop[y0 - top : y1 - top, x0 - left : x1 - left] = picture[y0:y1, x0:x1]
    resized = cv2.resize(crop, (width, height), interpolation=cv2.INTER_LINEAR)
    return ((resized / 255 - MEAN) / STD).transpose(2, 0, 1).astype(np.float32)


def heatmap_points(heatmaps: np.ndarray, box: Box) -> tuple[np.ndarray, np.ndarray]:
    """(points [K,2] in pixels of the picture, scores [K]) of maps [K,h,w].

    The highest pixel, refined by one Newton step on the logarithm of the blurred map.
    """
    count, height, width = heatmaps.shape
    flat = heatmaps.reshape(count, -1)
    scores, index = flat.max(axis=1), flat.argmax(axis=1)
    points = np.stack([index % width, index // width], axis=1).astype(np.float32)
    points[scores <= 0] = -1
    for k in np.flatnonzero(scores > 0):
        points[k] += _step(np.log(np.maximum(_blurred(heatmaps[k]), 1e-10)), points[k])
    placed = points * (box.size / (width, height)) + box.centre - box.size / 2
    return placed.astype(np.float32), scores


def _blurred(heatmap: np.ndarray, kernel: int = 11) -> np.ndarray:
    edge = (kernel - 1) // 2
    wide = np.pad(heatmap.astype(np.float32), edge)
    soft = cv2.GaussianBlur(wide, (kernel, kernel), 0)[edge:-edge, edge:-edge]
    return soft * (heatmap.max() / soft.max())


def _step(h: np.ndarray, point: np.ndarray) -> np.ndarray:
    x, y = int(point[0]), int(point[1])
    if not (1 < x < h.shape[1] - 2 and 1 < y < h.shape[0] - 2):
        return np.zeros(2, np.float32)
    slope = 0.5 * np.array([h[y, x + 1] - h[y, x - 1], h[y + 1, x] - h[y - 1, x]])
    dxx = 0.25 * (h[y, x + 2] - 2 * h[y, x] + h[y, x - 2])
    dyy = 0.25 * (h[y + 2, x] - 2 * h[y, x] + h[y - 2, x])
    dxy = 0.25 * (h[y + 1, x + 1] - h[y - 1, x + 1] - h[y + 1, x - 1] + h[y - 1, x - 1])
    if dxx * dyy - dxy**2 == 0:
        return np.zeros(2, np.float32)
    try:
        return -np.linalg.inv(np.array([[dxx, dxy], [dxy, dyy]])) @ slope
    except np.linalg.LinAlgError:  # singular only after the solver's own rounding
        return np.zeros(2, np.float32)


# --- YOLOX ---------------------------------------------------------------------------


def letterbox_size(height: int, width: int) -> tuple[int, int, float]:
    """(height, width, ratio) of a picture fitted into the 640 square."""
    ratio = min(_SIDE / height, _SIDE / width)
    return int(height * ratio), int(width * ratio), ratio


def letterbox(picture: np.ndarray) -> np.ndarray:
    """[H,W,3] -> [3,640,640] float32 of 0..255, fitted, top left on grey."""
    height, width, _ = letterbox_size(*picture.shape[:2])
    canvas = np.full((_SIDE, _SIDE, 3), 114, np.uint8)
    canvas[:height, :width] = cv2.resize(
        picture, (width, height), interpolation=cv2.INTER_LINEAR
    )
    return canvas.transpose(2, 0, 1).astype(np.float32)


def yolox_rows(raw: np.ndarray, strides: tuple[int, ...] = (8, 16, 32)) -> np.ndarray:
    """Raw rows [n,85] -> the same with centre and size in pixels of the 640 square."""
    grids, steps = [], []
    for stride in strides:
        side = _SIDE // stride
        y, x = np.mgrid[:side, :side]
        grids.append(np.stack([x, y], axis=-1).reshape(-1, 2))
        steps.append(np.full((side * side, 1), stride))
    grid, step = np.concatenate(grids), np.concatenate(steps)
    made = raw.copy()
    made[:, :2] = (raw[:, :2] + grid) * step
    made[:, 2:4] = np.exp(raw[:, 2:4]) * step
    return made


def yolox_people(
    rows: np.ndarray,
    ratio: float,
    overlap: float = 0.45,
    first: float = 0.1,
    final: float = 0.3,
) -> np.ndarray:
    """Boxes [n,4] of people (x1, y1, x2, y2 in pixels of the picture), best first.

    Args:
      rows: of `yolox_rows`; ratio: of `letterbox_size`.
      first, final: scores to be passed before and after overlaps are dropped.
    """
    centre, half = rows[:, :2], rows[:, 2:4] / 2
    boxes = np.concatenate([centre - half, centre + half], axis=1) / ratio
    scores = rows[:, 4] * rows[:, 5]  # of the class of people
    kept = scores > first
    boxes, scores = boxes[kept], scores[kept]
    chosen = _without_overlaps(boxes, scores, overlap)
    people = [boxes[i] for i in chosen if float(scores[i]) > final]
    return np.array(people, np.float64).reshape(-1, 4)


def _without_overlaps(
    boxes: np.ndarray, scores: np.ndarray, overlap: float
) -> list[int]:
    areas = (boxes[:, 2] - boxes[:, 0] + 1) * (boxes[:, 3] - boxes[:, 1] + 1)
    rest, chosen = scores.argsort()[::-1], []
    while rest.size:
        i, rest = rest[0], rest[1:]
        chosen.append(int(i))
        low = np.maximum(boxes[i, :2], boxes[rest, :2])
        high = np.minimum(boxes[i, 2:], boxes[rest, 2:])
        shared = np.prod(np.maximum(0.0, high - low + 1), axis=1)
        rest = rest[shared / (areas[i] + areas[rest] - shared) <= overlap]
    return chosen


# --- DWPose --------------------------------------------------------------------------

_SIMCC_MEAN = np.array((123.675, 116.28, 103.53))
_SIMCC_STD = np.array((58.395, 57.12, 57.375))
_SIMCC_SPLIT = 2.0


def people_or_frame(people: np.ndarray, height: int, width: int) -> np.ndarray:
    """Boxes [n,4] of `yolox_people`, or the whole frame where nobody was found."""
    return people if len(people) else np.array([[0, 0, width, height]], np.float64)


def simcc_box(box: np.ndarray, height: int, width: int) -> Box:
    """Padded box of the network's aspect around x1, y1, x2, y2.

    Args:
      height, width: of the network's input.
    """
    centre = np.array([box[0] + box[2], box[1] + box[3]], np.float64) * 0.5
    wide, tall = np.array([box[2] - box[0], box[3] - box[1]], np.float64) * _PADDING
    aspect = width / height
    if wide > tall * aspect:
        tall = wide / aspect
    else:
        wide = tall * aspect
    return Box(centre, np.array([wide, tall]))


def simcc_crop(picture: np.ndarray, box: Box, height: int, width: int) -> np.ndarray:
    """The box of a picture as [height,width,3] uint8."""
    half = np.array((width, height)) * 0.5
    scale = width / box.size[0]
    shift = half - scale * box.centre
    matrix = np.array([[scale, 0, shift[0]], [0, scale, shift[1]]])
    return cv2.warpAffine(picture, matrix, (width, height), flags=cv2.INTER_LINEAR)


def simcc_input(crop: np.ndarray) -> np.ndarray:
    """[3,h,w] float32, normalised."""
    return ((crop - _SIMCC_MEAN) / _SIMCC_STD).transpose(2, 0, 1).astype(np.float32)


def simcc_points(
    x: np.ndarray, y: np.ndarray, box: Box
) -> tuple[np.ndarray, np.ndarray]:
    """(points [K,2] in pixels, scores [K]) of profiles [K,2w] and [K,2h]."""
    highest = np.stack([x.max(axis=1), y.max(axis=1)])
    scores = highest.min(axis=0)
    points = np.stack([x.argmax(axis=1), y.argmax(axis=1)], axis=1).astype(np.float64)
    points[scores <= 0] = -1
    points /= _SIMCC_SPLIT
    size = np.array([x.shape[1], y.shape[1]]) / _SIMCC_SPLIT
    return points / size * box.size + box.centre - box.size / 2, scores


# Of the 134 points with a neck: place -> the point that goes there.
_PLACES = (1, 2, 3, 4, 6, 7, 8, 9, 10, 12, 13, 14, 15, 16, 17)
_POINTS = (17, 6, 8, 10, 7, 9, 12, 14, 16, 13, 15, 2, 1, 4, 3)


def with_neck(keypoints: np.ndarray, sure: float = 0.3) -> np.ndarray:
    """[133,3] -> [134,3], the first 18 in the drawn order.

    The neck lies between the shoulders and counts only where both are seen.
    """
    neck = keypoints[[5, 6]].mean(axis=0)
    neck[2] = float((keypoints[[5, 6], 2] > sure).all())
    whole = np.insert(keypoints, 17, neck, axis=0)
    made = whole.copy()
    made[list(_PLACES)] = whole[list(_POINTS)]
    return made
