"""Adapter files of every form, written and read back, and what is refused."""

import json

import flax.linen as nn
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from onetoall_jax import config, lora, trees
from onetoall_jax.checkpoints import parameters
from onetoall_jax.conversion import lora as names
from onetoall_jax.errors import UserError
from onetoall_jax.lora import LoraConfig
from onetoall_jax.models import onetoall
from onetoall_jax.models.settings import ModelConfig
from onetoall_jax.pipelines import adapters, start

CFG = ModelConfig(
    num_layers=3, num_heads=1, head_dim=12, mlp_dim=20, in_channels=3, out_channels=3,
    text_dim=7, time_dim=8, reference_layers=1, pose_layers=1, pose_channels=4,
    prefix_channels=4,
)  # fmt: skip
LORA = LoraConfig(
    rank=2,
    alpha=3.0,
    targets=(
        "dit/(lead_blocks|blocks)/(attention/(query|reference_key)|mlp/in)",
        "dit/head/projection",
    ),
)


@pytest.fixture(scope="module")
def given():
    """Random adapters, plain."""
    whole = nn.meta.unbox(start.boxed(CFG, LORA))
    leaves = trees.flatten(trees.split(whole, lora.ALL)[0])
    rng = np.random.default_rng(0)
    made = {n: rng.standard_normal(v.shape).astype(np.float32)
            for n, v in leaves.items()}  # fmt: skip
    for name in made:
        if name.endswith(lora.SCALE):
            made[name] = np.full(leaves[name].shape, LORA.scale, np.float32)
    return trees.unflatten(made)


@pytest.fixture(scope="module")
def base():
    return onetoall.abstract(CFG)


def delta(leaves, module):
    down, up, scale = (
        leaves[f"{module}/{p}"] for p in (lora.DOWN, lora.UP, lora.SCALE)
    )
    return np.asarray(scale)[..., None, None] * (down @ up)


@pytest.mark.parametrize("form", names.FORMS)
def test_a_written_file_reads_back_as_the_same_change(base, given, form):
    made = dict(names.export("onetoall", base, given, form))
    read = names.read("onetoall", base, made)
    leaves = trees.flatten(given)
    assert set(read.leaves) == set(leaves)
    assert read.unmatched == () and read.rank == 2 and len(read.matched) == 10
    for name in leaves:
        if name.endswith(lora.DOWN):
            module = name.removesuffix(f"/{lora.DOWN}")
            want, got = delta(leaves, module), delta(read.leaves, module)
            np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("form", "name"),
    [
        ("diffusers", "transformer.blocks.2.attn1.to_q.lora_A.weight"),
        ("original", "diffusion_model.blocks.2.self_attn.q.lora_down.weight"),
        ("original", "diffusion_model.blocks.0.ffn.0.alpha"),
        ("original", "diffusion_model.head.head.lora_up.weight"),
        ("kohya", "lora_unet_blocks_2_self_attn_q.lora_down.weight"),
        ("kohya", "transformer.blocks.1.attn1.add_k_proj.lora_B.weight"),
    ],
)
def test_names(base, given, form, name):
    assert name in dict(names.export("onetoall", base, given, form))


def test_shapes_are_torch_s(base, given):
    made = dict(names.export("onetoall", base, given, "original"))
    at = "diffusion_model.blocks.1.ffn.0."
    assert made[at + "lora_down.weight"].shape == (2, 12)
    assert made[at + "lora_up.weight"].shape == (20, 2)
    assert made[at + "alpha"] == 3.0


def test_ranks_may_differ_and_layers_may_be_left_out(base):
    q = "diffusion_model.blocks.{}.self_attn.q.lora_{}.weight"
    rng = np.random.default_rng(0)
    small = {q.format(0, "down"): rng.random((1, 12)), q.format(0, "up"):
             rng.random((12, 1)), q.format(2, "A"): rng.random((3, 12)),
             q.format(2, "B"): rng.random((12, 3))}  # fmt: skip
    read = names.read("onetoall", base, small, alpha=6.0)
    assert read.rank == 3 and len(read.matched) == 2
    lead = delta(read.leaves, "dit/lead_blocks/attention/query")
    want = 6 * small[q.format(0, "up")] @ small[q.format(0, "down")]
    np.testing.assert_allclose(lead[0], want.T, rtol=1e-5)
    assert not lead[1].any()
    rest = delta(read.leaves, "dit/blocks/attention/query")
    want = 2 * small[q.format(2, "B")] @ small[q.format(2, "A")]
    np.testing.assert_allclose(rest[0], want.T, rtol=1e-5)


