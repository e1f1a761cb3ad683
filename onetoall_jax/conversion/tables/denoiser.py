"""Keys of the denoiser: Wan, stage 1 and One-to-All, and Wan's original names."""

import math
import re
from collections.abc import Mapping, Sequence

from onetoall_jax.conversion.tables.entry import (
    CONV,
    DENSE,
    NORM,
    SCALE,
    Entry,
    count,
    entries,
    known_sizes,
)

Shapes = Mapping[str, Sequence[int]]


def table(
    num_layers: int,
    lead_layers: int = 0,
    reference_layers: int = 0,
    pose_layers: int = 0,
    pose_levels: int = 4,
) -> list[Entry]:
    """All lines of a model; zero layers of a part leave its lines out.

    Source: sections 1 to 3 of the released checkpoints' page.
    """
    made = _embeddings("dit", "") + _text_embedding()
    made += [Entry("dit/head/modulation", ("scale_shift_table",), "row")]
    made += entries("dit/head/projection", "proj_out", None, *DENSE)
    for name, layers in (
        ("lead_blocks", range(lead_layers)),
        ("blocks", range(lead_layers, num_layers)),
    ):
        if layers:
            made += _main_block(f"dit/{name}", layers, reference_layers > 0)
    if reference_layers:
        made += _extractor(reference_layers)
    if pose_layers:
        made += _control(pose_layers)
    return made + _prefix() + _pose_resnet(pose_levels)


def _embeddings(ours: str, theirs: str) -> list[Entry]:
    condition = f"{theirs}condition_embedder."
    return [
        *entries(f"{ours}/patch_embedding", f"{theirs}patch_embedding", None, *CONV),
        *entries(
            f"{ours}/time_embedding/in",
            f"{condition}time_embedder.linear_1",
            None,
            *DENSE,
        ),
        *entries(
            f"{ours}/time_embedding/out",
            f"{condition}time_embedder.linear_2",
            None,
            *DENSE,
        ),
        *entries(f"{ours}/time_projection", f"{condition}time_proj", None, *DENSE),
    ]


def _text_embedding() -> list[Entry]:
    made = []
    for ours, theirs in (("in", "linear_1"), ("out", "linear_2")):
        key = f"condition_embedder.text_embedder.{theirs}"
        made += entries(f"dit/text_embedding/{ours}", key, None, *DENSE)
    return made


def _attention(ours: str, theirs: str, layers: Sequence[int]) -> list[Entry]:
    made = []
    for name, key in (
        ("query", "to_q"),
        ("key", "to_k"),
        ("value", "to_v"),
        ("out", "to_out.0"),
    ):
        made += entries(f"{ours}/{name}", f"{theirs}.{key}", layers, *DENSE)
    for name, key in (("query_norm", "norm_q"), ("key_norm", "norm_k")):
        made += entries(f"{ours}/{name}", f"{theirs}.{key}", layers, *SCALE)
    return made


def _plain_block(ours: str, theirs: str, layers: Sequence[int]) -> list[Entry]:
    """Modulation, self-attention and feed-forward: what every block has."""
    return [
        *entries(ours, theirs, layers, ("/modulation", ".scale_shift_table", "row")),
        *_attention(f"{ours}/attention", f"{theirs}.attn1", layers),
        *entries(f"{ours}/mlp/in", f"{theirs}.ffn.net.0.proj", layers, *DENSE),
        *entries(f"{ours}/mlp/out", f"{theirs}.ffn.net.2", layers, *DENSE),
    ]


def _main_block(ours: str, layers: Sequence[int], reference: bool) -> list[Entry]:
    made = _plain_block(ours, "blocks.{i}", layers)
    made += entries(f"{ours}/text_norm", "blocks.{i}.norm2", layers, *NORM)
    made += _attention(f"{ours}/text_attention", "blocks.{i}.attn2", layers)
    if not reference:
        return made
    for name, key in (
        ("reference_key", "add_k_proj"),
        ("reference_value", "add_v_proj"),
    ):
        made += entries(
            f"{ours}/attention/{name}", f"blocks.{{i}}.attn1.{key}", layers, *DENSE
        )
    return made + entries(
        f"{ours}/attention/reference_key_norm",
        "blocks.{i}.attn1.norm_added_k",
        layers,
        *SCALE,
    )


def _extractor(num_layers: int) -> list[Entry]:
    ours, theirs = "reference_extractor", "refextractor."
    return [
        *_embeddings(ours, theirs),
        *_plain_block(f"{ours}/blocks", f"{theirs}blocks.{{i}}", range(num_layers)),
        *entries(
            f"{ours}/projections",
            f"{theirs}ref_blocks.{{i}}",
            range(num_layers + 1),
            *DENSE,
        ),
    ]


def _control(num_layers: int) -> list[Entry]:
    layers = range(num_layers)
    return [
        *_plain_block("pose_control/blocks", "controlnet.blocks.{i}", layers),
        *entries("pose_control/projections", "controlnet_zero.{i}", layers, *DENSE),
    ]


