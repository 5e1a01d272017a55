"""What is read off a program: its operations, what it sends, and the bound of a pod's step."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from benchmarks import pod
from benchmarks.lib import compiled
from benchmarks.lib.hlo import group_size, received_bytes, size
from benchmarks.lib.operations import operations


def asked(function, *arrays):
    return dict(operations(jax.make_jaxpr(function)(*arrays).jaxpr))


def test_operations_of_products_in_loops_and_branches():
    a, b = jnp.ones((3, 5)), jnp.ones((5, 7))
    assert asked(jnp.matmul, a, b) == {1: 2 * 3 * 5 * 7}
    assert asked(lambda a, b: jnp.matmul(a, b, precision="highest"), a, b) == {6: 2 * 3 * 5 * 7}
    low = a.astype(jnp.bfloat16), b.astype(jnp.bfloat16)
    assert asked(lambda a, b: jnp.matmul(a, b, precision="highest"), *low) == {1: 2 * 3 * 5 * 7}
    assert asked(jax.grad(lambda a, b: jnp.square(a @ b).sum(), (0, 1)), a, b) == {1: 3 * 2 * 3 * 5 * 7}
    square = jnp.ones((4, 4))
    looped = asked(lambda x: lax.scan(lambda x, _: (jax.jit(jnp.matmul)(x, x), None), x, length=9), square)
    assert looped == {1: 9 * 2 * 64}
    assert asked(lambda x: lax.cond(x[0, 0] > 0, lambda x: x, lambda x: x @ x @ x, x), square) == {1: 256}
    with pytest.raises(ValueError, match="how often"):
        asked(lambda x: lax.while_loop(lambda x: x.sum() < 9, lambda x: x @ x, x), square)


@pytest.mark.parametrize(("stride", "padding", "spread"), [(1, (0, 0), 1), (2, (1, 2), 1), (1, (2, 0), 3)])
def test_operations_of_a_convolution_are_those_that_meet_the_input(stride, padding, spread):
    rows, taps = 6, 3
    x, kernel = jnp.ones((2, rows, 4, 5)), jnp.ones((taps, 1, 5, 7))

    def convolve(x, kernel):
        return lax.conv_general_dilated(
            x,
            kernel,
            (stride, 1),
            (padding, (0, 0)),
            lhs_dilation=(spread, 1),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )

    met = 0
    for place in range(convolve(x, kernel).shape[1]):
        for tap in range(taps):
            at = place * stride + tap - padding[0]
            met += at % spread == 0 and 0 <= at // spread < rows
    assert asked(convolve, x, kernel) == {1: 2 * met * 2 * 4 * 5 * 7}


TEXT = """
HloModule jit_f, num_partitions=4

%sum (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  ROOT %c = f32[] add(%a, %b)
}

%body (p: (s32[], f32[8,16])) -> (s32[], f32[8,16]) {
  %r = bf16[6,2]{1,0:T(8,128)(2,1)} all-reduce(%x), replica_groups={{0,1},{2,3}}, to_apply=%sum
  ROOT %t = (s32[], f32[8,16]{1,0}) tuple(%i, %g)
}

ENTRY %main.5 (x: f32[8,16]) -> f32[8,16] {
  %start = (f32[2,16]{1,0}, f32[8,16]{1,0}) all-gather-start(%x), replica_groups=[1,4]<=[4], dimensions={0}
  %done = f32[8,16]{1,0} all-gather-done((f32[2,16]{1,0}, f32[8,16]{1,0}) %start)
  %loop = (s32[], f32[8,16]) while(%t), body=%body, backend_config={"known_trip_count":{"n":"3"}}
  ROOT %p = pred[40]{0} collective-permute(%q), source_target_pairs={{0,1},{1,2}}
}
"""


def test_bytes_are_counted_once_for_each_time_that_they_are_sent():
    assert received_bytes(TEXT) == {
        "all-gather": 8 * 16 * 4 * 3 / 4,
        "all-reduce": 3 * 2 * (6 * 2 * 2) / 2,
        "collective-permute": 40,
    }
    with pytest.raises(ValueError, match="body has a transfer"):
        received_bytes(TEXT.replace("known_trip_count", "trip"))


def test_sizes_and_groups():
    assert (
        size("(f32[8,16]{1,0:T(8,128)}, pred[3], /*index=2*/u8[5], bf16[2], s32[])") == 512 + 3 + 5 + 4 + 4
    )
    assert group_size("replica_groups={{0,2,4},{1,3,5}}", 6) == 3
    assert group_size("replica_groups=[2,3]<=[3,2]T(1,0)", 6) == 3
    assert group_size("channel_id=1", 6) == 6


ON_FOUR_DEVICES = """
import json, jax, jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec as P
from benchmarks.lib.hlo import received_bytes
mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
def share(x):
    x = lax.scan(lambda x, _: (lax.psum(jnp.sin(x), "data"), None), x, length=5)[0]
    return x + lax.all_gather(x, "data", tiled=True).sum(0)
shared = jax.shard_map(share, mesh=mesh, in_specs=P("data"), out_specs=P("data"), check_vma=False)
print(json.dumps(received_bytes(jax.jit(shared).lower(jnp.ones((8, 16))).compile().as_text())))
"""


def test_a_compiled_program_says_what_it_sends(python):
    status, out, err = python("-c", ON_FOUR_DEVICES, devices=4)
    assert status == 0, err
    assert json.loads(out) == {"all-reduce": 5 * 2 * 2 * 16 * 4 * 3 / 4, "all-gather": 8 * 16 * 4 * 3 / 4}


def test_an_experiments_own_config_is_found():
    assert compiled.experiment_config("imagenet2010:pod").network.name == "alexnet"
    assert compiled.experiment_config("quickstart").data.name == "glyphs"


@pytest.mark.long
def test_a_step_says_what_it_takes_and_the_bound_is_the_longest_of_three():
    config = compiled.pod_config(
        "small_cnn", 16, 16, {"embedding_dim": 4, "unit_dim": 4, "dtype": "bfloat16"}
    )
    found = compiled.compile_step(config, jax.devices()[:1])
    assert found["received"] == {}
    assert found["operations"][1] > 0
    assert found["operations"][6] > 0
    assert 0 < found["temporary"] < found["held"]
    assert found["memory"] > 0
    made = found | {"operations": {1: 2e12, 6: 1e12}, "memory": 3e9, "received": {"a": 1e9, "b": 2e9}}
    for chip, by, ms in (
        (pod.Chip(1e12, 1e12, 1e12), "products", 8e3),
        (pod.Chip(1e15, 1e9, 1e12), "memory", 3e3),
        (pod.Chip(1e15, 1e12, 1e9), "links", 3e3),
    ):
        row = pod.figures(made, chip)
        assert (row["bound by"], row["ms at least"]) == (by, pytest.approx(ms))
        assert (row["TFLOP"], row["in passes"], row["MB received"]) == (3, 8, 3e3)
    assert np.isfinite([row[name] for name in pod.COLUMNS[:-1]]).all()
