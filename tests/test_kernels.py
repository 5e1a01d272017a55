"""The kernels, interpreted on the CPU, against loops and the plain form; and compiled for absent TPUs."""

from functools import partial
from importlib.util import find_spec

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import AbstractDevice, AbstractMesh, AxisType

import pddm_jax
from benchmarks import pod
from benchmarks.kernels import abstract_batch
from pddm_jax import scoring
from pddm_jax.kernels import gpu, tpu
from pddm_jax.partners import NOBODY

B, WIDTH = 21, 5
RACES = pltpu.InterpretParams(detect_races=True, uninitialized_memory="nan")
LABELS = {
    "classes in no order": np.arange(B)[::-1] * 7 % B // 4,
    "singletons beside a class": np.where(np.arange(B) % 3, np.arange(B), -1),
    "one class": np.zeros(B, int),
    "all different": np.arange(B),
}


@pytest.fixture
def small(monkeypatch):
    """Small tiles, so that few images take several, the last of them ragged."""
    for kernel in (gpu, tpu):
        monkeypatch.setattr(kernel, "TILE", 16)
    monkeypatch.setattr(gpu, "JOINT", dict.fromkeys(gpu.JOINT, 2**12))  # blocks of 4 rows
    monkeypatch.setattr(gpu, "CHUNK", dict.fromkeys(gpu.CHUNK, 16))
    return {
        "cuda": scoring.Form(partial(gpu.search, interpret=True), 16),
        "tpu": scoring.Form(partial(tpu.search, interpret=RACES), 16),
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
        yield [NOBODY if partner is None else partner for partner in found]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_kernel_finds_what_loops_and_the_plain_form_find(small, params, images, scores, platform, dtype):
    kernel = jax.jit(partial(scoring._share_out, small[platform], dtype))
    plain = jax.jit(partial(scoring._share_out, scoring.Form(scoring._search, scoring.TILE), dtype))
    for name, labels in LABELS.items():
        found = kernel(params, images, jnp.asarray(labels, jnp.int32))
        expected = plain(params, images, jnp.asarray(labels, jnp.int32))
        for kind in found._fields:
            got, want = getattr(found, kind), getattr(expected, kind)
            np.testing.assert_array_equal(got.partner == NOBODY, want.partner == NOBODY, f"{name}, {kind}")
            near = 1e-6 if dtype == "float32" else 3e-3
            np.testing.assert_allclose(got.value, want.value, atol=near, err_msg=f"{name}, {kind}")
            if dtype == "float32":
                np.testing.assert_array_equal(got.partner, want.partner, f"{name}, {kind}")
        if dtype == "float32":
            partners = np.stack([best.partner for best in found], axis=1).tolist()
            assert partners == [*by_loops(scores, labels.tolist())], name


@pytest.mark.parametrize("platform", ["cpu", "tpu"])
@pytest.mark.parametrize("widest", [19, 20, None])
def test_a_kernel_is_chosen_where_there_is_one_and_the_unit_fits(
    params, images, widest, platform, monkeypatch
):
    if widest:
        kernels = {jax.devices()[0].device_kind: scoring.Form(tpu.search, tpu.TILE, widest)}
        monkeypatch.setattr(scoring, "KERNELS", kernels)
    mine = jax.jit(partial(scoring.hardest_partners, dtype="float32"))
    traced = mine.trace(params, images, jnp.zeros(B, jnp.int32))
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    assert ("tpu_custom_call" in text) == (widest == 20 and platform == "tpu")


@pytest.mark.parametrize("d", [20, 512])
def test_it_lowers_for_cuda(d):
    kernel = scoring.Form(gpu.search, gpu.TILE, gpu.WIDEST)
    card = AbstractDevice(device_kind="NVIDIA H100 80GB HBM3", num_cores=132, platform="gpu")
    mesh = AbstractMesh((1,), ("data",), axis_types=(AxisType.Auto,), abstract_device=card)
    batch = abstract_batch(300, d)
    for dtype in ("float32", "bfloat16"):
        with jax.sharding.use_abstract_mesh(mesh):
            traced = jax.jit(partial(scoring._share_out, kernel, dtype)).trace(*batch)
            assert "xla.gpu.triton" in traced.lower(lowering_platforms=("cuda",)).as_text()


COMPILED = """
import jax
from functools import partial
from jax.experimental import topologies
from benchmarks.kernels import abstract_batch
from pddm_jax.scoring import hardest_partners
from pddm_jax.training import data_mesh, replicated
for pod in ("v5e:2x2", "v5p:2x2x1", "v6e:2x2"):
    mesh = data_mesh(topologies.get_topology_desc(platform="tpu", topology_name=pod).devices)
    for dtype in ("float32", "bfloat16"):
        mine = jax.jit(partial(hardest_partners, dtype=dtype))
        program = mine.lower(*abstract_batch(300, 100, replicated(mesh))).compile()
        print("tpu_custom_call" in program.as_text())
"""


@pytest.mark.skipif(find_spec("libtpu") is None, reason="needs libtpu, not a TPU")
def test_it_compiles_for_tpus(python):
    status, out, err = python("-c", COMPILED, **pod.NO_TPU)
    assert status == 0, err
    assert out.split() == ["True"] * 6
