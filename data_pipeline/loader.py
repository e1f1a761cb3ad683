"""Batches for one host, read through grain; the only state is the step."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from absl import flags

from data_pipeline import augment, enhance, masks, plan, pools
from data_pipeline.augment import Draws, Sample
from data_pipeline.builder import Clip, Rows
from data_pipeline.drawing import draw_made, draw_poses
from data_pipeline.masks import Box
from data_pipeline.plan import BatchPlan, Plan
from data_pipeline.pools import Pool
from data_pipeline.settings import AugmentConfig, DataConfig
from onetoall_jax.alignment.fit import train_fit
from onetoall_jax.errors import UserError
from onetoall_jax.geometry import Geometry
from onetoall_jax.pose.draw import Style
from onetoall_jax.pose.keypoints import to_pose


def build(
    config: DataConfig,
    geometry: Geometry,
    *,
    host: int = 0,
    hosts: int = 1,
    start_step: int = 0,
) -> Iterator[dict[str, np.ndarray]]:
    """This host's share of every global batch from `start_step` on, without end.

    The same batches come for any number of workers, after any start, and together for
    any number of hosts: host h of n reads rows h::n of a batch.

    Returns:
      Iterator of batches as `onetoall_jax.batch` describes them.
    Raises:
      UserError: no such data set, nothing in it fills a batch, or a batch that the
        hosts cannot share evenly.
    """
    import grain  # brings JAX along, which loader workers should not need to import

    if config.batch % hosts:
        raise UserError(
            f"A batch of {config.batch} clips cannot be shared by {hosts} hosts: make "
            "data.batch a multiple of them."
        )
    steps = Plan(config, Rows(config.root, config.split).sizes)
    load = Load(config, geometry, host, hosts)
    # Workers are the parallel part: threads in one of them would wait for each other.
    reading = grain.ReadOptions(num_threads=1, prefetch_buffer_size=4)
    batches = grain.MapDataset.source(steps)[start_step:].map(load)
    dataset = batches.to_iter_dataset(reading)
    if config.workers:
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()  # grain's workers read absl flags
        options = grain.MultiprocessingOptions(num_workers=config.workers)
        dataset = dataset.mp_prefetch(options)
    return iter(dataset)


class Load:
    """Plan of a global batch -> this host's arrays."""

    def __init__(self, config: DataConfig, geometry: Geometry, host: int, hosts: int):
        self._config, self._geometry = config, geometry
        self._host, self._hosts = host, hosts
        self._rows = Rows(config.root, config.split)
        self._pool = pools.read(config.pose_pool) if config.pose_pool else None

    def __call__(self, batch: BatchPlan) -> dict[str, np.ndarray]:
        rows = batch.rows[self._host :: self._hosts]
        samples = [self._sample(batch, int(row)) for row in rows]
        return collate(samples, rows, self._geometry)

    def _sample(self, batch: BatchPlan, row: int) -> Sample:
        config, bucket = self._config, batch.bucket
        draws = augment.draw(config.seed, batch.epoch, row)
        length = self._rows.num_frames(row)
        fps = float(self._rows.sizes.fps[row])
        window, reference = choose_frames(length, fps, bucket.num_frames, draws)
        if draws.first < config.augment.reference_first:
            reference = window[0]
        clip = self._rows.read(row, [*window, reference])
        change = None
        if self._pool is not None and draws.change_pose < config.augment.change_pose:
            every = config.augment.change_every_frame
            drawn = enhance.draw(config.seed, batch.epoch, row, every_frame=every)
            change = Change(self._pool, draws.pool_row, drawn)
        face = draws.face >= config.augment.without_face
        sample = whole_sample(
            clip,
            self._geometry.temporal,
            config.canvas_side,
            face,
            change,
            hands=config.augment.hand_regions and length > 1,
        )
        if length == 1:
            sample = dataclasses.replace(sample, pair=True)
        aspect = bucket.width / bucket.height
        varied = augment.apply(sample, config.augment, draws, aspect)
        return fitted(varied, bucket.height, bucket.width)


class Change(NamedTuple):
    """A head to be changed: the pool, which of it (uniform), and how."""

    pool: Pool
    row: float
    draws: enhance.Draws


def whole_sample(
    clip: Clip,
    temporal: int,
    canvas_side: int,
    face: bool,
    change: Change | None,
    *,
    hands: bool = True,
) -> Sample:
    """Window and reference (the clip's last frame) as they are stored, unvaried.

    Args:
      temporal: frames in a latent frame.
      face: draw the face points.
      change: of the driving head, or None.
      hands: count hands as regions beside heads; the release does not in pictures.
    """
    size = height, width = clip.frames.shape[1], clip.frames.shape[2]
    points = clip.keypoints
    window, last = points[:-1], points[-1:]
    region = masks.heads(window, *size, temporal)
    if hands:
        region = np.maximum(region, masks.hands(window, *size, temporal))
    text = masks.keep(clip.text_boxes[:-1], len(window), *size, temporal)
    head = masks.heads(last, *size, temporal)
    if change is not None:
        poses = _changed(window, height, width, canvas_side, face, change)
        shown = draw_poses(last, height, width, canvas_side, Style(face=face))
    elif clip.poses is not None and face:
        poses, shown = clip.poses[:-1], clip.poses[-1:]
    else:
        drawn = draw_poses(points, height, width, canvas_side, Style(face=face))
        poses, shown = drawn[:-1], drawn[-1:]
    return Sample(
        frames=clip.frames[:-1],
        poses=poses,
        reference=clip.frames[-1],
        reference_pose=shown[0],
        mask=np.zeros(size, np.uint8),
        region=region,
        keep=text,
        face_box=bounding_box(head[0]),
    )


