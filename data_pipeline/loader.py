"""Batches for one host, read through grain; the only state is the step."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import flags

from data_pipeline import augment, enhance, masks, plan, pools, windows
from data_pipeline.augment import Sample
from data_pipeline.builder import Clip, Rows
from data_pipeline.drawing import draw_made, draw_poses
from data_pipeline.latents import Latents
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
    places: Sequence[int] | None = None,
    start_step: int = 0,
) -> Any:
    """This host's share of every global batch from `start_step` on, without end.

    The same batches come for any number of workers, after any start, and together for
    any number of hosts: host h of n reads rows h::n of a batch.

    Args:
      places: in a batch, of the rows that this host reads, where not h::n.
    Returns:
      Iterator of batches as `onetoall_jax.batch` describes them; its `close` ends the
      processes that read.
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
    load = Load(config, geometry, host, hosts, places)
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
    """Plan of a global batch -> this host's arrays.

    Raises:
      UserError: stored latents or a pose pool that do not fit the settings.
    """

    def __init__(
        self,
        config: DataConfig,
        geometry: Geometry,
        host: int,
        hosts: int,
        places: Sequence[int] | None = None,
    ):
        windows.check(config)
        self._config, self._geometry = config, geometry
        every = slice(host, None, hosts)
        self._places = every if places is None else np.asarray(places)
        self._rows = Rows(config.root, config.split)
        self.sizes = self._rows.sizes
        self._pool = pools.read(config.pose_pool) if config.pose_pool else None
        self._latents = None
        if config.latents:
            self._latents = Latents(config, self.sizes, geometry)

    def __call__(self, batch: BatchPlan) -> dict[str, np.ndarray]:
        rows = batch.rows[self._places]
        made = [self.sample(batch, int(row)) for row in rows]
        return collate(made, rows, self._geometry)

    def sample(self, batch: BatchPlan, row: int) -> Sample:
        """One row of a batch."""
        config, bucket = self._config, batch.bucket
        length, fps = self._rows.num_frames(row), float(self.sizes.fps[row])
        choice = windows.choose(
            length,
            fps,
            bucket.num_frames,
            row,
            config,
            augment.draw(config.seed, batch.epoch, row),
            windows.marks(config, self.sizes, row),
        )
        draws, reference = choice.draws, choice.reference
        shown = [reference] if self._latents else [*choice.window, reference]
        wanted, draw = [*choice.window, reference], not config.augment.without_poses
        clip = self._rows.read(row, wanted, shown, poses=draw)
        picture = length <= plan.PICTURE_FRAMES
        change = None
        if self._pool is not None and draws.change_pose < config.augment.change_pose:
            every = config.augment.change_every_frame
            drawn = enhance.draw(config.seed, batch.epoch, row, every_frame=every)
            change = Change(self._pool, draws.pool_row, drawn, config.augment)
        sample = whole_sample(
            clip,
            self._geometry.temporal,
            config.canvas_side,
            shows_face(config.augment, draws, clip.caption if picture else ""),
            change,
            hands=config.augment.hand_regions and not picture,
            draw=draw,
        )
        sample = dataclasses.replace(
            sample,
            pair=windows.pair_of(choice, length),
            notes=(windows.describe(choice), *sample.notes),
        )
        aspect = bucket.width / bucket.height
        varied = augment.apply(sample, config.augment, draws, aspect)
        made = fitted(varied, bucket.height, bucket.width)
        if self._latents:
            assert choice.number is not None
            latents = self._latents.read(bucket, row, choice.number)
            made = dataclasses.replace(made, latents=latents)
        return made


def shows_face(config: AugmentConfig, draws: augment.Draws, caption: str) -> bool:
    """Are face points drawn?

    Args:
      caption: of a picture, "" for a clip; key points of drawn faces are not trusted.
    Source: section 3 of the released data page.
    """
    drawing = any(word in caption for word in config.cartoon_words)
    return not drawing and draws.face >= config.without_face


class Change(NamedTuple):
    """A head to be changed: the pool, which of it (uniform), and how."""

    pool: Pool
    row: float
    draws: enhance.Draws
    chances: AugmentConfig = AugmentConfig()


def whole_sample(
    clip: Clip,
    temporal: int,
    canvas_side: int,
    face: bool,
    change: Change | None,
    *,
    hands: bool = True,
    draw: bool = True,
) -> Sample:
    """Window and reference (the clip's last frame) as they are stored, unvaried.

    Args:
      clip: its frames may be the reference alone, where latents stand for the others.
      temporal: frames in a latent frame.
      face: draw the face points.
      change: of the driving head, or None.
      hands: count hands as regions beside heads; the release does not in pictures.
      draw: poses; else they are black.
    """
    reference, points = clip.frames[-1], clip.keypoints
    size = height, width = reference.shape[0], reference.shape[1]
    frames = clip.frames[:-1]
    if not len(frames):
        frames = np.zeros((len(points) - 1, *size, 0), np.uint8)
    window, last = points[:-1], points[-1:]
    region = masks.heads(window, *size, temporal)
    if hands:
        region = np.maximum(region, masks.hands(window, *size, temporal))
    text = masks.keep(clip.text_boxes[:-1], len(window), *size, temporal)
    head = masks.heads(last, *size, temporal)
    notes = () if face else ("no face points",)
    if not draw:
        black = np.zeros((len(points), *size, 3), np.uint8)
        poses, shown, notes = black[:-1], black[-1:], ("no pose",)
    elif change is not None:
        poses, what = _changed(window, height, width, canvas_side, face, change)
        notes = (*notes, what)
        shown = draw_poses(last, height, width, canvas_side, Style(face=face))
    elif clip.poses is not None and face:
        poses, shown = clip.poses[:-1], clip.poses[-1:]
    else:
        drawn = draw_poses(points, height, width, canvas_side, Style(face=face))
        poses, shown = drawn[:-1], drawn[-1:]
    return Sample(
        frames=frames,
        poses=poses,
        reference=reference,
        reference_pose=shown[0],
        mask=np.zeros(size, np.uint8),
        region=region,
        keep=text,
        face_box=bounding_box(head[0]),
        notes=notes,
    )


def _changed(
    keypoints: np.ndarray,
    height: int,
    width: int,
    canvas_side: int,
    face: bool,
    change: Change,
) -> tuple[np.ndarray, str]:
    """(pictures of poses whose head is changed, what of it is)."""
    poses = [to_pose(k, height, width) for k in keypoints]
    i = change.pool.pick(change.row, height, width)
    tall, wide = (int(v) for v in change.pool.size[i])
    pool = enhance.pool_pose(change.pool.keypoints[i], tall, wide, height / width)
    other = enhance.aligned(pool, poses[0])
    made, limb, new_face = enhance.changed(poses, other, change.draws, change.chances)
    style = Style(face=face, light_head=limb, light_face=limb or new_face)
    what = {
        (True, True): "bones and face",
        (True, False): "bones",
        (False, True): "face",
    }
    note = f"head changed: {what.get((limb, new_face), 'nothing')}"
    return draw_made(made, height, width, canvas_side, style), note


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

    latents = [s.latents for s in samples if s.latents is not None]
    clip = {"latents": np.stack(latents)} if latents else {"frames_u8": stack("frames")}
    return {
        **clip,
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
        windows=windows.ANY,
        latents=None,
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
