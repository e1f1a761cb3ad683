"""Guidance as data: which passes a step makes, and the weight of each."""

import dataclasses
from collections.abc import Sequence

from onetoall_jax.errors import UserError
from onetoall_jax.sampling.settings import SamplingConfig

REAL, BLACK, BLANK = "real", "black", "blank"
PROMPT, NEGATIVE = "prompt", "negative"
AUTO, SEQUENTIAL, BATCHED = "auto", "sequential", "batched"
# Share of a device's memory below which passes are small enough for one batch: there
# starting kernels costs more than what they do.
_SMALL = 1 / 32


@dataclasses.dataclass(frozen=True)
class Pass:
    """One pass of the model in every step, and its share of the result.

    Attributes:
      reference: "real", or "black" (a black picture with a black mask).
      text: "prompt" or "negative".
      pose: "real", or "blank" (the clip's and the reference's pose both black).
      pose_scale: factor on what pose control adds; at 0 the pose path is not computed.
      weight: of the pass's velocity; the weights of a table sum to 1.
    """

    reference: str
    text: str
    pose: str
    pose_scale: float
    weight: float


def table(config: SamplingConfig) -> tuple[Pass, ...]:
    """Passes of a step, the full one first; a pass of weight 0 is left out.

    With c full, u without anything, p without reference, r without pose, and u'
    without reference and prompt, the velocity is for image scale I and pose scale P
      c                        I <= 1
      u + P (p - u) + I (c - p)    I > 1, P > 1
      u + I (r - u) + P (c - r)    the same with `case1`
      u + I (c - u)            I > 1, P <= 1
      u' + I (c - u')          I > 1, P = 0, not `black_pose`
    so equal scales need two passes only.
    Source: the released pipeline.
    """
    image, pose, s = config.image_guidance, config.pose_guidance, config.pose_scale
    full = (REAL, PROMPT, REAL, s)
    nothing = (BLACK, NEGATIVE, BLANK, 0.0)
    if image <= 1:
        return _passes([(full, 1.0)])
    if pose > 1 and config.case1:
        reference_only = (REAL, PROMPT, BLANK, s)
        rows = [(full, pose), (nothing, 1 - image), (reference_only, image - pose)]
    elif pose > 1:
        pose_only = (BLACK, PROMPT, REAL, s)
        rows = [(full, image), (nothing, 1 - pose), (pose_only, pose - image)]
    elif pose > 0 or config.black_pose:
        rows = [(full, image), (nothing, 1 - image)]
    else:
        rows = [(full, image), ((BLACK, NEGATIVE, REAL, s), 1 - image)]
    return _passes(rows)


def check_form(form: str) -> None:
    """Raises UserError unless it is a way to make the passes of a step."""
    if form not in (AUTO, SEQUENTIAL, BATCHED):
        raise UserError(
            f"sampling.passes={form!r} is unknown: take 'auto', 'sequential' or "
            "'batched'."
        )


def together(
    form: str,
    passes: int,
    clips: int,
    devices: int,
    pass_bytes: float,
    free_bytes: float | None,
) -> bool:
    """Do the passes of a step run as one batch? Else one after another.

    By itself a batch of large passes saves nothing and needs their memory all at once;
    it pays where devices that share the batch would be idle, and for small passes.

    Args:
      form: "auto", or the answer: "sequential" or "batched".
      devices: that a mesh shares the clips between.
      pass_bytes: what one pass of one clip needs while it runs.
      free_bytes: of a device's memory; None where it does not say (a CPU).
    """
    check_form(form)
    if form != AUTO or passes == 1:
        return form == BATCHED
    each = -(-passes * clips // devices)
    if devices > clips:
        return free_bytes is None or each * pass_bytes <= free_bytes
    return free_bytes is not None and each * pass_bytes <= _SMALL * free_bytes


def _passes(
    rows: Sequence[tuple[tuple[str, str, str, float], float]],
) -> tuple[Pass, ...]:
    return tuple(Pass(*given, weight) for given, weight in rows if weight)
