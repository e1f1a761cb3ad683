"""Keys of the Wan 2.1 VAE and of the umT5 encoder, in both layouts of each."""

import itertools
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from onetoall_jax.conversion.tables.entry import CONV, SCALE, Entry, entries

Shapes = Mapping[str, Sequence[int]]

_GAMMA3 = (("/scale", ".gamma", "gamma3"),)
_GAMMA2 = (("/scale", ".gamma", "gamma2"),)
_WEIGHT = (("/kernel", ".weight", "dense"),)


def vae_table(leaves: Collection[str]) -> list[Entry]:
    """All lines of a VAE with leaves of these names of ours.

    Source: section 4 of the released checkpoints' page.
    """
    made = entries("quant_conv", "quant_conv", None, *CONV)
    made += entries("post_quant_conv", "post_quant_conv", None, *CONV)
    levels = _count("encoder/level_{}/res_0/conv1/kernel", leaves)
    blocks = _count("encoder/level_0/res_{}/conv1/kernel", leaves)
    for side in ("encoder", "decoder"):
        for name in ("conv_in", "conv_out"):
            made += entries(f"{side}/{name}", f"{side}.{name}", None, *CONV)
        made += entries(f"{side}/norm_out", f"{side}.norm_out", None, *_GAMMA3)
        made += _middle(side)
    for level in range(levels):
        made += _encoder_level(level, levels, blocks)
        made += _decoder_level(level, levels, blocks)
    return [e for e in made if e.leaf in leaves]


def _count(pattern: str, leaves: Collection[str]) -> int:
    return next(i for i in itertools.count() if pattern.format(i) not in leaves)


def _residual(ours: str, theirs: str) -> list[Entry]:
    """One residual block; the caller drops the shortcut where the model has none."""
    made = entries(f"{ours}/shortcut", f"{theirs}.conv_shortcut", None, *CONV)
    for n in (1, 2):
        made += entries(f"{ours}/norm{n}", f"{theirs}.norm{n}", None, *_GAMMA3)
        made += entries(f"{ours}/conv{n}", f"{theirs}.conv{n}", None, *CONV)
    return made


def _middle(side: str) -> list[Entry]:
    ours, theirs = f"{side}/mid", f"{side}.mid_block"
    attention = f"{theirs}.attentions.0"
    return [
        *_residual(f"{ours}/res_0", f"{theirs}.resnets.0"),
        *entries(f"{ours}/attention/norm", f"{attention}.norm", None, *_GAMMA2),
        *entries(f"{ours}/attention/qkv", f"{attention}.to_qkv", None, *CONV),
        *entries(f"{ours}/attention/out", f"{attention}.proj", None, *CONV),
        *_residual(f"{ours}/res_1", f"{theirs}.resnets.1"),
    ]


def _resample(ours: str, theirs: str) -> list[Entry]:
    made = entries(f"{ours}/conv", f"{theirs}.resample.1", None, *CONV)
    return made + entries(f"{ours}/time_conv", f"{theirs}.time_conv", None, *CONV)


def _encoder_level(level: int, levels: int, blocks: int) -> list[Entry]:
    made = []
    start = level * (blocks + 1)
    for r in range(blocks):
        ours = f"encoder/level_{level}/res_{r}"
        made += _residual(ours, f"encoder.down_blocks.{start + r}")
    if level < levels - 1:
        key = f"encoder.down_blocks.{start + blocks}"
        made += _resample(f"encoder/level_{level}/down", key)
    return made


def _decoder_level(level: int, levels: int, blocks: int) -> list[Entry]:
    made = []
    key = f"decoder.up_blocks.{level}"
    for r in range(blocks + 1):
        made += _residual(f"decoder/level_{level}/res_{r}", f"{key}.resnets.{r}")
    if level < levels - 1:
        made += _resample(f"decoder/level_{level}/up", f"{key}.upsamplers.0")
    return made


_VAE_ORIGINAL = (
    (r"^quant_conv\.", "conv1."),
    (r"^post_quant_conv\.", "conv2."),
    (r"^(encoder|decoder)\.conv_in\.", r"\1.conv1."),
    (r"\.mid_block\.resnets\.0\.", ".middle.0."),
    (r"\.mid_block\.attentions\.0\.", ".middle.1."),
    (r"\.mid_block\.resnets\.1\.", ".middle.2."),
    (r"\.norm_out\.", ".head.0."),
    (r"\.conv_out\.", ".head.2."),
    (r"^encoder\.down_blocks\.", "encoder.downsamples."),
    (r"\.norm1\.", ".residual.0."),
    (r"(?<!encoder)(?<!decoder)\.conv1\.", ".residual.2."),
    (r"\.norm2\.", ".residual.3."),
    (r"\.conv2\.", ".residual.6."),
    (r"\.conv_shortcut\.", ".shortcut."),
)


def vae_original_name(key: str) -> str:
    """Name in Wan's original VAE file of a key in Diffusers' layout."""
    key = re.sub(
        r"^decoder\.up_blocks\.(\d+)\.(resnets|upsamplers)\.(\d+)\.",
        lambda m: _upsample_name(int(m[1]), m[2], int(m[3])),
        key,
    )
    for pattern, replacement in _VAE_ORIGINAL:
        key = re.sub(pattern, replacement, key)
    return key


