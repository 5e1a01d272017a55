"""The kernels: interpreted on the CPU against loops and the plain backend; lowered or compiled for absent
devices; and run on a GPU that has one."""

from functools import partial
from importlib.util import find_spec

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.pallas.mosaic.interpret import interpret_pallas_call as on_tpus
from jax._src.pallas.mosaic_gpu.interpret import gpu_callbacks as on_gpus
from jax._src.pallas.mosaic_gpu.interpret.params import InterpretGPUParams  # public from jax 0.11 on
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import AbstractDevice, AbstractMesh, AxisType, NamedSharding, PartitionSpec

import pddm_jax
from benchmarks.kernels import abstract_batch
from benchmarks.lib.compiled import NO_TPU
from pddm_jax.pddm import backends
from pddm_jax.pddm.backends import hardest_partners, search_with
from pddm_jax.pddm.kernels import gpu, tpu
from pddm_jax.pddm.partners import NO_PARTNER
from pddm_jax.pddm.tiles import TileIndex, cut_tiles, score_tiles, tiles_per_step
from tests.helpers import oracles

B, WIDTH = 21, 5
RACES = pltpu.InterpretParams(detect_races=True, uninitialized_memory="nan")
LABELS = {
    "classes in no order": np.arange(B)[::-1] * 7 % B // 4,
    "singletons beside a class": np.where(np.arange(B) % 3, np.arange(B), -1),
    "one class": np.zeros(B, int),
    "all different": np.arange(B),
}


@pytest.fixture(scope="module")
def params():
    x = jnp.zeros(WIDTH)
    return jax.jit(pddm_jax.PDDM(hidden=20, joint=6).init)(jax.random.key(0), x, x)["params"]


