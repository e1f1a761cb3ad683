"""What a run reads, in which batches, and how each clip is varied."""

import dataclasses

from onetoall_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class AugmentConfig:
    """Chances of one clip's random choices; see `augment`.

    Attributes:
      drop_all: no pose and no reference.
      drop_reference: pose without reference.
      mask_face: keep only a box around the face of the reference.
      mask_rectangle: hide a random rectangle, where no other choice was made.
      keep_reference: drop the pose, keep the reference.
      zoom: enlarge the reference or the clip a little.
      without_face: poses without face points.
      cartoon_words: a picture whose caption holds one of them is always drawn so.
      reference_first: the clip's own first frame as reference.
      change_pose: give the driving head another's proportions (`enhance`); needs
        `DataConfig.pose_pool`. Of a head that is to change, change_bones and
        change_face are the chances that its bones and its face do.
      keep_alike: a proportion that hardly differs from the pool's is left so.
      change_every_frame: draw that change for each frame anew, as released: it jitters.
      released_pictures: vary pictures by the release's own rules, slips included,
        rather than as clips.
      hand_regions: count hands of clips as regions, beside heads.
      without_poses: all poses black and none drawn, for stages without a pose branch.
      same_picture: of a pair of pictures use the second as target and reference, as the
        release does in stage 1.
    """

    drop_all: float = 0.1
    drop_reference: float = 0.1
    mask_face: float = 0.5
    mask_rectangle: float = 0.2
    keep_reference: float = 0.2
    zoom: float = 0.1
    without_face: float = 0.2
    reference_first: float = 0.0
    cartoon_words: tuple[str, ...] = ("cartoon", "animate", "anime")
    change_pose: float = 0.0
    change_bones: float = 0.4
    change_face: float = 0.7
    keep_alike: float = 0.1
    change_every_frame: bool = False
    released_pictures: bool = False
    hand_regions: bool = True
    without_poses: bool = False
    same_picture: bool = False

    @classmethod
    def none(cls) -> "AugmentConfig":
        """No choice at all: every clip as it is stored."""
        return cls(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, cartoon_words=())


def stage_defaults(stage: int) -> AugmentConfig:
    """The released chances of a stage; stage 0 trains without conditions.

    Stages 0 and 1 have no pose branch, so that no pose is drawn; the release draws
    those of stage 1 and leaves them unused.

    Raises:
      UserError: another stage than 0 to 3.
    Source: sections 1 and 4 of the released training page.
    """
    if stage not in range(4):
        raise UserError(f"There is no stage {stage}: choose from 0, 1, 2 and 3.")
    table = {
        0: AugmentConfig(
            1.0, 0, 0, 0, 0, 0, 0, cartoon_words=(), without_poses=True
        ),  # fmt: skip
        1: AugmentConfig(
            0.0,
            0.2,
            0.5,
            0.2,
            0.0,
            0.0,
            0.0,
            reference_first=0.2,
            cartoon_words=(),
            hand_regions=False,
            without_poses=True,
            same_picture=True,
        ),
        2: AugmentConfig(change_pose=0.7),
        3: AugmentConfig(mask_face=0.3, keep_reference=0.3, change_pose=0.5),
    }
    return table[stage]


@dataclasses.dataclass(frozen=True)
class Resolution:
    """One area and the clips it takes.

    Attributes:
      table: name of the table of sizes: "512", "768" or "tiny" (buckets.TABLES).
      share: chance that a clip, large and long enough, is taken at this area.
      image_share: chance that it is taken as a single frame.
    """

    table: str
    share: float = 1.0
    image_share: float = 0.0


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """The input pipeline.

    Attributes:
      root: directory of a prepared data set; split: which part of it.
      resolutions: tried in order, largest area first.
      aspects: keys of the tables (height over width) that are used; empty uses all 40.
        Each costs a compiled program for each length and area.
      released_buckets: draw buckets as released, where the draws of one epoch are those
        of the epoch before moved on by one; else independently.
      marked_frames: windows begin and references lie at the frames that the data set
        marks, where it marks some; the release passes them over.
      num_frames: frames of a video sample; a clip too short becomes a picture.
      batch: clips of a global batch, over all hosts.
      seed: of order and all draws.
      workers: processes that read; 0 reads in the training process.
      pose_pool: file of key points that heads are changed towards (`pools`); None
        changes none.
      canvas_side: of drawn poses; stored poses are used when the set has them and
        faces are drawn.
      windows: "any" takes every stretch of a clip; "cached" only `windows_per_clip`
        evenly spaced ones, whose latents can be stored.
      latents: directory that `cache_latents` wrote for these settings; None encodes
        clips in training.
    """

    root: str = "runs/data"
    split: str = "train"
    resolutions: tuple[Resolution, ...] = (Resolution("512"),)
    aspects: tuple[float, ...] = ()
    released_buckets: bool = False
    marked_frames: bool = True
    num_frames: int = 29
    batch: int = 8
    seed: int = 43
    workers: int = 2
    pose_pool: str | None = None
    canvas_side: int = 2160
    windows: str = "any"
    windows_per_clip: int = 4
    latents: str | None = None
    augment: AugmentConfig = dataclasses.field(default_factory=AugmentConfig)
