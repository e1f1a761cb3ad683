"""Memory of one device in a training step, by a formula instead of a compiler.

The formula counts what must be held at the worst moment, the backward pass; what the
compiler adds or saves by its order of operations is the error that plans report.
"""

import dataclasses
import math
from collections.abc import Mapping

import jax.numpy as jnp

from onetoall_jax.models import vae_strips
from onetoall_jax.models.codec import CodecConfig
from onetoall_jax.models.dit import parts
from onetoall_jax.models.pose_resnet import WHOLE
from onetoall_jax.models.settings import ModelConfig
from onetoall_jax.planning.work import Size

# Values that a block holds while its backward pass runs: per token in units of D and M.
_LIVE_WIDTH, _LIVE_MLP = 18, 2
# The same per token that policies keep of every block until then, in units of D. Half
# of what is offloaded still lies on the device (two compiled steps of 14B).
_KEPT = {"block": 1.0, "attention": 3.0, "offload": 0.5}
# Arrays at full resolution that pose frames hold for their backward pass (fitted to
# compiled steps at 29x768x768). Columns of pose frames fill the lanes of a TPU. The
# compiler packs them tightly where a chip has no more than so many bytes.
_POSE_ARRAYS, _TIGHT_POSE_ARRAYS, _LITTLE = 31, 21, 16 * 2**30
# Arrays as large as a frame that decoding holds, of what all levels work on and of what
# the last ones do (fitted to the decoder alone at 576x1024, whole and in strips).
_CODEC_ARRAYS, _CODEC_LAST_ARRAYS = 9, 46
# The same of a forward pass: per token, per token that goes through a block at once,
# and at full resolution of pose frames that are taken whole or in sweeps.
_FORWARD_WIDTH, _FORWARD_LIVE, _FORWARD_MLP = 8, 4, 2
_FORWARD_POSE, _SWEPT_POSE = 4.5, 1.6
# Blocks whose gathered weights are there at a time, in a step and in a forward pass
# (fitted to compiled programs of 14B): the next ones come while one is at work.
_GATHERED, _FORWARD_GATHERED = 2, 4
_LANES = 128  # a TPU pads the last axis of an array to so many


@dataclasses.dataclass(frozen=True)
class Share:
    """What one device has of a step.

    Attributes:
      clips: of the batch, at one time: parts of an accumulated batch come one by one.
      context, tensor: devices that share a clip's tokens, and its heads.
      gathers: parameters are split and gathered where they are used.
    """

    clips: float
    context: int
    tensor: int
    gathers: bool


def temporary(
    model: ModelConfig,
    size: Size,
    share: Share,
    remat: str,
    wide: bool,
    limit: float | None,
) -> Mapping[str, float]:
    """Bytes beside the arguments, by kind; the sum is the most held at a time.

    Args:
      wide: the network computes in float32, not in bfloat16.
      limit: bytes that a device has, where that is known.
    """
    each = 4 if wide else 2
    width = model.dim * each
    f, h, w = _grid(model, size)
    own = share.clips / share.context
    tokens = own * (f + bool(model.pose_layers)) * h * w
    reference = share.clips * h * w
    live = (_LIVE_WIDTH * model.dim + _LIVE_MLP * model.mlp_dim) * each
    blocks = model.num_layers + model.pose_layers
    if remat == "none":
        kept = (tokens * blocks + reference * model.reference_layers) * live
    else:
        share_kept = _KEPT[remat] * width
        kept = (tokens * blocks + reference * model.reference_layers) * share_kept
    features = reference * (model.reference_layers + 1) * 2 * width
    gathered = _GATHERED * each * block_parameters(model) if share.gathers else 0
    made = {
        "kept for the backward pass": kept + features,
        "one block": tokens * live / share.tensor,
        "gathered weights": gathered / share.tensor,
    }
    if model.pose_layers:
        pixels = share.clips * size.num_frames * size.height * size.width
        tight = limit is not None and limit <= _LITTLE
        arrays = _TIGHT_POSE_ARRAYS if tight else _POSE_ARRAYS
        made["pose frames"] = arrays * pixels * model.pose_channels * each
    return made


def sampling(
    model: ModelConfig,
    size: Size,
    share: Share,
    passes: tuple[int, int, int],
    text: int,
    decoding: float,
    wide: bool,
    alone: bool,
) -> Mapping[str, float]:
    """Bytes beside the arguments of a sampled segment, by kind.

    Args:
      passes: (all, those with pose, distinct references) of a step.
      text: rows of a prompt.
      decoding: bytes of `codec`.
      alone: one device holds everything.
    """
    each = 4 if wide else 2
    width = model.dim * each
    f, h, w = _grid(model, size)
    tokens = share.clips / share.context * (f + bool(model.pose_layers)) * h * w
    together = parts(int(tokens)) if alone else 1
    live = (
        _FORWARD_WIDTH * model.dim
        + (_FORWARD_LIVE * model.dim + _FORWARD_MLP * model.mlp_dim) / together
    ) * each
    prompts = 2 * share.clips * model.num_layers * 2 * text
    features = passes[2] * share.clips * h * w * (model.reference_layers + 1)
    pixels = share.clips * size.num_frames * size.height * size.width
    network = {
        "one block": tokens * live / share.tensor,
        "pose, prompts, features": (passes[1] * tokens + prompts + features) * width,
        "gathered weights": _FORWARD_GATHERED
        * each
        * block_parameters(model)
        / share.tensor
        if share.gathers
        else 0.0,
    }
    arrays = _SWEPT_POSE if pixels > WHOLE else _FORWARD_POSE
    others = {
        "pose frames": arrays * pixels * model.pose_channels * each,
        "decoding the clips": decoding,
    }
    for name, n in others.items():
        if n > sum(network.values()):
            network = {name: n}
    return network


def codec(
    config: CodecConfig, size: Size, clips: float, devices: int, platform: str
) -> float:
    """Bytes that coding the clips takes, by itself, where the network waits.

    Args:
      devices: that a clip's strips may be spread over.
    """
    vae = config.vae
    stride = vae.spatial_stride
    height, width = size.height // stride, size.width // stride
    depth = (vae.res_blocks, len(vae.dim_mult))
    halo = vae_strips.decoder_halo(*depth)
    last = vae_strips.decoder_halo(*depth, vae.single_level)
    most = config.most_pixels or vae_strips.UNKNOWN
    strips = vae_strips.plan(height, width, halo, last, most // stride**2, devices)
    longer = max(height, width)
    window, narrow = (strips.window, strips.narrow) if strips else (longer, longer)
    arrays = _CODEC_ARRAYS * window + _CODEC_LAST_ARRAYS * narrow
    channels = padded(vae.base_dim, platform)
    pixels = clips * size.height * size.width
    clip = clips * size.num_frames * size.height * size.width * 3
    each = jnp.dtype(config.dtype).itemsize
    return each * (arrays / longer * pixels * channels + clip)


def padded(channels: int, platform: str) -> int:
    """Channels of a picture as they lie in a device's memory."""
    return math.ceil(channels / _LANES) * _LANES if platform == "tpu" else channels


def block_parameters(model: ModelConfig) -> int:
    """Weights of one block of the main stack."""
    reference = 2 if model.reference_layers else 0
    return (8 + reference) * model.dim**2 + 2 * model.dim * model.mlp_dim


def _grid(model: ModelConfig, size: Size) -> tuple[int, int, int]:
    strides = [math.prod(axis) for axis in zip(*model.pose_strides, strict=True)]
    frames = (size.num_frames - 1) // strides[0] + 1
    return frames, size.height // strides[1], size.width // strides[2]
