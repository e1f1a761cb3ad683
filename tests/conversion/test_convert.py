import dataclasses
import functools
import io
import pickle
import zipfile

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from onetoall_jax import trees
from onetoall_jax.checkpoints import parameters
from onetoall_jax.conversion import apply, readers
from onetoall_jax.errors import UserError
from onetoall_jax.models import onetoall
from onetoall_jax.models.settings import ModelConfig
from onetoall_jax.pipelines import convert
from tools import convert_torch_weights

CFG = ModelConfig(num_layers=4, num_heads=2, head_dim=8, mlp_dim=20, text_dim=12,
                  reference_layers=2, pose_layers=1)  # fmt: skip


def official(cfg, kind="onetoall", seed=0):
    """Random bfloat16 tensors under the official names and shapes of a model."""
    rng = np.random.default_rng(seed)
    tensors = {}
    for entry in apply.kinds.table(kind, shapes_of(cfg)):
        if entry.leaf in shapes_of(cfg):
            for key in entry.keys:
                shape = entry.foreign_shape(shapes_of(cfg)[entry.leaf])
                values = rng.standard_normal(shape).astype(ml_dtypes.bfloat16)
                tensors[key] = values
    return tensors


@functools.lru_cache
def shapes_of(cfg):
    return {n: tuple(s.shape) for n, s in trees.flatten(onetoall.abstract(cfg)).items()}


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "release"
    path.mkdir()
    tensors = official(CFG)
    half = dict(list(tensors.items())[::2])
    save_file(half, path / "a.safetensors")
    save_file(
        {k: v for k, v in tensors.items() if k not in half}, path / "b.safetensors"
    )
    return path, tensors


def test_a_converted_release_comes_back_bit_for_bit(folder, tmp_path):
    path, tensors = folder
    convert_torch_weights.main(
        ["--src", str(path), "--out", str(tmp_path / "ours"), "--head_dim", "8"]
    )
    kind, sizes = convert.stored_sizes(tmp_path / "ours")
    assert kind == "onetoall" and sizes == CFG
    convert_torch_weights.main(
        ["--src", str(tmp_path / "ours"), "--out", str(tmp_path / "back"), "--export",
         "--dtype", "bfloat16"]
    )  # fmt: skip
    back = load_file(tmp_path / "back" / "diffusion_pytorch_model.safetensors")
    assert back.keys() == tensors.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(back[name], tensor, err_msg=name)


def test_parameters_load_straight_into_shards(folder, tmp_path):
    path, _ = folder
    convert.convert(path, tmp_path / "ours", head_dim=8, dtype="float32")
    mesh = jax.make_mesh((8,), ("fsdp",), axis_types=(jax.sharding.AxisType.Auto,))
    split = jax.NamedSharding(mesh, jax.P(None, "fsdp"))
    whole = jax.NamedSharding(mesh, jax.P())

    def place(s):
        sharded = len(s.shape) == 3 and s.shape[1] % 8 == 0
        return jax.ShapeDtypeStruct(
            s.shape, s.dtype, sharding=split if sharded else whole
        )

    loaded = parameters.load(
        tmp_path / "ours", jax.tree.map(place, onetoall.abstract(CFG))
    )
    kernel = loaded["dit"]["blocks"]["mlp"]["in"]["kernel"]
    assert kernel.addressable_shards[0].data.shape == (2, 2, 20)


def test_every_problem_is_listed_and_nothing_written(folder, tmp_path, capsys):
    path, tensors = folder
    changed = dict(tensors)
    del changed["proj_out.bias"]
    changed["blocks.3.norm2.bias"] = np.zeros(5, np.float32)
    changed["surprise"] = np.zeros(1, np.float32)
    for file in path.glob("*"):
        file.unlink()
    save_file(changed, path / "a.safetensors")
    with pytest.raises(SystemExit) as stop:
        convert_torch_weights.main(
            ["--src", str(path), "--out", str(tmp_path / "o"), "--head_dim", "8"]
        )
    assert stop.value.code == 2
    said = capsys.readouterr().err
    for part in (
        "missing proj_out.bias",
        "norm2.bias is (5,), not (16,)",
        "unused sur",
    ):
        assert part in said
    assert not list(tmp_path.glob("o*"))


