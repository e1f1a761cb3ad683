"""Batches for one host, read through grain; the only state is the step."""

import dataclasses
from collections.abc import Iterator

import numpy as np
from absl import flags

from data_pipeline import augment, masks, plan
from data_pipeline.augment import Draws, Sample
from data_pipeline.buckets import Bucket
from data_pipeline.builder import Clip, Rows
from data_pipeline.drawing import draw_poses
from data_pipeline.plan import BatchPlan, Plan
from data_pipeline.settings import AugmentConfig, DataConfig
from onetoall_jax.alignment.fit import train_fit
from onetoall_jax.errors import UserError
from onetoall_jax.geometry import Geometry
from onetoall_jax.pose.draw import Style


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

    def __call__(self, batch: BatchPlan) -> dict[str, np.ndarray]:
        rows = batch.rows[self._host :: self._hosts]
        samples = [self._sample(batch, int(row)) for row in rows]
        return collate(samples, rows, self._geometry)

    def _sample(self, batch: BatchPlan, row: int) -> Sample:
        config = self._config
        draws = augment.draw(config.seed, batch.epoch, row)
        window, reference = choose_frames(
            self._rows.num_frames(row),
            float(self._rows.sizes.fps[row]),
            batch.bucket.num_frames,
            draws,
        )
        if draws.first < config.augment.reference_first:
            reference = window[0]
        clip = self._rows.read(row, [*window, reference])
        face = draws.face >= config.augment.without_face
        sample = self._fitted(clip, batch.bucket, face)
        return augment.apply(sample, config.augment, draws)

    def _fitted(self, clip: Clip, bucket: Bucket, face: bool) -> Sample:
        """Window and reference (the last frame) at the bucket's size, unvaried."""
        temporal = self._geometry.temporal
        height, width = clip.frames.shape[1:3]
        points = clip.keypoints
        poses = self._poses(clip, face)
        size = height, width, temporal
        region = np.maximum(
            masks.heads(points[:-1], *size), masks.hands(points[:-1], *size)
        )
        text = clip.text_boxes[:-1]
        keep = masks.keep(text, len(points) - 1, height, width, temporal)

        def fit(pictures: np.ndarray) -> np.ndarray:
            if pictures.shape[-3:-1] == (bucket.height, bucket.width):
                return pictures
            return train_fit(pictures, bucket.height, bucket.width)

        head = masks.heads(points[-1:], *size)
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
        height, width = clip.frames.shape[1:3]
        side = self._config.canvas_side
        return draw_poses(clip.keypoints, height, width, side, Style(face=face))


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
        augment=AugmentConfig(*[0.0] * len(dataclasses.fields(AugmentConfig))),
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
