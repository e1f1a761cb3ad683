import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from onetoall_jax.planning import collectives

LOOP = """HloModule m

%body.1 (p: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  %x = f32[2,4]{1,0} parameter(0)
  %g = f32[8,4]{1,0:T(8,128)} all-gather(%x), replica_groups=[2,4]<=[8], dimensions={0}
  %s = (f32[2,4]{1,0}, f32[8,4]{1,0}) all-gather-start(%x), replica_groups={{0,1,2,3}}
  %d = f32[8,4]{1,0} all-gather-done(%s)
  %f = bf16[2,4]{1,0} fusion(%d), kind=kCustom, calls=%all-reduce-scatter.3
}

%all-reduce-scatter.3 (q: bf16[8,4]) -> bf16[2,4] {
  %r = bf16[8,4]{1,0} all-reduce(%q), replica_groups={{0,1,2,3}}, to_apply=%add
}

%cond.1 (p: (s32[], f32[8,4])) -> pred[] {
  %t = pred[] constant(true)
}

ENTRY %main (a: f32[8,4]) -> f32[8,4] {
  %w = (s32[], f32[8,4]) while(%a), condition=%cond.1, body=%body.1, \
backend_config={"known_trip_count":{"n":"5"},"x":1}
  %ar = f32[10]{0} all-reduce(%b), replica_groups={{0,1}}, to_apply=%add
  %cp = (u8[6]{0}, u8[6]{0}, u32[], u32[]) collective-permute-start(%c)
}
"""


def test_what_a_loop_sends_is_counted_as_often_as_it_goes_round():
    rows = {row.kind: row for row in collectives.read(LOOP)}
    # 8 x 4 float32 gathered by four devices: each sends three quarters of 128 bytes.
    assert rows["all-gather"].calls == 10
    assert rows["all-gather"].sent == pytest.approx(5 * 2 * 96)
    # A sum of which each keeps its part is sent once, not twice.
    assert rows["reduce-scatter"].calls == 5
    assert rows["reduce-scatter"].sent == pytest.approx(5 * 64 * 3 / 4)
    assert rows["all-reduce"].sent == pytest.approx(2 * 40 / 2)
    assert "all-to-all" not in rows


def test_a_loop_without_a_note_has_the_length_of_its_condition():
    counted = """  %n = s32[]{:T(128)} constant(7)
  ROOT %t = pred[] compare(%i, %n), direction=LT"""
    text = LOOP.replace("known_trip_count", "unknown").replace(
        "  %t = pred[] constant(true)", counted
    )
    rows = {row.kind: row for row in collectives.read(text)}
    assert rows["all-gather"].calls == 14
    # Counting down, or to something computed, is no such loop.
    for other in ("direction=GT", "direction=NE"):
        with pytest.raises(ValueError, match="unknown length"):
            collectives.read(text.replace("direction=LT", other))


def test_a_loop_of_unknown_length_is_refused_if_it_sends():
    text = LOOP.replace("known_trip_count", "unknown")
    with pytest.raises(ValueError, match="unknown length"):
        collectives.read(text)


def test_gathers_of_a_scanned_layer_are_read_from_a_compiled_program():
    mesh = Mesh(np.array(jax.devices()[:4]), ("x",), axis_types=(AxisType.Auto,))
    split = NamedSharding(mesh, PartitionSpec(None, "x"))
    whole = NamedSharding(mesh, PartitionSpec())
    w = jax.ShapeDtypeStruct((3, 64, 64), jnp.float32, sharding=split)
    x = jax.ShapeDtypeStruct((8, 64), jnp.float32, sharding=whole)

    def fn(x, w):
        def body(x, w):
            w = jax.lax.with_sharding_constraint(w, whole)
            return jnp.tanh(x @ w), None

        return jax.lax.scan(body, x, w)[0]

    text = jax.jit(fn).trace(x, w).lower().compile().as_text()
    (row,) = collectives.read(text)
    assert (row.kind, row.calls) == ("all-gather", 3)
    assert row.sent == pytest.approx(3 * 64 * 64 * 4 * 3 / 4)