def _changed(
    keypoints: np.ndarray,
    height: int,
    width: int,
    canvas_side: int,
    face: bool,
    change: Change,
) -> np.ndarray:
    poses = [to_pose(k, height, width) for k in keypoints]
    i = change.pool.pick(change.row, height, width)
    tall, wide = (int(v) for v in change.pool.size[i])
    pool = enhance.pool_pose(change.pool.keypoints[i], tall, wide, height / width)
    other = enhance.aligned(pool, poses[0])
    made, limb, new_face = enhance.changed(poses, other, change.draws)
    style = Style(face=face, light_head=limb, light_face=limb or new_face)
    return draw_made(made, height, width, canvas_side, style)


def fitted(sample: Sample, height: int, width: int) -> Sample:
    """Cropped and resized to a batch's size."""

    def fit(pictures: np.ndarray) -> np.ndarray:
        if pictures.shape[-3:-1] == (height, width):
            return pictures
        return train_fit(pictures, height, width)

    def flat(mask: np.ndarray) -> np.ndarray:
        return fit(mask[..., None])[..., 0]

    return dataclasses.replace(
        sample,
        frames=fit(sample.frames),
        poses=fit(sample.poses),
        reference=fit(sample.reference),
        reference_pose=fit(sample.reference_pose),
        mask=flat(sample.mask),
        region=flat(sample.region),
        keep=flat(sample.keep),
        face_box=None,  # it was in the pixels of before
    )


def choose_frames(
    length: int, fps: float, num_frames: int, draws: Draws
) -> tuple[list[int], int]:
    """(frames of the window, frame of the reference).

    The window keeps every s-th frame, s = max(round(fps) // 16, 1); the reference is
    any frame outside it, or any frame at all where nothing is outside. A clip's first
    and last frame are left out where it is long enough.

    Source: section 3 of the released data page.
    """
    stride = max(int(np.round(fps)) // 16, 1)
    inside = range(1, length - 1)
    every = list(inside[::stride])
    every = every[: (len(every) - 1) // 4 * 4 + 1]
    if len(every) < num_frames:
        inside = range(length)
        every = list(inside[::stride])
    start = augment.integer(draws.window, 0, max(0, len(every) - num_frames))
    window = every[start : start + num_frames]
    choices = reference_choices(inside, window)
    return window, choices[augment.integer(draws.reference, 0, len(choices) - 1)]


def reference_choices(frames: range, window: Sequence[int]) -> list[int]:
    """Those of `frames` that lie before or after a window; all of them if none does."""
    outside = [i for i in frames if not window[0] <= i <= window[-1]]
    return outside or list(frames)


def bounding_box(mask: np.ndarray) -> Box | None:
    """x1, y1, x2, y2 of what is 1 in a mask [H,W], both ends included."""
    rows, columns = np.nonzero(mask)
    if not rows.size:
        return None
    return int(columns.min()), int(rows.min()), int(columns.max()), int(rows.max())


def collate(
    samples: list[Sample], rows: np.ndarray, geometry: Geometry
) -> dict[str, np.ndarray]:
    """Samples of one bucket as a batch."""

    def stack(name: str) -> np.ndarray:
        # Grain shares memory between processes for contiguous arrays only; others would
        # fill the pipe, and a worker with a full pipe does not end when asked to.
        return np.ascontiguousarray(np.stack([getattr(s, name) for s in samples]))

    def latent(name: str) -> np.ndarray:
        return np.stack([masks.to_latent(getattr(s, name), geometry) for s in samples])

    return {
        "frames_u8": stack("frames"),
        "pose_u8": stack("poses"),
        "reference_u8": stack("reference"),
        "reference_mask_u8": stack("mask"),
        "reference_pose_u8": stack("reference_pose"),
        "region_u8": latent("region"),
        "keep_u8": latent("keep"),
        "row": np.asarray(rows, np.int64),
    }


def open_rows(root: str, split: str) -> Rows:
    """Rows of a split, for random access outside training.

    Raises:
      UserError: there is no such data set or split.
    """
    return Rows(root, split)


def evaluation_batches(
    config: DataConfig, geometry: Geometry, clips: int, batch: int
) -> Iterator[dict[str, np.ndarray]]:
    """The first `clips` videos of a split in batches, each the same every time.

    No masks, no dropout, faces drawn: what a sampler is given. Clips of another size
    come in batches of their own; the last batch of a size may be smaller.

    Raises:
      UserError: no such data set, or no clip in it is long and large enough.
    """
    areas = tuple(dataclasses.replace(r, share=1.0, image_share=0.0)
                  for r in config.resolutions)  # fmt: skip
    fixed = dataclasses.replace(
        config,
        batch=batch,
        resolutions=areas,
        augment=AugmentConfig.none(),
    )
    rows = open_rows(config.root, config.split)
    load = Load(fixed, geometry, 0, 1)
    members = {
        bucket: chosen
        for bucket, chosen in plan.members(fixed, rows.sizes, 0).items()
        if bucket.num_frames == config.num_frames
    }
    if not members:
        raise UserError(
            f"No clip of {config.root} ({config.split}) has {config.num_frames} frames "
            "of the sizes asked for: lower data.num_frames or prepare longer clips."
        )
    wanted = set(sorted(i for chosen in members.values() for i in chosen)[:clips])
    for bucket, chosen in sorted(members.items()):
        taken = np.array([i for i in chosen if i in wanted], np.int64)
        for start in range(0, len(taken), batch):
            yield load(BatchPlan(start, 0, bucket, taken[start : start + batch]))
