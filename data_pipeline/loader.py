"""Batches for one host, read through grain; the only state is the step."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from absl import flags

from data_pipeline import augment, masks
from data_pipeline.augment import Draws, Sample
from data_pipeline.buckets import Bucket
from data_pipeline.builder import Clip, Rows
from data_pipeline.plan import BatchPlan, Plan
from data_pipeline.settings import AugmentConfig, DataConfig
from onetoall_jax.alignment.fit import train_fit
from onetoall_jax.geometry import Geometry
from onetoall_jax.pose.draw import Drawer, Style
from onetoall_jax.pose.keypoints import to_pose

Batch = Mapping[str, np.ndarray]


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
      UserError: no such data set, or nothing in it fills a batch.
    """
    import grain  # brings JAX along, which loader workers should not need to import

    plan = Plan(config, Rows(config.root, config.split).sizes)
    load = Load(config, geometry, host, hosts)
    # One reading thread: a drawer's canvas is not shared between threads.
    reading = grain.ReadOptions(num_threads=1, prefetch_buffer_size=4)
    batches = grain.MapDataset.source(plan)[start_step:].map(load)
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
        self._drawers: dict[tuple[int, int], Drawer] = {}

    def __call__(self, plan: BatchPlan) -> dict[str, np.ndarray]:
        rows = plan.rows[self._host :: self._hosts]
        samples = [self._sample(plan, int(row)) for row in rows]
        return collate(samples, rows, self._geometry)

    def _sample(self, plan: BatchPlan, row: int) -> Sample:
        config = self._config
        draws = augment.draw(config.seed, plan.epoch, row)
        window, reference = choose_frames(
            self._rows.num_frames(row),
            float(self._rows.sizes.fps[row]),
            plan.bucket.num_frames,
            draws,
        )
        clip = self._rows.read(row, [*window, reference])
        face = draws.face >= config.augment.without_face
        sample = self._fitted(clip, plan.bucket, face)
        return augment.apply(sample, config.augment, draws)

    def _fitted(self, clip: Clip, bucket: Bucket, face: bool) -> Sample:
        """Window and reference (the last frame) at the bucket's size, unvaried."""
        temporal = self._geometry.temporal
        height, width = clip.frames.shape[1:3]
        points = clip.keypoints
        poses = self._poses(clip, face)
        _, region = masks.regions(points[:-1], height, width, temporal)
        text = clip.text_boxes[:-1]
        keep = masks.keep(text, len(points) - 1, height, width, temporal)

        def fit(pictures: np.ndarray) -> np.ndarray:
            return train_fit(pictures, bucket.height, bucket.width)

        head, _ = masks.regions(points[-1:], height, width, temporal, hands=False)
        return Sample(
            frames=fit(clip.frames[:-1]),
            poses=fit(poses[:-1]),
            reference=fit(clip.frames[-1]),
            reference_pose=fit(poses[-1]),
            mask=np.zeros((bucket.height, bucket.width), np.uint8),
            region=fit(region[..., None])[..., 0],
            keep=fit(keep[..., None])[..., 0],
            face_box=_bounding_box(fit(head[..., None])[0, ..., 0]),
        )

    def _poses(self, clip: Clip, face: bool) -> np.ndarray:
        if clip.poses is not None and face:
            return clip.poses
        size = clip.frames.shape[1:3]
        if size not in self._drawers:
            self._drawers[size] = Drawer(*size, self._config.canvas_side)
        draw = self._drawers[size]
        style = Style(face=face)
        return np.stack([draw(to_pose(k, *size), style) for k in clip.keypoints])


def choose_frames(
    length: int, fps: float, num_frames: int, draws: Draws
) -> tuple[list[int], int]:
    """(frames of the window, frame of the reference).

    The window keeps every s-th frame, s = max(round(fps) // 16, 1); the reference is
    any frame outside it, or any frame at all where nothing is outside.

    Source: section 3 of the released data page.
    """
    stride = max(int(np.round(fps)) // 16, 1)
    every = list(range(0, length, stride))
    start = augment.integer(draws.window, 0, max(0, len(every) - num_frames))
    window = every[start : start + num_frames]
    outside = [i for i in range(length) if not window[0] <= i <= window[-1]]
    choices = outside or list(range(length))
    return window, choices[augment.integer(draws.reference, 0, len(choices) - 1)]


def _bounding_box(mask: np.ndarray) -> tuple[int, int, int, int] | None:
    rows, columns = np.nonzero(mask)
    if not rows.size:
        return None
    return int(columns.min()), int(rows.min()), int(columns.max()), int(rows.max())


def collate(
    samples: list[Sample], rows: np.ndarray, geometry: Geometry
) -> dict[str, np.ndarray]:
    """Samples of one bucket as a batch."""

    def stack(name: str) -> np.ndarray:
        return np.stack([getattr(s, name) for s in samples])

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


def held_out(
    config: DataConfig, geometry: Geometry, count: int
) -> Iterator[dict[str, np.ndarray]]:
    """The first `count` rows of a split in batches, each the same every time.

    No masks, no dropout, faces drawn: what a sampler is given.
    """
    rows = Rows(config.root, config.split)
    plain = AugmentConfig(0, 0, 0, 0, 0, 0, 0)
    fixed = DataConfig(**{**vars(config), "augment": plain})
    load = Load(fixed, geometry, 0, 1)
    chosen = np.arange(min(count, len(rows)))
    plan: Any = Plan(DataConfig(**{**vars(fixed), "batch": 1}), rows.sizes)
    bucket = plan[0].bucket
    for start in range(0, len(chosen), config.batch):
        yield load(BatchPlan(start, 0, bucket, chosen[start : start + config.batch]))
