import dataclasses

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractMesh

from configs import stage1, stage2, stage3
from onetoall_jax.batch import BatchShape
from onetoall_jax.checkpoints import parameters
from onetoall_jax.errors import UserError
from onetoall_jax.pipelines import animator
from onetoall_jax.pipelines import settings as run_settings
from onetoall_jax.planning import count, plan, program, rates, report, topology
from onetoall_jax.planning.work import Size
from onetoall_jax.sharding import mesh as meshes
from onetoall_jax.sharding import rules


def request(config, machine, batch, size, **changes) -> plan.Request:
    for name, value in changes.items():
        *groups, last = name.split("__")
        group = config
        for part in groups:
            group = group[part]
        group[last] = value
    settings = run_settings.build(config.to_dict())
    where = topology.parse(machine)
    return plan.Request(settings.name, settings, where, batch, Size.parse(size))


@pytest.fixture(scope="module")
def small():
    return request(
        stage1.get_config("tiny"),
        "cpu:2",
        4,
        "5x16x24",
        model__num_layers=2,
        model__reference_layers=1,
        model__mlp_dim=128,
        training__remat="block",
    )


@pytest.fixture(scope="module")
def compiled(small, tmp_path_factory):
    folder = tmp_path_factory.mktemp("plans")
    return folder, plan.compiled(small, folder)


def test_arguments_by_kind_add_up_to_what_the_compiler_lays_out(compiled):
    _, made = compiled
    listed = sum(made.arguments.values())
    # Stage 1 reads no poses: of 2 clips, 5 + 1 pictures of 16 x 24 bytes in 3 colours.
    unread = 2 * 6 * 16 * 24 * 3
    # Scalars (step, key, knobs) belong to no kind.
    assert made.compiled.arguments == pytest.approx(listed - unread, abs=64)
    assert made.compiled.temporary > 0
    assert made.fits


def test_a_compiled_program_is_recalled_without_compiling(compiled, small, monkeypatch):
    folder, made = compiled
    monkeypatch.setattr(plan.program, "compile_for", None)
    again = plan.compiled(small, folder)
    assert again.used == made.used and again.sends == made.sends
    with pytest.raises(TypeError):  # another batch is another program
        plan.compiled(dataclasses.replace(small, batch=8), folder)


def test_split_parameters_are_gathered_and_the_report_says_so(compiled):
    _, made = compiled
    kinds = {row.kind for row in made.sends}
    assert "all-gather" in kinds
    text = report.text(made)
    for word in ("(compiled)", "read from the program", "optimizer", "temporary"):
        assert word in text


def test_a_plan_of_the_large_network_makes_no_array():
    before = len(jax.live_arrays())
    asked = request(stage2.get_config("14b"), "v5p:4x4x4", 64, "29x768x768")
    made = plan.estimate(asked)
    assert len(jax.live_arrays()) - before <= 1  # the key that shapes are drawn with
    # 8.689 billion trained parameters over 64 devices; norms and biases lie on each.
    share = made.arguments["trained parameters"] * 64 / (4 * 8.689e9)
    assert 1 <= share < 1.04
    assert made.arguments["optimizer"] == pytest.approx(
        2 * made.arguments["trained parameters"], rel=1e-6
    )
    assert made.fits and made.limit == 95.74 * 2**30
    # One clip on each chip: operations by rates, the share of the peak below theirs.
    assert 10 < made.time.step < 20
    assert 0.25 < made.utilisation < 0.45
    assert "formula, nothing was compiled" in report.text(made)


def test_operations_of_a_sampled_segment_are_those_of_its_passes():
    asked = request(stage2.get_config("1_3b"), "gpu:h100:1", 1, "81x576x1024")
    made = plan.estimate(dataclasses.replace(asked, sampler=True))
    whole = plan.work.model_operations(made.rows)
    # Three passes of 0.672 PFLOP in thirty steps, less what is computed once.
    assert whole == pytest.approx(90 * 0.672121e15, rel=0.06)
    assert whole < 90 * 0.672121e15


def test_the_sampler_that_is_planned_is_the_one_that_draws():
    config = stage2.get_config("tiny")
    config.sampling.steps = 2
    asked = request(config, "cpu:2", 1, "9x32x48", mesh__context=2, mesh__fsdp=1)
    settings = asked.settings
    mesh = meshes.build(settings.mesh, jax.devices()[:2])
    made = program.sampling(settings, mesh, BatchShape(1, 9, 32, 48))
    with meshes.use(mesh, rules.table(settings.mesh.rules)):
        traced = made.trace(*made.args)
    _, drawn = traced.out_info
    assert drawn.frames_u8.shape == (1, 1, 9, 32, 48, 3)
    assert traced.fun_name == "call"  # of `Sampler.call`, which sampling compiles


