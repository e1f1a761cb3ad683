"""Operations of a step or of a sampled segment, by part of the network."""

import dataclasses
import functools
import re
from collections.abc import Iterable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from onetoall_jax.errors import UserError
from onetoall_jax.geometry import Geometry
from onetoall_jax.lora import LoraConfig
from onetoall_jax.models import codec as codecs
from onetoall_jax.models.codec import Codec, CodecConfig
from onetoall_jax.models.settings import ModelConfig
from onetoall_jax.models.text_attention import MOST
from onetoall_jax.pipelines.settings import RunSettings
from onetoall_jax.planning import count
from onetoall_jax.planning.rates import Load
from onetoall_jax.sampling import guidance
from onetoall_jax.training import flops, stages

CODEC = "codec"
# First match names the part.
_PARTS = (
    (r"dit/.*blocks/attention/reference", "reference branch"),
    (r"dit/.*blocks/attention", "self-attention"),
    (r"dit/.*blocks/text_attention", "text attention"),
    (r"dit/.*blocks/mlp", "feed-forward"),
    (r"reference_extractor/", "reference extractor"),
    (r"pose_control/", "pose blocks"),
    (r"pose_resnet/", "pose frames"),
    (r"prefix_encoder/", "prefix"),
    (r"dit/", "embeddings, head"),
)
_IN_BLOCK = re.compile(r"blocks/")
# Rematerialisation -> kinds that the backward pass of a block repeats.
REPEATED = {
    "none": (),
    "block": ("matmul", "attention"),
    "attention": ("matmul",),
    "offload": ("matmul",),
}


@dataclasses.dataclass(frozen=True)
class Size:
    """Sizes of one clip in pixels."""

    num_frames: int
    height: int
    width: int

    @classmethod
    def parse(cls, text: str) -> "Size":
        """Sizes of "29x768x768"; UserError where the text is no such thing."""
        sides = text.split("x")
        if len(sides) != 3 or not all(side.isdigit() for side in sides):
            raise UserError(f"{text!r} is no size: write 29x768x768.")
        return cls(*map(int, sides))

    def __str__(self) -> str:
        return f"{self.num_frames}x{self.height}x{self.width}"

    def clip(self, geometry: Geometry, text: int) -> flops.Clip:
        """The same as the table of operations takes it; `text` rows of prompt."""
        sizes = self.num_frames, self.height, self.width
        return flops.Clip(*sizes, geometry.token_grid(*sizes), text)


@dataclasses.dataclass(frozen=True)
class Row:
    """Operations of one part.

    Attributes:
      kind: "matmul", "attention" or "convolution".
      forward, backward: as the model needs them.
      repeated: what rematerialisation and attention kernels compute again.
    """

    part: str
    kind: str
    forward: float
    backward: float = 0.0
    repeated: float = 0.0

    @property
    def model(self) -> float:
        """Operations that count towards utilisation."""
        return self.forward + self.backward

    def times(self, factor: float) -> "Row":
        """The same work so many times."""
        made = (factor * n for n in (self.forward, self.backward, self.repeated))
        return Row(self.part, self.kind, *made)


def training(settings: RunSettings, codec: Codec, size: Size) -> list[Row]:
    """Work of one clip in a training step, the encoding of its pixels included."""
    run = settings.training
    clip = size.clip(codec.geometry, settings.text.length)
    ops = _table(settings.model, clip, stages.patterns(run.trainable), settings.lora)
    rows = [_row(op, REPEATED[run.remat]) for op in ops]
    stored = bool(settings.data.get("latents"))
    return _summed([*rows, *_encoding(settings, size, stored)])


def sampling(settings: RunSettings, codec: Codec, size: Size) -> list[Row]:
    """Work of one clip in a segment: all steps and passes, and the decoding.

    What does not depend on the noise is computed once for each segment, the reference's
    features once for each step and distinct reference.
    """
    table = guidance.table(settings.sampling)
    text = min(settings.text.sampling_length or settings.text.length, MOST)
    ops = _table(settings.model, size.clip(codec.geometry, text), ())
    steps = settings.sampling.steps
    references = len({row.reference for row in table})
    with_pose = sum(row.pose_scale != 0 for row in table)
    rows = []
    for op in ops:
        row = _row(op, ())
        if row.part in ("pose frames", "pose blocks"):
            calls = with_pose * (steps if row.part == "pose blocks" else 1)
        elif row.part == "reference extractor":
            calls = steps * references
        elif row.part == "prefix" or op.name.startswith("dit/text_embedding"):
            calls = len(table)
        else:
            calls = steps * len(table)
        rows.append(row.times(calls))
    return _summed([*rows, *_codec_rows(settings.codec, size, True)])


