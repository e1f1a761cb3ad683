"""Keys of the Wan 2.1 VAE and of the umT5 encoder, in both layouts of each."""

import itertools
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from onetoall_jax.conversion.tables.entry import (
    CONV,
    SCALE,
    Entry,
    count,
    entries,
    known_sizes,
)

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
    """base_dim, z_dim and the multiples of the base width, where the shapes tell."""
    # Two residual blocks and a downsampler to a level, but for the last.
    places = {
        f"level_{i}": [
            (f"encoder.down_blocks.{3 * i + r}.conv2.{part}", 0)
            for r in range(2)
            for part in ("weight", "bias")
        ]
        for i in range(4)
    }
    places["base_dim"] = [(f"encoder.conv_in.{p}", 0) for p in ("weight", "bias")]
    places["z_dim"] = [(f"post_quant_conv.{p}", 0) for p in ("weight", "bias")]
    rename = vae_original_name if kind == "vae_original" else str
    numbers: dict[str, Any] = known_sizes(shapes, places, rename)
    widths = [numbers.pop(f"level_{i}", None) for i in range(4)]
    if "base_dim" in numbers and all(widths):
        numbers["dim_mult"] = tuple(w // numbers["base_dim"] for w in widths)
    return numbers


def infer_umt5(kind: str, shapes: Shapes) -> dict[str, int]:
    """Sizes of the encoder, where the shapes tell."""
    original = kind == "umt5_original"
    num_layers = count(shapes, "blocks." if original else "encoder.block.")
    layers = [f"encoder.block.{i}.layer" for i in range(num_layers)]
    bias = [f"{n}.0.SelfAttention.relative_attention_bias.weight" for n in layers]
    places = {
        "vocab_size": [("shared.weight", 0)],
        "dim": [("shared.weight", 1), ("encoder.final_layer_norm.weight", 0)],
        "num_buckets": [(key, 0) for key in bias],
        "num_heads": [(key, 1) for key in bias],
        "inner": [(f"{n}.0.SelfAttention.q.weight", 0) for n in layers],
        "mlp_dim": [(f"{n}.1.DenseReluDense.wi_0.weight", 0) for n in layers],
    }
    numbers = known_sizes(shapes, places, umt5_original_name if original else str)
    inner = numbers.pop("inner", None)
    if inner and numbers.get("num_heads"):
        numbers["head_dim"] = inner // numbers["num_heads"]
    return numbers | {"num_layers": num_layers}


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
