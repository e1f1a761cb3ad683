"""Settings of sampling as a frozen dataclass."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class SamplingConfig:
    """How clips are drawn from the model; the numbers are the release's (1.3B).

    Attributes:
      steps: Euler steps.
      shift: of the noise levels; see `flow.shift_sigma`.
      image_guidance: scale of the reference; at most 1 is no guidance at all.
      pose_guidance: scale of the pose; at most 1 guides with the reference alone.
      case1: with both scales, the pose is left out before the reference.
      black_pose: with pose_guidance 0, the unguided pass loses the pose too.
      pose_scale: factor on what pose control adds.
      passes: how the passes of a step are made: "sequential", "batched" (a mesh spreads
        the batch over its devices) or "auto", by memory; the result is the same.
      devices: that share a clip, first its passes, then its tokens; 0 takes all there
        are. Chosen when a checkpoint is loaded.
      codec_dtype: of the VAE's computation, "bfloat16" or "float32"; None is the type
        of the denoiser's, as released. Chosen when a checkpoint is loaded.
      segment_frames: frames drawn at a time, 1 + temporal stride * n.
      overlap: frames of a segment that the one before has made; they decode from two
        latent frames.
      plan: "static" (all segments of one length) or "release" (a shorter last one).
      final_lengths: of the release's last segment, the smallest that fits is taken.
      segments_per_call: segments that one compiled call makes; 0 is all.
      short_side: a result follows its reference, its short side at most this, pixels.
      seed: of the noise, the same for every segment and every clip.
      colour_anchor: share, 0..1, of the way that later segments are brought back to the
        mean and contrast of the first one's colours; 0 leaves them as they are drawn.
    """

    steps: int = 30
    shift: float = 7.0
    image_guidance: float = 2.5
    pose_guidance: float = 1.5
    case1: bool = False
    black_pose: bool = True
    pose_scale: float = 1.0
    passes: str = "auto"
    devices: int = 1
    codec_dtype: str | None = None
    segment_frames: int = 81
    overlap: int = 5
    plan: str = "static"
    final_lengths: tuple[int, ...] = (65, 69, 73, 77, 81)
    segments_per_call: int = 1
    short_side: int = 384
    seed: int = 42
    colour_anchor: float = 0.0
