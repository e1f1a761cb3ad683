"""Random variation of one clip: choices are drawn first, then applied everywhere."""

import dataclasses
from typing import Any

import numpy as np

from data_pipeline.masks import Box
from data_pipeline.settings import AugmentConfig
from onetoall_jax.alignment.fit import nearest_resize


@dataclasses.dataclass(frozen=True)
class Draws:
    """Uniform numbers in [0, 1) for one clip, by what they decide.

    Each is drawn whether it is used or not, so a choice never shifts another.
    """

    window: float
    reference: float
    face: float
    branch: float
    rectangle: float
    rectangle_box: tuple[float, ...]
    crop_bottom: float
    crop_left: float
    keep_reference: float
    zoom: float
    zoom_scale: float
    first: float
    second: float
    change_pose: float
    pool_row: float


def draw(seed: int, epoch: int, row: int) -> Draws:
    """All random numbers of a row in an epoch: the only source of them."""
    rng = np.random.default_rng([seed, epoch, row, 1])
    u = iter(rng.random(18).tolist())
    names = [field.name for field in dataclasses.fields(Draws)]
    values = {n: next(u) for n in names if n != "rectangle_box"}
    return Draws(**values, rectangle_box=tuple(u))


@dataclasses.dataclass
class Sample:
    """One clip on its way to a batch; pictures uint8, all of one size [H,W].

    It is varied at the size it is stored in, as released, and fitted afterwards.

    Attributes:
      frames, poses: [F,H,W,3]; frames [F,H,W,0] where their latents are stored.
      reference, reference_pose: [H,W,3].
      mask: [H,W], 1 = to be generated.
      region, keep: [f,H,W], 1 = weighted, 0 = left out.
      face_box: of the reference's head, or None.
      pair: a picture and another of the same person, or None for a clip; then whether
        both are the same picture.
      latents: [f,h,w,C] of the frames, where they are stored.
      notes: what was chosen for it, for people to read.
    """

    frames: np.ndarray
    poses: np.ndarray
    reference: np.ndarray
    reference_pose: np.ndarray
    mask: np.ndarray
    region: np.ndarray
    keep: np.ndarray
    face_box: Box | None
    pair: bool | None = None
    latents: np.ndarray | None = None
    notes: tuple[str, ...] = ()

    def changed(self, note: str, **fields: Any) -> "Sample":
        """The same with other fields, and a note why."""
        return dataclasses.replace(self, notes=(*self.notes, note), **fields)


def integer(u: float, low: int, high: int) -> int:
    """Uniform integer from low to high, both included."""
    return low + min(int(u * (high - low + 1)), high - low)


def as_released(config: AugmentConfig, pair: bool | None) -> bool:
    """Is it a picture, and are pictures varied by the release's own rules?

    Args:
      pair: see `Sample`.
    """
    return config.released_pictures and pair is not None


def _goes_on(config: AugmentConfig, draws: Draws, pair: bool | None) -> bool:
    """After the choice what to drop or mask, may the pose be dropped or things zoomed?

    A clip that lost something may not; a released picture may if it lost or was masked.
    """
    dropped = config.drop_all + config.drop_reference
    if not as_released(config, pair):
        return draws.branch >= dropped
    masked = bool(pair and config.mask_face)
    return draws.branch < config.drop_all or draws.second < dropped or masked


def targets_reference(
    config: AugmentConfig, draws: Draws, pair: bool | None = None
) -> bool:
    """The pose is dropped, and a picture is to become its reference."""
    chosen = draws.keep_reference < config.keep_reference
    return chosen and _goes_on(config, draws, pair)


def zooms_clip(config: AugmentConfig, draws: Draws, pair: bool | None = None) -> bool:
    """The clip is enlarged, rather than the reference or nothing."""
    free = _goes_on(config, draws, pair) and not targets_reference(config, draws, pair)
    return free and config.zoom / 2 <= draws.zoom < config.zoom


def zoom_scale(u: float, *, released_picture: bool = False) -> float:
    """By how much a clip or its reference is enlarged."""
    return 1 + (0.3 if released_picture else 0.2) * u


def apply(
    sample: Sample, config: AugmentConfig, draws: Draws, aspect: float | None = None
) -> Sample:
    """Condition dropout, masks and zoom of one clip; pictures are treated as clips.

    Args:
      aspect: width over height of the batch; None takes the sample's own.
    Source: section 4 of the released training page, section 8 of the data page.
    """
    if as_released(config, sample.pair):
        return _released_picture(sample, config, draws, aspect)
    p, seen = draws.branch, sample.reference
    if p < config.drop_all:
        return _without_pose(_without_reference(sample))
    if not _goes_on(config, draws, None):
        return _without_reference(sample)
    if (
        p < config.drop_all + config.drop_reference + config.mask_face
        and sample.face_box is not None
    ):
        sample = _mask_around_face(sample, sample.face_box, draws, 0.9, aspect)
    elif draws.rectangle < config.mask_rectangle:
        sample = _mask_rectangle(sample, draws.rectangle_box)
    if targets_reference(config, draws):
        if len(sample.frames) == 1:
            # A picture without pose could be anyone's: the reference is to be kept.
            sample = sample.changed("reference as target", frames=seen[None])
        return _without_pose(sample)
    if draws.zoom < config.zoom / 2:
        return _zoom_reference(sample, zoom_scale(draws.zoom_scale))
    if zooms_clip(config, draws):
        return _zoom_clip(sample, zoom_scale(draws.zoom_scale))
    return sample