@pytest.fixture(scope="module")
def images():
    """Embeddings that come in exact copies, far apart in the batch: their scores tie."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(B, WIDTH)).astype(np.float32)[rng.integers(0, B // 2, B)]
    return jnp.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


@pytest.fixture(scope="module")
def scores(params, images):
    """By loops, in float64."""
    unit, rows = oracles.as_python(params), oracles.number_rows(images)
    return [[oracles.pddm_score(unit, x, y) for y in rows] for x in rows]


def by_loops(scores, labels):
    """The hardest negative, positive and later positive of each image."""
    for i, row in enumerate(scores):
        positives = oracles.positives_of(labels, i)
        found = (
            oracles.highest(oracles.negatives_of(labels, i), row.__getitem__),
            oracles.lowest(positives, row.__getitem__),
            oracles.lowest([j for j in positives if j > i], row.__getitem__),
        )
        yield [NO_PARTNER if partner is None else partner for partner in found]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_kernel_for_tpus_finds_what_loops_and_the_plain_backend_find(
    params, images, scores, dtype, monkeypatch
):
    monkeypatch.setattr(tpu, "TILE", 16)  # so that few images take several tiles, the last of them ragged
    interpreted = backends.TPUBackend(16, interpret=RACES)
    kernel = jax.jit(partial(search_with, backend=interpreted, dtype=dtype))
    plain = jax.jit(partial(search_with, backend=backends.PLAIN, dtype=dtype))
    for name, labels in LABELS.items():
        found = kernel(params, images, jnp.asarray(labels, jnp.int32))
        assert not on_tpus.races.races_found
        expected = plain(params, images, jnp.asarray(labels, jnp.int32))
        for kind in found._fields:
            got, want = getattr(found, kind), getattr(expected, kind)
            np.testing.assert_array_equal(
                got.partner == NO_PARTNER, want.partner == NO_PARTNER, f"{name}, {kind}"
            )
            near = 1e-6 if dtype == "float32" else 3e-3
            np.testing.assert_allclose(got.value, want.value, atol=near, err_msg=f"{name}, {kind}")
            if dtype == "float32":
                np.testing.assert_array_equal(got.partner, want.partner, f"{name}, {kind}")
        if dtype == "float32":
            partners = np.stack([best.partner for best in found], axis=1).tolist()
            assert partners == [*by_loops(scores, labels.tolist())], name


def unit_and_images(b, d, h, c):
    """A unit with biases of all signs, and unit vectors of which the last is the first again."""
    x = jax.random.normal(jax.random.key(0), (b, d))
    x = x.at[-1].set(x[0]) / jnp.linalg.norm(x, axis=1, keepdims=True)
    params = jax.jit(pddm_jax.PDDM(hidden=h, joint=c).init)(jax.random.key(1), x[0], x[0])["params"]
    return jax.tree.map(lambda p: p + 0.1 * jax.random.normal(jax.random.key(p.size), p.shape), params), x


@pytest.mark.long
def test_kernel_for_gpus_scores_as_loops_do(monkeypatch):
    monkeypatch.setattr(gpu, "TILE", 8)
    monkeypatch.setattr(gpu, "PROGRAMS", 4)  # two for each tile, of two turns
    monkeypatch.setattr(gpu, "read", lambda vector, features: vector[features])  # for jax 0.10
    params, x = unit_and_images(29, d=70, h=130, c=200)  # two steps, and two chunks of each layer
    tiles = cut_tiles(params, x, "bfloat16", 8)
    races = InterpretGPUParams(detect_races=True, uninitialized_memory="nan")
    found = gpu.score_tiles(params, tiles, TileIndex(jnp.array([0, 2]), jnp.array([3, 2])), races)
    assert not on_gpus.get_races().races_found
    unit, x = oracles.as_python(params), oracles.number_rows(x)
    for scores, rows, columns in zip(
        found, (range(8), range(16, 24)), (range(24, 29), range(16, 24)), strict=True
    ):
        expected = [[oracles.pddm_score(unit, x[i], x[j]) for j in columns] for i in rows]
        assert np.std(expected) > 0.05
        np.testing.assert_allclose(scores[:, : len(columns)], expected, atol=8e-3)  # of rounding to 8 bits


def test_tiles_that_a_gpu_scores_are_searched_as_all_are(params, images, scores, monkeypatch):
    def exact(params, tiles, index):
        return score_tiles(params, tiles, tiles, index, dtype="float32")

    monkeypatch.setattr(gpu, "score_tiles", exact)
    backend = backends.GPUBackend(tile=16, tiles_per_step=2)  # of three tiles
    kernel = jax.jit(partial(search_with, backend=backend, dtype="float32"))
    for name, labels in LABELS.items():
        found = kernel(params, images, jnp.asarray(labels, jnp.int32))
        partners = np.stack([best.partner for best in found], axis=1).tolist()
        assert partners == [*by_loops(scores, labels.tolist())], name


H100 = "NVIDIA H100 80GB HBM3"


def absent(kind, devices=1):
    """A mesh of devices that are not there."""
    device = AbstractDevice(device_kind=kind, num_cores=132, platform="gpu")
    return AbstractMesh((devices,), ("data",), axis_types=(AxisType.Auto,), abstract_device=device)


def lowered(b, d, dtype, kind, platform):
    """The program of mining on a device that is not there."""
    mesh = absent(kind)
    batch = abstract_batch(b, d, NamedSharding(mesh, PartitionSpec()))
    with jax.sharding.use_abstract_mesh(mesh):
        traced = jax.jit(partial(hardest_partners, dtype=dtype)).trace(*batch)
        return traced.lower(lowering_platforms=(platform,)).as_text()


@pytest.mark.parametrize(
    ("kind", "platform", "dtype", "d", "call"),
    [
        ("TPU v5 lite", "tpu", "float32", 20, "tpu_custom_call"),
        ("TPU v5 lite", "tpu", "bfloat16", 512, "tpu_custom_call"),
        ("TPU v5 lite", "tpu", "bfloat16", 513, None),
        ("TPU v5 lite", "cpu", "bfloat16", 20, None),
        ("TPU v4", "tpu", "bfloat16", 20, None),
        (H100, "cuda", "bfloat16", 20, "mosaic_gpu"),
        (H100, "cuda", "bfloat16", 512, "mosaic_gpu"),
        (H100, "cuda", "bfloat16", 513, None),
        (H100, "cuda", "float32", 20, None),
        (H100, "cpu", "bfloat16", 20, None),
        ("NVIDIA A100-SXM4-40GB", "cuda", "bfloat16", 20, None),
    ],
)
def test_a_kernel_is_chosen_where_there_is_one_that_takes_the_unit(kind, platform, dtype, d, call):
    text = lowered(300, d, dtype, kind, platform)
    for kernel in ("tpu_custom_call", "mosaic_gpu"):
        assert (kernel in text) == (kernel == call)


def test_the_plain_backend_takes_large_steps_on_a_gpu_and_enough_of_them_for_several():
    def together(kind, devices):
        batch = abstract_batch(512, 128, NamedSharding(absent(kind, devices), PartitionSpec()))
        found = []
        jax.eval_shape(lambda params, x, labels: found.append(tiles_per_step(params, x, 2080)), *batch)
        return found[0]

    assert together("NVIDIA A100-SXM4-40GB", 1) == 2**25 // (64 * 512)
    assert together("NVIDIA A100-SXM4-40GB", 8) == 2080 // 8
    assert together("cpu", 8) == together("TPU v4", 1) == 2**20 // (64 * 512)


@pytest.mark.parametrize("widths", [(64, 32, 32), (100, 512, 300), (1024, 128, 128)])
def test_on_a_gpu_it_finds_what_the_plain_backend_finds(widths):
    if backends.KERNELS.get(jax.devices()[0].device_kind) is not backends.gpu_backend:
        pytest.skip("needs an H100 or H200")
    params, x = unit_and_images(300, *widths)
    labels = jnp.arange(300, dtype=jnp.int32) * 7 % 300 // 4
    kernel, plain, exact = (
        jax.jit(partial(search_with, backend=backend, dtype=dtype))(params, x, labels)
        for backend, dtype in (
            (backends.gpu_backend(), "bfloat16"),
            (backends.PLAIN, "bfloat16"),
            (backends.PLAIN, "float32"),
        )
    )
    for kind in kernel._fields:
        got, near, right = (getattr(found, kind) for found in (kernel, plain, exact))
        np.testing.assert_array_equal(got.partner == NO_PARTNER, right.partner == NO_PARTNER)
        there = np.asarray(right.partner != NO_PARTNER)
        assert there.any()
        error, of_plain = (np.abs(best.value - right.value)[there].mean() for best in (got, near))
        # XLA may leave out roundings of the plain form.
        assert error < 2 * of_plain
        assert (got.partner == right.partner).mean() > 0.9


COMPILED = """
import jax
from functools import partial
from jax.experimental import topologies
from benchmarks.kernels import abstract_batch
from pddm_jax.pddm.backends import hardest_partners
from pddm_jax.sharding import data_mesh, replicated
for pod in ("v5e:2x2", "v5p:2x2x1", "v6e:2x2"):
    mesh = data_mesh(topologies.get_topology_desc(platform="tpu", topology_name=pod).devices)
    for dtype in ("float32", "bfloat16"):
        mine = jax.jit(partial(hardest_partners, dtype=dtype))
        program = mine.lower(*abstract_batch(300, 100, replicated(mesh))).compile()
        print("tpu_custom_call" in program.as_text())
"""


@pytest.mark.skipif(find_spec("libtpu") is None, reason="needs libtpu, not a TPU")
def test_it_compiles_for_tpus(python):
    # The tests' own process may hold libtpu: JAX looks for a TPU.
    status, out, err = python("-c", COMPILED, **NO_TPU, ALLOW_MULTIPLE_LIBTPU_LOAD="1")
    assert status == 0, err
    assert out.split() == ["True"] * 6