def model_operations(rows: Iterable[Row]) -> float:
    """Operations that count towards utilisation: the network's, not the codec's."""
    return sum(row.model for row in rows if row.part != CODEC)


def load(
    rows: Sequence[Row], traffic: float, clips: float, devices: int, sent: float = 0.0
) -> Load:
    """What each of `devices` does for `clips` clips whose work they share evenly.

    Args:
      traffic: bytes of element-wise code for a clip.
      sent: bytes that each device sends.
    """
    share = clips / devices

    def total(kind: str, *fields: str) -> float:
        picked = [row for row in rows if row.kind == kind]
        return share * sum(getattr(row, name) for row in picked for name in fields)

    return Load(
        matmul=total("matmul", "forward", "backward", "repeated"),
        attention=total("attention", "forward", "repeated"),
        attention_backward=total("attention", "backward"),
        convolution=total("convolution", "forward", "backward", "repeated"),
        bytes=share * traffic,
        sent=sent,
    )


def traffic(model: ModelConfig, tokens: int, passes: float) -> float:
    """Bytes of fused element-wise code in bfloat16: 50 D + 4 M a token and block.

    Args:
      passes: forward passes that move as much; a training step with recomputation
        counts four, without it three.
    """
    blocks = model.num_layers + model.pose_layers
    return passes * blocks * tokens * (50.0 * model.dim + 4.0 * model.mlp_dim)


def _table(
    model: ModelConfig,
    clip: flops.Clip,
    trainable: Sequence[str],
    adapters: LoraConfig = LoraConfig(),  # noqa: B008
) -> list[flops.Op]:
    sizes: Any = model  # frozen, where the protocol would let one set values
    return flops.operations(sizes, clip, trainable, adapters)


def _row(op: flops.Op, repeated: Sequence[str]) -> Row:
    part = next(name for pattern, name in _PARTS if re.match(pattern, op.name))
    again = 0.0
    if op.backward and op.kind == "attention":
        again += op.forward / 2  # its kernel computes the scores once more
    if op.kind in repeated and _IN_BLOCK.search(op.name):
        again += op.forward
    return Row(part, op.kind, op.forward, op.backward, again)


def _summed(rows: Iterable[Row]) -> list[Row]:
    sums: dict[tuple[str, str], Row] = {}
    for row in rows:
        key = row.part, row.kind
        had = sums.get(key, Row(*key, 0.0))
        sums[key] = Row(
            *key,
            had.forward + row.forward,
            had.backward + row.backward,
            had.repeated + row.repeated,
        )
    return list(sums.values())


def _encoding(settings: RunSettings, size: Size, stored: bool) -> list[Row]:
    """The clip unless its latents are stored, its reference and that one's mask."""
    video = [] if stored else _codec_rows(settings.codec, size, False)
    one = dataclasses.replace(size, num_frames=1)
    picture = _codec_rows(settings.codec, one, False)
    return [*video, *(row.times(2) for row in picture)]


@functools.cache
def _codec_rows(config: CodecConfig, size: Size, decode: bool) -> list[Row]:
    codec = codecs.build(config, (1, 2, 2))  # the patch is nothing to the codec
    params = nn.meta.unbox(jax.eval_shape(codec.init, jax.random.key(0)))
    sizes = size.num_frames, size.height, size.width
    values = jax.ShapeDtypeStruct((1, *sizes, 3), jnp.float32)
    fn = codec.encode
    if decode:
        fn, values = codec.decode, jax.eval_shape(codec.encode, params, values)
    made = count.operations(fn, params, values)
    return [Row(CODEC, kind, number) for kind, number in made.items() if number]