def _released_picture(
    sample: Sample, config: AugmentConfig, draws: Draws, aspect: float | None
) -> Sample:
    """A pair of pictures as the release varies it, slips included.

    A second draw decides on dropping the reference; a pair of the same picture is
    always masked; the reference is zoomed twice and its pose not at all.
    """
    seen, pair = sample.reference, sample.pair
    if not _goes_on(config, draws, pair):
        return sample
    if draws.branch < config.drop_all:
        sample = _without_pose(_without_reference(sample))
    elif draws.second < config.drop_all + config.drop_reference:
        sample = _without_reference(sample)
    else:
        masked = sample
        if sample.face_box is not None:
            masked = _mask_around_face(sample, sample.face_box, draws, 0.75, aspect)
        sample = _mask_around_centre(sample) if masked is sample else masked
    if targets_reference(config, draws, pair):
        return _without_pose(sample.changed("reference as target", frames=seen[None]))
    scale = zoom_scale(draws.zoom_scale, released_picture=True)
    if draws.zoom < config.zoom / 2:
        once = _zoom_reference(sample, scale)
        return dataclasses.replace(
            once,
            reference=zoomed(once.reference, scale),
            reference_pose=sample.reference_pose,
        )
    return _zoom_clip(sample, scale) if zooms_clip(config, draws, pair) else sample


def _mask_around_centre(sample: Sample) -> Sample:
    height, width = sample.mask.shape
    tall, wide = int(0.7 * height), int(0.7 * width)
    top, left = (height - tall) // 2, (width - wide) // 2
    hidden = np.ones_like(sample.mask)
    hidden[top : top + tall, left : left + wide] = 0
    return _hide(sample, hidden, "mask around the centre")


def _without_reference(sample: Sample) -> Sample:
    return sample.changed(
        "no reference",
        reference=np.zeros_like(sample.reference),
        mask=np.zeros_like(sample.mask),
    )


def _without_pose(sample: Sample) -> Sample:
    return sample.changed(
        "no pose",
        poses=np.zeros_like(sample.poses),
        reference_pose=np.zeros_like(sample.reference_pose),
    )


def _hide(sample: Sample, hidden: np.ndarray, note: str) -> Sample:
    """Blacks out reference and its pose where `hidden` is 1."""
    shown = (1 - hidden)[..., None]
    return sample.changed(
        note,
        reference=sample.reference * shown,
        reference_pose=sample.reference_pose * shown,
        mask=hidden,
    )


def _mask_around_face(
    sample: Sample, box: Box, draws: Draws, lowest: float, aspect: float | None
) -> Sample:
    """Keeps a box from just above the head to a random height, of the batch's aspect.

    Args:
      lowest: share of the height down to which it may reach.
    """
    height, width = sample.mask.shape
    x1, y1, x2, y2 = box
    tall = y2 - y1
    top = max(0, y1 - int(0.1 * tall))
    low = y2 + int(0.1 * tall)
    bottom = integer(draws.crop_bottom, low, max(int(lowest * height), low))
    if bottom <= top + 10:
        return sample
    across = int((bottom - top) * (aspect or width / height))
    first, last = max(0, x2 - across), min(width - across, x1)
    if first >= last:
        return sample
    left = integer(draws.crop_left, first, last)
    hidden = np.ones_like(sample.mask)
    hidden[top:bottom, left : left + across] = 0
    return _hide(sample, hidden, "mask around the face")


def _mask_rectangle(sample: Sample, u: tuple[float, ...]) -> Sample:
    height, width = sample.mask.shape
    tall = integer(u[0], int(0.05 * height), int(0.2 * height))
    wide = integer(u[1], int(0.05 * width), int(0.2 * width))
    top, left = integer(u[2], 0, height - tall), integer(u[3], 0, width - wide)
    hidden = np.zeros_like(sample.mask)
    hidden[top : top + tall, left : left + wide] = 1
    return _hide(sample, hidden, "mask of a rectangle")


def zoomed(pictures: np.ndarray, scale: float) -> np.ndarray:
    """[...,H,W,C] enlarged about the centre by nearest pixels, same size."""
    height, width = pictures.shape[-3:-1]
    tall, wide = round(height * scale), round(width * scale)
    top, left = (tall - height) // 2, (wide - width) // 2
    middle = slice(top, top + height), slice(left, left + width)
    return nearest_resize(pictures, tall, wide, middle)


def _zoom_reference(sample: Sample, scale: float) -> Sample:
    return sample.changed(
        f"reference zoomed {scale:.2f}",
        reference=zoomed(sample.reference, scale),
        reference_pose=zoomed(sample.reference_pose, scale),
        mask=zoomed(sample.mask[..., None], scale)[..., 0],
    )


def _zoom_clip(sample: Sample, scale: float) -> Sample:
    return sample.changed(
        f"clip zoomed {scale:.2f}",
        frames=zoomed(sample.frames, scale),
        poses=zoomed(sample.poses, scale),
        region=zoomed(sample.region[..., None], scale)[..., 0],
        keep=zoomed(sample.keep[..., None], scale)[..., 0],
    )