def _upsample_name(block: int, what: str, index: int) -> str:
    # The original counts three residual blocks and an upsampler as four.
    within = index if what == "resnets" else 3
    return f"decoder.upsamples.{4 * block + within}."


def infer_vae(kind: str, shapes: Shapes) -> dict[str, Any]:
    """base_dim, z_dim and the multiples of the base width, from the shapes.

    Raises:
      KeyError: a tensor that tells a size is missing.
    """

    def shape(key: str) -> Sequence[int]:
        return shapes[vae_original_name(key) if kind == "vae_original" else key]

    base = shape("encoder.conv_in.weight")[0]
    # Two residual blocks and a downsampler to a level, but for the last.
    widths = [
        shape(f"encoder.down_blocks.{3 * i + 1}.conv2.weight")[0] for i in range(4)
    ]
    return {
        "base_dim": base,
        "z_dim": shape("post_quant_conv.weight")[0],
        "dim_mult": tuple(w // base for w in widths),
    }


def infer_umt5(kind: str, shapes: Shapes) -> dict[str, int]:
    """Sizes of the encoder, from the shapes.

    Raises:
      KeyError: a tensor that tells a size is missing.
    """

    def shape(key: str) -> Sequence[int]:
        return shapes[umt5_original_name(key) if kind == "umt5_original" else key]

    first = "encoder.block.0.layer"
    attention = f"{first}.0.SelfAttention"
    vocab, dim = shape("shared.weight")
    buckets, heads = shape(f"{attention}.relative_attention_bias.weight")
    prefix = "blocks." if kind == "umt5_original" else "encoder.block."
    layers = {k[len(prefix) :].split(".")[0] for k in shapes if k.startswith(prefix)}
    return {
        "vocab_size": vocab,
        "dim": dim,
        "num_layers": len(layers),
        "num_heads": heads,
        "head_dim": shape(f"{attention}.q.weight")[0] // heads,
        "mlp_dim": shape(f"{first}.1.DenseReluDense.wi_0.weight")[0],
        "num_buckets": buckets,
    }


def umt5_table(num_layers: int) -> list[Entry]:
    """All lines of the encoder, transformers' names.

    Source: section 5 of the released VAE and text encoder page.
    """
    layers = range(num_layers)
    made = [Entry("embedding", ("shared.weight",))]
    made += entries("final_norm", "encoder.final_layer_norm", None, *SCALE)
    attention = "encoder.block.{i}.layer.0"
    mlp = "encoder.block.{i}.layer.1"
    made += entries("blocks/attention_norm", f"{attention}.layer_norm", layers, *SCALE)
    for name, key in (("query", "q"), ("key", "k"), ("value", "v"), ("out", "o")):
        theirs = f"{attention}.SelfAttention.{key}"
        made += entries(f"blocks/attention/{name}", theirs, layers, *_WEIGHT)
    bias = f"{attention}.SelfAttention.relative_attention_bias"
    made += entries("blocks", bias, layers, ("/position_bias", ".weight", "same"))
    made += entries("blocks/mlp_norm", f"{mlp}.layer_norm", layers, *SCALE)
    for name, key in (("gate", "wi_0"), ("in", "wi_1"), ("out", "wo")):
        theirs = f"{mlp}.DenseReluDense.{key}"
        made += entries(f"blocks/mlp/{name}", theirs, layers, *_WEIGHT)
    return made


_UMT5_ORIGINAL = (
    (r"^shared\.weight$", "token_embedding.weight"),
    (r"^encoder\.final_layer_norm\.", "norm."),
    (r"^encoder\.block\.(\d+)\.layer\.0\.layer_norm\.", r"blocks.\1.norm1."),
    (
        r"^encoder\.block\.(\d+)\.layer\.0\.SelfAttention\.relative_attention_bias\.",
        r"blocks.\1.pos_embedding.embedding.",
    ),
    (r"^encoder\.block\.(\d+)\.layer\.0\.SelfAttention\.", r"blocks.\1.attn."),
    (r"^encoder\.block\.(\d+)\.layer\.1\.layer_norm\.", r"blocks.\1.norm2."),
    (
        r"^encoder\.block\.(\d+)\.layer\.1\.DenseReluDense\.wi_0\.",
        r"blocks.\1.ffn.gate.0.",
    ),
    (
        r"^encoder\.block\.(\d+)\.layer\.1\.DenseReluDense\.wi_1\.",
        r"blocks.\1.ffn.fc1.",
    ),
    (r"^encoder\.block\.(\d+)\.layer\.1\.DenseReluDense\.wo\.", r"blocks.\1.ffn.fc2."),
)


def umt5_original_name(key: str) -> str:
    """Name in Wan's original text encoder file of a key of transformers."""
    for pattern, replacement in _UMT5_ORIGINAL:
        key = re.sub(pattern, replacement, key)
    return key