def test_what_does_not_fit_is_listed(base):
    q = "transformer.blocks.0.attn1.to_q.lora_{}.weight"
    k = "transformer.blocks.0.attn1.to_k.lora_{}.weight"
    with pytest.raises(UserError, match=r"its up matrix is missing"):
        names.read("onetoall", base, {q.format("A"): np.ones((1, 12))})
    wide = {k.format("A"): np.ones((1, 13)), k.format("B"): np.ones((12, 1))}
    with pytest.raises(UserError, match=r"for a layer of \(12, 13\), ours is"):
        names.read("onetoall", base, wide)
    strange = {q.format("A"): np.ones((1, 12)), q.format("B"): np.ones((12, 1)),
               "transformer.blocks.9.attn1.to_q.lora_A.weight": np.ones(1),
               "transformer.blocks.0.norm2.diff": np.ones(1)}  # fmt: skip
    assert len(names.read("onetoall", base, strange).unmatched) == 2
    with pytest.raises(UserError, match="no form 'peft'"):
        list(names.export("onetoall", base, {}, "peft"))


def test_files_in_out_and_merged(tmp_path, given):
    """A base and a foreign file -> ours -> out again; merged, it is the sum."""
    rng = np.random.default_rng(1)
    leaves = {n: rng.standard_normal(v.shape).astype(np.float32)
              for n, v in trees.flatten(onetoall.abstract(CFG)).items()}  # fmt: skip
    parameters.save(tmp_path / "base", leaves.items(),
                    {"kind": "onetoall", "model": config.to_dict(CFG)})  # fmt: skip
    file = dict(names.export("onetoall", onetoall.abstract(CFG), given, "original"))
    save_file(file, tmp_path / "in.safetensors")
    said = adapters.take_in(
        tmp_path / "in.safetensors", tmp_path / "base", tmp_path / "ours"
    )
    assert said.startswith("10 layers matched, rank 2")
    adapters.give_out(tmp_path / "ours", tmp_path / "out.safetensors", "original")
    out = load_file(tmp_path / "out.safetensors")
    assert set(out) == set(file)
    for name in file:
        np.testing.assert_array_equal(out[name], file[name])
    adapters.merge(tmp_path / "ours", tmp_path / "merged")
    got = parameters.load(tmp_path / "merged", onetoall.abstract(CFG))
    at = "dit/blocks/mlp/in"
    want = leaves[f"{at}/kernel"] + delta(trees.flatten(given), at)
    np.testing.assert_allclose(
        trees.flatten(got)[f"{at}/kernel"], want, rtol=1e-5, atol=1e-5
    )
    with pytest.raises(UserError, match="holds no adapters"):
        adapters.load(tmp_path / "base")


def test_alpha_in_diffusers_metadata_counts(tmp_path, base):
    q = "transformer.blocks.0.attn1.to_q.lora_{}.weight"
    tensors = {q.format("A"): np.ones((2, 12), np.float32),
               q.format("B"): np.ones((12, 2), np.float32)}  # fmt: skip
    metadata = {"lora_adapter_metadata": json.dumps({"transformer.lora_alpha": 8})}
    save_file(tensors, tmp_path / "a.safetensors", metadata)
    parameters.save(tmp_path / "base", [
        (n, np.zeros(v.shape, np.float32)) for n, v in trees.flatten(base).items()],
        {"kind": "onetoall", "model": config.to_dict(CFG)})  # fmt: skip
    adapters.take_in(tmp_path / "a.safetensors", tmp_path / "base", tmp_path / "ours")
    _, _, read = adapters.load(tmp_path / "ours")
    scale = trees.flatten(read)["dit/lead_blocks/attention/query/lora_scale"]
    assert np.asarray(scale).tolist() == [4.0, 1.0]