def _residual(ours: str, theirs: str, conv: str) -> list[Entry]:
    made = []
    for n in (1, 2):
        made += entries(f"{ours}/norm{n}", f"{theirs}.norm{n}", None, *NORM)
        made += entries(f"{ours}/conv{n}", f"{theirs}.conv{n}{conv}", None, *CONV)
    return made


def _prefix() -> list[Entry]:
    ours, theirs = "prefix_encoder", "image_to_cond"
    made = []
    for name in ("conv_in", "conv_out"):
        made += entries(f"{ours}/{name}", f"{theirs}.{name}", None, *CONV)
    for i in range(3):
        key = f"{theirs}.down_blocks.{i}.resnets.0"
        made += _residual(f"{ours}/res_{i}", key, "")
    return made


def _pose_resnet(levels: int) -> list[Entry]:
    ours, theirs = "pose_resnet", "input_hint_block"
    made = []
    for name in ("conv_in", "conv_out"):
        made += entries(f"{ours}/{name}", f"{theirs}.{name}.conv", None, *CONV)
    for i in range(levels):
        level = f"{theirs}.down_blocks.{i}"
        made += _residual(f"{ours}/level_{i}", f"{level}.resnets.0", ".conv")
        down = f"{level}.downsamplers.0.conv.conv"
        made += entries(f"{ours}/level_{i}/down", down, None, *CONV)
    return made


# Diffusers' name -> Wan's original name, applied in order to the whole key.
_ORIGINAL = (
    (r"^condition_embedder\.time_embedder\.linear_1\.", "time_embedding.0."),
    (r"^condition_embedder\.time_embedder\.linear_2\.", "time_embedding.2."),
    (r"^condition_embedder\.time_proj\.", "time_projection.1."),
    (r"^condition_embedder\.text_embedder\.linear_1\.", "text_embedding.0."),
    (r"^condition_embedder\.text_embedder\.linear_2\.", "text_embedding.2."),
    (r"^proj_out\.", "head.head."),
    (r"^scale_shift_table$", "head.modulation"),
    (r"^(blocks\.\d+)\.scale_shift_table$", r"\1.modulation"),
    (r"^(blocks\.\d+)\.attn1\.", r"\1.self_attn."),
    (r"^(blocks\.\d+)\.attn2\.", r"\1.cross_attn."),
    (r"_attn\.to_out\.0\.", "_attn.o."),
    (r"_attn\.to_([qkv])\.", r"_attn.\1."),
    # The original's norm2 has no parameters; its norm3 is Diffusers' norm2.
    (r"^(blocks\.\d+)\.norm2\.", r"\1.norm3."),
    (r"\.ffn\.net\.0\.proj\.", ".ffn.0."),
    (r"\.ffn\.net\.2\.", ".ffn.2."),
)


def original_name(key: str) -> str:
    """Wan's original name of a key in Diffusers' layout."""
    for pattern, replacement in _ORIGINAL:
        key = re.sub(pattern, replacement, key)
    return key


def infer(kind: str, shapes: Shapes) -> dict[str, int]:
    """Sizes of the model that tensors of these names and shapes belong to.

    Returns:
      num_layers, reference_layers, pose_layers, pose_levels, dim, mlp_dim, text_dim,
      time_dim, in_channels, out_channels, pose_channels, prefix_channels; without
      those that no tensor tells.
    """
    num_layers = count(shapes, "blocks.")
    condition = "condition_embedder"
    patch, out = "patch_embedding.weight", "proj_out"
    mlp = [f"blocks.{i}.ffn.net.0.proj" for i in range(num_layers)]
    places = {
        "dim": [(patch, 0), ("patch_embedding.bias", 0)],
        "in_channels": [(patch, 1)],
        "out_numbers": [(f"{out}.weight", 0), (f"{out}.bias", 0)],
        "text_dim": [(f"{condition}.text_embedder.linear_1.weight", 1)],
        "time_dim": [(f"{condition}.time_embedder.linear_1.weight", 1)],
        "mlp_dim": [(f"{m}.{part}", 0) for m in mlp for part in ("weight", "bias")],
        "pose_channels": [("input_hint_block.conv_in.conv.weight", 0)],
        "prefix_channels": [("image_to_cond.conv_in.weight", 0)],
    }
    rename = original_name if kind == "wan_original" else str
    numbers = known_sizes(shapes, places, rename)
    window = list(shapes.get(patch, ()))[2:]
    outputs = numbers.pop("out_numbers", None)
    if outputs is not None and len(window) == 3:
        numbers["out_channels"] = outputs // max(1, math.prod(window))
    return numbers | {
        "num_layers": num_layers,
        "reference_layers": count(shapes, "refextractor.blocks."),
        "pose_layers": count(shapes, "controlnet.blocks."),
        "pose_levels": count(shapes, "input_hint_block.down_blocks."),
    }
