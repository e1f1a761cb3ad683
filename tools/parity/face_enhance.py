"""A pool's pose onto a clip, the clip's changed heads, and how they are drawn."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from data_pipeline import enhance
from data_pipeline.settings import AugmentConfig
from onetoall_jax.pose.draw import Drawer, Style
from onetoall_jax.pose.keypoints import to_pose
from tools.parity.case import Case
from tools.parity.pose_draw import recorded_form

CEILING = {"*": {"max_abs": 1e-6}, "images": {"max_abs": 8, "share": 0.0005}}


def run(case: Case, dtype: Any) -> Iterator[tuple[str, np.ndarray]]:
    """The pool's pose as read, as aligned, the new poses and their pictures."""
    config = case.config
    height, width = config["height"], config["width"]
    poses = [to_pose(k, height, width) for k in case.inputs["drv_kp133"]]
    pool = enhance.pool_pose(
        case.inputs["pool_kp133"],
        config["pool_height"],
        config["pool_width"],
        config["target_ratio"],
    )
    yield from recorded_form("pool/", [pool], single=True)
    aligned = enhance.aligned(pool, poses[0])
    yield from recorded_form("aligned/", [aligned], single=True)
    draws = recorded(config["draws"])
    chances = AugmentConfig(
        change_bones=config["limb_change_prob"], change_face=config["face_change_prob"]
    )
    made, limb, face = enhance.changed(poses, aligned, draws, chances)
    yield from recorded_form("new/", made)
    style = Style(light_head=limb, light_face=limb or face)
    drawer = Drawer(height, width)
    yield "images", np.stack([drawer(pose, style) for pose in made])


def recorded(draws: list[Mapping[str, Any]]) -> enhance.Draws:
    """The case's draws, each kind in its order; asking for more of them fails."""

    def of(start: str) -> Iterator[float]:
        return iter([d["value"] for d in draws if d["meaning"].startswith(start)])

    limb, face = next(of("limb change")), next(of("face change"))
    strengths = of("face strength")
    pushes = iter([d["value"] for d in draws if "within (0.9,1.1)" in d["meaning"]])
    strength = next(of("head-limb strength"), 0.0)
    return enhance.Draws(
        limb, face, strength, lambda: next(strengths), lambda: next(pushes)
    )
