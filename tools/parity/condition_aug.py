"""Branches of the condition augmentation, and whole training samples."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from data_pipeline import augment, loader, windows
from data_pipeline.augment import Sample
from data_pipeline.builder import Clip
from data_pipeline.pools import Pool
from data_pipeline.settings import AugmentConfig
from tools.parity import face_enhance
from tools.parity.case import Case

CEILING = {"*": {"max_abs": 8, "share": 0.0005}}
_TEMPORAL, _CANVAS = 4, 2160
Recorded = Sequence[Mapping[str, Any]]
Outputs = Iterator[tuple[str, np.ndarray]]
# Our draw -> how the record's explanation of it begins.
_MEANING = {
    "window": "start offset",
    "face": "face points left out",
    "branch": ("p, picks the branch", "drop pose and reference"),
    "second": "second, independent draw",
    "rectangle": "rectangle mask",
    "crop_bottom": "bottom edge",
    "crop_left": "left edge",
    "keep_reference": "ref_keep",
    "zoom": "q, zoom choice",
    "zoom_scale": "zoom factor",
    "change_pose": "pose change",
}


def run(case: Case, dtype: Any) -> Outputs:
    """Every branch of the case, or the one sample it holds.

    Raises:
      ValueError: what a branch leaves alone was changed, or the recorded reference is
        none of the frames that ours would be chosen from.
    """
    if "sub" in case.config:
        for sub in case.config["sub"]:
            yield from _branch(case, sub)
    elif "kp133" in case.inputs:
        yield from _clip_sample(case)
    else:
        yield from _pair_sample(case)


def _settings(config: Mapping[str, Any]) -> AugmentConfig:
    return AugmentConfig(
        drop_all=config["pose_cfg"],
        drop_reference=config["refimg_cfg"],
        mask_face=config["refimg_crop"],
        mask_rectangle=0.2,
        keep_reference=config["ref_keep"],
        zoom=config["random_zoomin"],
        released_pictures=True,
    )


def _uniform(draw: Mapping[str, Any]) -> float:
    """The uniform number that our code turns into the recorded value."""
    value, bounds = draw["value"], draw["args"]
    if draw["call"] == "random.randint":
        low, high = bounds
        return (value - low + 0.5) / (high - low + 1)
    if draw["call"].endswith("uniform"):
        return (value - bounds[0]) / (bounds[1] - bounds[0])
    return value


def _draws(recorded: Recorded) -> augment.Draws:
    made = dict.fromkeys((f.name for f in dataclasses.fields(augment.Draws)), 0.5)
    for name, meaning in _MEANING.items():
        for draw in recorded:
            if draw["meaning"].startswith(meaning):
                made[name] = _uniform(draw)
    box = [_uniform(d) for d in recorded if d["meaning"].startswith("rectangle ")][1:]
    drawn: Any = made | {"rectangle_box": tuple(box)}
    return augment.Draws(**drawn)


def _branch(case: Case, sub: Mapping[str, Any]) -> Outputs:
    inputs, config = case.inputs, case.config
    pictures = "image" in inputs
    target = inputs["image" if pictures else "video"]
    size = target.shape[1:3]
    face = inputs["face_mask" if pictures else "ref_face_mask"]
    if not sub.get("face_mask_given", True):
        face = np.zeros_like(face)
    regions = [inputs["face_mask"]]
    if not pictures:
        regions = [inputs[f"{name}_mask"] for name in ("face", "hand", "ocr")]
    sample = Sample(
        frames=target,
        poses=inputs["pose"],
        reference=inputs["reference"][0],
        reference_pose=inputs["reference_pose"][0],
        mask=np.zeros(size, np.uint8),
        # Head and hand masks ride along as one array, so that both are seen.
        region=np.concatenate(regions[:2])[..., 0],
        keep=regions[-1][..., 0],
        face_box=loader.bounding_box(face[0, ..., 0]),
        pair=sub["is_same_image"] if pictures else None,
    )
    height, width = config["bucket_hw"]
    made = augment.apply(
        sample, _settings(config), _draws(sub["draws"]), width / height
    )
    count = len(inputs["face_mask"])
    outputs = {
        "image" if pictures else "video": made.frames,
        "pose": made.poses,
        "reference": made.reference[None],
        "reference_pose": made.reference_pose[None],
        "inpaint_mask": made.mask[None, ..., None],
        "face_mask": made.region[:count, ..., None],
        "hand_mask": made.region[count:, ..., None],
        "ocr_mask": made.keep[..., None],
    }
    for name, value in outputs.items():
        if f"s{sub['i']}/{name}" in case.outputs:
            yield f"s{sub['i']}/{name}", value
        elif name in sub["unchanged"] and not np.array_equal(value, inputs[name]):
            raise ValueError(f"{case.path.name}: {name} of {sub['branch']} changed")


def _change(case: Case, recorded: Recorded) -> loader.Change | None:
    config = case.config
    changed = [d for d in recorded if d["meaning"].startswith("pose change")]
    if changed[0]["value"] >= config["change_pose"]:
        return None
    size = np.array([config["pool_hw"]])
    pool = Pool(case.inputs["pool_kp133"][None], size)
    return loader.Change(pool, 0.0, face_enhance.recorded(list(recorded)))


def _clip_sample(case: Case) -> Outputs:
    config, recorded = case.config, case.config["draws"]
    frames, height, width = config["bucket_thw"]
    draws = _draws(recorded)
    start, end = config["start_frame"], config["end_frame"]
    window, _ = windows.choose_frames(end - start, config["fps"], frames, draws)
    window = [start + i for i in window]
    reference = _reference(case, window)
    yield "train_indices", np.array(window)
    yield "ref_index", np.array([reference])
    wanted = [*window, reference]
    boxes = config["ocr_boxes"]
    clip = Clip(
        case.inputs["frames"][wanted],
        case.inputs["kp133"][wanted],
        config["fps"],
        None,
        [boxes[i] for i in wanted] if boxes else [],
    )
    face = draws.face >= config["without_face_prob"]
    change, hands = _change(case, recorded), config["hand_mask"]
    sample = loader.whole_sample(clip, _TEMPORAL, _CANVAS, face, change, hands=hands)
    yield from _finished(sample, case, draws, (height, width))


def _reference(case: Case, window: Sequence[int]) -> int:
    """Our frame at the recorded place in as many choices as were recorded."""
    drawn = (d for d in case.config["draws"] if d["meaning"].startswith("frame index"))
    chosen = next(drawn)
    inside = range(1, case.config["source_frames"] - 1)
    choices = windows.reference_choices(inside, window)
    count = int(chosen["args"][0].removeprefix("list of "))
    if len(choices) != count or chosen["value"] not in choices:
        raise ValueError(
            f"{case.path.name}: reference {chosen['value']} of {count} frames, "
            f"ours are {len(choices)}: {choices[0]}..{choices[-1]}"
        )
    return chosen["value"]


def _pair_sample(case: Case) -> Outputs:
    """Target and reference are two pictures, the target's pose drives."""
    inputs, config = case.inputs, case.config
    clip = Clip(
        np.stack([inputs["target_image"], inputs["source_image"]]),
        np.stack([inputs["target_kp133"], inputs["source_kp133"]]),
        1.0,
        None,
        [[], []],
    )
    draws = _draws(config["draws"])
    chances = AugmentConfig(without_face=config["without_face_prob"])
    face = loader.shows_face(chances, draws, config["caption"])
    sample = loader.whole_sample(
        clip, _TEMPORAL, _CANVAS, face, _change(case, config["draws"]), hands=False
    )
    # Where a pair is masked, it is around the head of the target.
    box = loader.bounding_box(sample.region[0])
    sample = dataclasses.replace(sample, pair=config["is_same_image"], face_box=box)
    yield from _finished(sample, case, draws, config["bucket_hw"])


def _finished(
    sample: Sample, case: Case, draws: augment.Draws, size: Sequence[int]
) -> Outputs:
    height, width = size
    varied = augment.apply(sample, _settings(case.config), draws, width / height)
    made = loader.fitted(varied, height, width)
    yield "pixel_values", made.frames
    yield "condition", made.poses
    yield "reference", made.reference[None]
    yield "reference_pose", made.reference_pose[None]
    yield "inpaint_mask", made.mask[None, ..., None]
    yield "region_mask", made.region[..., None]
    yield "text_mask", made.keep[..., None]