def test_a_dry_run_writes_nothing(folder, tmp_path, capsys):
    path, tensors = folder
    convert_torch_weights.main(["--src", str(path), "--dry_run", "--head_dim", "8"])
    said = capsys.readouterr().out
    assert f"onetoall: {len(tensors)} tensors" in said and "num_layers=4" in said


def test_a_wan_checkpoint_becomes_the_start_of_stage_1(tmp_path):
    bare = dataclasses.replace(CFG, reference_layers=0, pose_layers=0)
    tensors = official(bare, "wan_original")
    save_file(tensors, tmp_path / "wan.safetensors")
    source = tmp_path / "wan.safetensors"
    convert.convert(source, tmp_path / "start", head_dim=8, init="stage1")
    kind, sizes = convert.stored_sizes(tmp_path / "start")
    assert kind == "stage1" and sizes.reference_layers == 1
    params = parameters.load(tmp_path / "start", onetoall.abstract(sizes))
    taken = params["reference_extractor"]["blocks"]["mlp"]["out"]["kernel"][0]
    np.testing.assert_array_equal(taken, tensors["blocks.0.ffn.2.weight"].T)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda p: p.write_bytes(b"\x10\0\0\0\0\0\0\0{}"), "not a whole safetensors"),
        (lambda p: p.unlink(missing_ok=True), "no file or folder"),
        (lambda p: save_file({"x": np.zeros(2)}, p), "no kind of checkpoint"),
    ],
)
def test_bad_files_get_one_sentence(tmp_path, make, sentence):
    path = tmp_path / "a.safetensors"
    make(path)
    with pytest.raises(UserError, match=sentence):
        convert.convert(path, tmp_path / "out")


def test_the_wrong_kind_is_named(folder, tmp_path):
    with pytest.raises(UserError, match="kind 'onetoall', not 'vae'"):
        convert.convert(folder[0], tmp_path / "out", kind="vae")


def write_pth(path, pickled, data=b""):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/data/0", data)


def test_a_pth_archive_that_runs_code_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            import os

            return os.system, ("touch pwned",)

    write_pth(tmp_path / "m.pth", pickle.dumps({"a": Evil()}))
    with pytest.raises(UserError, match="system, which no plain state dict needs"):
        readers.open_source(tmp_path / "m.pth")


def test_a_pth_archive_is_read_without_torch(tmp_path):
    values = np.arange(12, dtype=np.float32)
    # A [3, 4] tensor stored transposed, as protocol-2 opcodes that torch writes.
    out = io.BytesIO()
    out.write(b"\x80\x02}U\x01w")
    out.write(b"ctorch._utils\n_rebuild_tensor_v2\n(")
    out.write(b"(U\x07storagectorch\nFloatStorage\nU\x010U\x03cpuK\x0ctQ")
    out.write(b"K\x00K\x03K\x04\x86K\x01K\x03\x86\x89NtRs.")
    write_pth(tmp_path / "m.pth", out.getvalue(), values.tobytes())
    source = readers.open_source(tmp_path / "m.pth")
    assert source.shapes == {"w": (3, 4)}
    np.testing.assert_array_equal(source.read("w"), values.reshape(4, 3).T)


def test_a_missing_or_foreign_checkpoint_is_said_in_one_sentence(folder, tmp_path):
    with pytest.raises(UserError, match="no checkpoint at"):
        parameters.load(tmp_path / "none", {})
    with pytest.raises(UserError, match="no readable settings.json"):
        parameters.settings(folder[0])
    convert.convert(folder[0], tmp_path / "ours", head_dim=8)
    wider = dataclasses.replace(CFG, mlp_dim=24)
    with pytest.raises(UserError, match="another size or kind"):
        parameters.load(tmp_path / "ours", onetoall.abstract(wider))
