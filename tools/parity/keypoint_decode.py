"""Everything around the detectors' networks, by what a case brings."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from onetoall_jax.alignment import person
from onetoall_jax.pose import decode
from onetoall_jax.pose.keypoints import to_pose
from tools.parity.case import Case
from tools.parity.pose_draw import recorded_form

CEILING = {
    "*": {"max_abs": 1e-4, "max_rel": 1e-5},
    "points": {"max_abs": 2e-3},
    "net_input": {"max_abs": 2e-3},
    "net_input_u8": {"max_abs": 3},
}
Outputs = Iterator[tuple[str, np.ndarray]]


def run(case: Case, dtype: Any) -> Outputs:
    """Outputs of the chain whose inputs are there."""
    inputs = case.inputs
    if "heatmaps" in inputs:
        return _heatmap(case)
    if "simcc_x" in inputs:
        return _simcc(case)
    if "background_row" in inputs:
        return _yolox(case)
    return _person_box(case) if "raw" in inputs else _map133(case)


def _heatmap(case: Case) -> Outputs:
    picture, maps = case.inputs["image"], case.inputs["heatmaps"]
    height, width = case.config["input_resolution_hw"]

    def box_of(name: str) -> decode.Box:
        rows, columns = picture.shape[:2]
        return decode.heatmap_box(case.inputs[name], rows, columns, height / width)

    box, small = box_of("box"), box_of("small_box")
    for name, made in (("", box), ("small_box_", small)):
        yield name + "center", made.centre
        yield name + "scale", made.size / 200
    yield "net_input", decode.heatmap_input(picture, box, height, width)
    found = [decode.heatmap_points(m, box) for m in maps]
    yield "points", np.stack([points for points, _ in found])
    yield "prob", np.stack([scores[:, None] for _, scores in found])


def _simcc(case: Case) -> Outputs:
    picture = case.inputs["image"]
    boxes = decode.people_or_frame(case.inputs["boxes"], *picture.shape[:2])
    width, height = case.config["input_wh"]
    places = [decode.simcc_box(box, height, width) for box in boxes]
    yield "center", np.stack([b.centre for b in places])
    yield "scale", np.stack([b.size for b in places])
    yield (
        "net_input_u8",
        np.stack([decode.simcc_crop(picture, b, height, width) for b in places]),
    )
    profiles = zip(case.inputs["simcc_x"], case.inputs["simcc_y"], places, strict=True)
    found = [decode.simcc_points(x, y, b) for x, y, b in profiles]
    yield "keypoints", np.stack([points for points, _ in found])
    yield "scores", np.stack([scores for _, scores in found])
    whole = [np.concatenate([p, s[:, None]], axis=1) for p, s in found]
    raw = np.stack([decode.with_neck(k) for k in whole])
    yield "raw134", raw[..., :2]
    yield "raw134_score", raw[..., 2]
    yield from recorded_form("p/", [to_pose(whole[0], *picture.shape[:2])], single=True)


def _yolox(case: Case) -> Outputs:
    index = case.inputs["row_index"]
    raw = np.tile(case.inputs["background_row"], (8400, 1))
    raw[index] = case.inputs["rows"]
    rows = decode.yolox_rows(raw)
    yield "decoded_rows", rows[index, :4]
    *size, ratio = decode.letterbox_size(*case.inputs["image"].shape[:2])
    yield "letterbox_size", np.array(size)
    thresholds = (case.config[k] for k in ("nms_iou", "score_first", "score_final"))
    boxes = decode.yolox_people(rows, ratio, *thresholds)
    recorded = case.outputs["boxes"]
    if not boxes.size and not recorded.size:  # flat in the release if no row passes
        boxes = boxes.reshape(recorded.shape)
    yield "boxes", boxes


def _person_box(case: Case) -> Outputs:
    size = case.config["raw_hw"]
    limits = [case.config[k] for k in ("conf", "iou", "shape_ratio")]
    boxes = [decode.choose_person(raw, *size, *limits) for raw in case.inputs["raw"]]
    yield "bbox", np.stack(boxes)


def _map133(case: Case) -> Outputs:
    keypoints = case.inputs["kp133"]
    height, width = case.config["height"], case.config["width"]
    people = person.from_clip(keypoints, height, width)
    yield "body20", np.stack([p.body for p in people])
    relative = keypoints / np.array((width, height, 1), np.float32)
    yield "face69", relative[:, 22:91]
    yield "left_hand", np.stack([p.hands[1] for p in people])
    yield "right_hand", np.stack([p.hands[0] for p in people])
    yield from recorded_form("inference/", [p.pose for p in people])
    sound = np.abs(keypoints)
    sound[..., 2] = np.clip(keypoints[..., 2], 0, 1)
    yield from recorded_form("training/", [to_pose(k, height, width) for k in sound])