def test_what_a_sampler_holds_is_what_the_animator_reads():
    stored = parameters.settings(animator.SHIPPED)
    stored["training"]["dtype"] = "bfloat16"
    drawing = animator.load(animator.SHIPPED, run=stored)
    mesh = AbstractMesh((1, 1, 1, 1), plan.AXES)
    planned, _ = program.sampling_arguments(
        run_settings.build(stored), mesh, BatchShape(1, 9, 32, 48)
    )

    def types(tree):
        return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype.name), tree)

    assert types(drawing.params) == types(planned["parameters"])
    assert {leaf.dtype.name for leaf in jax.tree.leaves(drawing.params)} == {"bfloat16"}


@pytest.mark.parametrize(
    "wanted, expected", [(None, "bfloat16"), ("float32", "float32")]
)
def test_the_codec_samples_in_the_type_of_the_denoiser_unless_told(wanted, expected):
    asked = request(
        stage3.get_config("1_3b"), "v6e:1x1", 1, "9x64x64", sampling__codec_dtype=wanted
    )
    mesh = AbstractMesh((1, 1, 1, 1), plan.AXES)
    planned, _ = program.sampling_arguments(
        asked.settings, mesh, BatchShape(1, 9, 64, 64)
    )
    leaves = jax.tree.leaves(planned["codec"])
    assert {leaf.dtype.name for leaf in leaves} == {expected}
    assert run_settings.for_sampling(asked.settings).codec.dtype == expected
    assert asked.settings.codec.dtype == "float32"  # of training


def test_a_mesh_or_batch_that_does_not_fit_is_said_in_a_sentence():
    config = stage2.get_config("1_3b")
    with pytest.raises(UserError, match="multiple of 8"):
        plan.estimate(request(config, "v5e:2x4", 12, "29x512x512"))
    config.mesh.fsdp = 3
    with pytest.raises(UserError, match="does not cover 8 devices"):
        plan.estimate(request(config, "v5e:2x4", 8, "29x512x512"))
    with pytest.raises(UserError, match="cannot be compiled here"):
        config.mesh.fsdp = -1
        plan.compiled(request(config, "gpu:h100:8", 8, "29x512x512"))


@pytest.mark.parametrize(
    ("name", "devices", "platform"),
    [
        ("v5p:4x4x4", 64, "tpu"),
        ("v5e:16x16", 256, "tpu"),
        ("cpu:3", 3, "cpu"),
        ("gpu:h200:8", 8, "gpu"),
    ],
)
def test_topologies_are_named_as_libtpu_names_them(name, devices, platform):
    made = topology.parse(name)
    assert (made.devices, made.platform) == (devices, platform)


@pytest.mark.parametrize("name", ["v5p:4x4", "v9:2x2", "cpu:0", "gpu:4", "v5e-16", ""])
def test_an_unknown_topology_lists_examples(name):
    with pytest.raises(UserError, match=r"v5p:4x4x4"):
        topology.parse(name)


def test_loops_are_counted_by_their_length():
    w = jax.ShapeDtypeStruct((5, 16, 16), jnp.float32)
    x = jax.ShapeDtypeStruct((3, 16), jnp.float32)

    def fn(x, w):
        return jax.lax.scan(lambda x, w: (jax.jit(jnp.dot)(x, w), None), x, w)[0]

    assert count.operations(fn, x, w)["matmul"] == 5 * 2 * 3 * 16 * 16
    k = jax.ShapeDtypeStruct((3, 3, 4, 6), jnp.float32)
    y = jax.ShapeDtypeStruct((2, 8, 8, 4), jnp.float32)

    def conv(y, k):
        names = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            y, k, (2, 2), "SAME", dimension_numbers=names
        )

    # 2 clips, 4 x 4 places, 6 features, 3 x 3 x 4 products of 2 operations each.
    assert count.operations(conv, y, k)["convolution"] == 2 * 16 * 6 * 36 * 2


def test_time_is_the_sum_of_rates_and_sending_travels_beside():
    chip = rates.CHIPS["v5p"]
    load = rates.Load(chip.peak, chip.peak, 0.0, 0.0, 0.0, sent=0.9 * 600e9 * 2)
    made = rates.predict(chip, load)
    assert made.matmul == pytest.approx(1 / 0.65)
    assert made.attention == pytest.approx(1 / 0.45)
    assert made.sending == pytest.approx(2.0)
    assert made.step == made.compute == pytest.approx(1 / 0.65 + 1 / 0.45)
