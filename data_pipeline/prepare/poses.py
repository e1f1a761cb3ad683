"""Where key points come from while a set is prepared."""

import functools
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from onetoall_jax.errors import UserError
from onetoall_jax.pose import detect, detect_onnx

AUTO, DWPOSE, OFFLINE = "auto", "dwpose", "offline"


class Found(NamedTuple):
    """Key points [F,133,3] in pixels, and the number of people [F]; -1 is unknown."""

    keypoints: np.ndarray
    people: np.ndarray


def chosen(name: str, models: Path, environment: Path) -> str:
    """The detector that is meant: of AUTO the released one where its networks are.

    Raises:
      UserError: an unknown name, or it is not installed.
    """
    if name not in (AUTO, DWPOSE, OFFLINE):
        raise UserError(
            f"There is no detector {name!r}: choose from "
            f"{AUTO!r}, {DWPOSE!r} and {OFFLINE!r}."
        )
    chain = detect_onnx.CHAINS[DWPOSE]
    there = [(models.expanduser() / p).exists() for p in (chain.detector, chain.pose)]
    if name == DWPOSE or (name == AUTO and all(there)):
        _released(models)
        return DWPOSE
    detect.offline(environment)
    return OFFLINE


def find(
    name: str,
    models: Path,
    environment: Path,
    frames: Iterable[np.ndarray],
    *,
    still: bool,
) -> Found:
    """Key points of all frames [H,W,3].

    Args:
      name: of `chosen`; still: no frame tells of the next one.
    Raises:
      UserError: the detector failed.
    """
    if name == OFFLINE:
        keypoints = detect.offline(environment)(frames, still=still)
        return Found(keypoints, np.full(len(keypoints), -1))
    chain = _released(models)
    every = [chain.counted(frame) for frame in frames]
    return Found(np.stack([p for p, _ in every]), np.array([n for _, n in every]))


@functools.lru_cache(maxsize=1)
def _released(models: Path) -> detect_onnx.DwPose:
    # One thread each: as many processes as cores are at work.
    session = functools.partial(detect_onnx.open_session, threads=1)
    chain = detect_onnx.open_chain(DWPOSE, models, session)
    assert isinstance(chain, detect_onnx.DwPose)
    return chain
