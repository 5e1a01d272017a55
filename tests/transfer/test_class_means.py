"""Class means of streams against loops in float64, on one device, eight devices and two processes."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pddm_jax.transfer import class_means as module
from pddm_jax.transfer.class_means import (
    ClassMeans,
    class_means,
    load_class_means,
    merge,
    merge_processes,
    save_class_means,
)
from tests.conftest import free_address
from tests.helpers.embeddings import CLASSES, EXACT, rows, some_labels


def loop_means(x, labels):
    """{class: mean}, in Python's floats."""
    sums, counts = {}, {}
    for row, label in zip(x, labels, strict=True):
        total = sums.setdefault(int(label), [0.0] * len(row))
        sums[int(label)] = [a + float(b) for a, b in zip(total, row, strict=True)]
        counts[int(label)] = counts.get(int(label), 0) + 1
    return {label: [a / counts[label] for a in total] for label, total in sums.items()}


def assert_means(means, x, labels, tolerance=EXACT):
    expected = loop_means(x, labels)
    assert means.classes.tolist() == sorted(expected)
    assert means.counts.tolist() == [int((labels == c).sum()) for c in means.classes]
    wanted = np.array([expected[c] for c in means.classes.tolist()])
    np.testing.assert_allclose(means.centroids(), wanted, rtol=0, atol=tolerance)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.lists(st.integers(0, 40), max_size=6), st.integers(0, 2**32 - 1), st.integers(1, 50))
def test_class_means_in_any_blocks_against_the_loops(sizes, seed, chunk):
    x, labels = rows(seed, sum(sizes), 3), some_labels(seed, sum(sizes))
    ends = np.cumsum([0, *sizes])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CHUNK", chunk)
        means = class_means((x[a:b], labels[a:b]) for a, b in pairwise(ends))
    if sum(sizes):
        assert_means(means, x, labels)
    else:
        assert len(means.classes) == len(means.centroids()) == 0


def test_class_means_where_float32_would_be_lost():
    """A million numbers of one class beside a large one that comes first, and goes again last."""
    x = np.full((1_000_000, 1), 0.1, np.float32)
    x[0], x[-1] = 3e6, -3e6
    means = class_means([(x[:400_000], np.zeros(400_000, int)), (x[400_000:], np.zeros(600_000, int))])
    expected = (len(x) - 2) * float(np.float32(0.1)) / len(x)
    assert means.centroids()[0, 0] == pytest.approx(expected, rel=EXACT)


@pytest.mark.parametrize("dtype", [np.float64, np.float16, jnp.bfloat16, np.int8])
def test_class_means_of_other_numbers(dtype):
    x, labels = np.round(4 * rows(1)), some_labels(2)
    assert_means(class_means([(x.astype(dtype), labels)]), x, labels)
    assert_means(class_means([(jnp.asarray(x), jnp.asarray(labels % 7))]), x, labels % 7)


@pytest.mark.parametrize("dtype", [np.int8, np.uint16, np.int64])
def test_class_means_of_labels_of_any_width(dtype):
    x, labels = rows(3), np.random.default_rng(4).integers(0, 100, 300)
    assert_means(class_means([(x, labels.astype(dtype))]), x, labels)


def test_more_classes_come_up_block_after_block():
    x, labels = rows(5), np.arange(300) // 2
    shuffled = np.random.default_rng(6).permutation(300)
    blocks = [(x[i], labels[i]) for i in np.array_split(shuffled, 40)]
    assert_means(class_means(blocks), x, labels)


def test_new_classes_are_added_to_means():
    x, labels = rows(7), some_labels(8)
    old = np.isin(labels, CLASSES[:3])
    before = class_means([(x[old], labels[old])])
    after = before.add(x[~old], labels[~old])
    assert_means(after, x, labels)
    assert_means(before, x[old], labels[old])
    again = after.add(x, labels)  # images of classes that are there already
    assert_means(again, np.concatenate([x, x]), np.concatenate([labels, labels]))


def test_merged_parts_are_the_whole():
    x, labels = rows(9), some_labels(10)
    parts = [class_means([(x[i::3], labels[i::3])]) for i in range(3)]
    assert_means(merge([*parts, class_means([])]), x, labels)
    assert len(merge([class_means([])]).classes) == 0
    assert merge_processes(parts[0]) is parts[0]


def test_means_of_some_classes():
    x, labels = rows(11), some_labels(12)
    chosen = np.isin(labels, [9, -5])
    assert_means(class_means([(x, labels)]).subset(np.array([9, -5])), x[chosen], labels[chosen])
    with pytest.raises(ValueError, match=r"\bclasses\b.*\b77\b"):
        class_means([(x, labels)]).subset(np.array([0, 77]))


def test_means_are_a_pytree_of_the_host():
    means = class_means([(rows(13), some_labels(14))])
    doubled = jax.tree.map(lambda x: x * 2, means)
    assert isinstance(doubled, ClassMeans)
    np.testing.assert_array_equal(doubled.centroids(), means.centroids())


def test_saved_means_are_loaded_to_the_bit_and_go_on(tmp_path):
    x, labels = rows(15), some_labels(16)
    means = class_means([(x[:200], labels[:200])])
    save_class_means(tmp_path / "means", means)
    loaded = load_class_means(tmp_path / "means")
    for a, b in zip(means, loaded, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)
    assert_means(loaded.add(x[200:], labels[200:]), x, labels)
    with pytest.raises(ValueError, match="means"):
        save_class_means(tmp_path / "means", means)
    with pytest.raises(OSError, match="nowhere"):
        load_class_means(tmp_path / "nowhere")


DATA = """
import sys, jax, numpy as np
from jax.sharding import NamedSharding, PartitionSpec
rng = np.random.default_rng(0)
x = rng.normal(size=(1600, 8)).astype(np.float32) + 5
labels = rng.integers(-40, 3000, 1600)
"""

ON_EIGHT_DEVICES = (
    DATA
    + """
from pddm_jax.sharding import data_mesh, sharded
from pddm_jax.transfer.class_means import class_means, merge_processes, save_class_means
from pathlib import Path
there = jax.device_put(x, sharded(data_mesh()))
assert len(there.addressable_shards) == 8
parts = (there[:800], labels[:800]), (there[800:], labels[800:])
save_class_means(Path(sys.argv[1]), merge_processes(class_means(parts)))
"""
)

IN_TWO_PROCESSES = (
    DATA
    + """
jax.distributed.initialize(sys.argv[2], 2, int(sys.argv[3]), initialization_timeout=60)
from pddm_jax.sharding import data_mesh, sharded
from pddm_jax.transfer import class_means as module
from pddm_jax.transfer import linear_probe
from pddm_jax.transfer.class_means import class_means, merge_processes, save_class_means
from pathlib import Path
module.GATHERED = 300
mesh, me = data_mesh(), jax.process_index()
def blocks():
    for a in (0, 800):  # as labels of all rows, and as an array that is shared out itself
        mine = slice(a + 400 * me, a + 400 * (me + 1))
        shared = [jax.make_array_from_process_local_data(sharded(mesh), v)
                  for v in (x[mine], labels[mine].astype(np.int32))]
        yield shared[0], shared[1] if a else labels[:800]
means = merge_processes(class_means(blocks()))
nothing = merge_processes(class_means([(x[:5], labels[:5])] if me else []))
assert nothing.counts.sum() == 5
save_class_means(Path(sys.argv[1]), means)
"""
)


@pytest.fixture(scope="module")
def whole():
    """The means of the data of the scripts, by NumPy in float64."""
    values = {}
    exec(DATA, values)
    x, labels = values["x"], values["labels"]
    classes = np.unique(labels)
    return classes, np.array([x[labels == c].astype(np.float64).mean(axis=0) for c in classes])


def test_eight_devices_make_the_same_means(python, whole, tmp_path):
    status, _, err = python("-c", ON_EIGHT_DEVICES, tmp_path / "means", devices=8)
    assert status == 0, err
    means = load_class_means(tmp_path / "means")
    np.testing.assert_array_equal(means.classes, whole[0])
    np.testing.assert_allclose(means.centroids(), whole[1], rtol=EXACT)


def test_two_processes_make_the_same_means(start_python, end, whole, tmp_path):
    address = free_address()
    both = [start_python("-c", IN_TWO_PROCESSES, tmp_path / "means", address, i) for i in range(2)]
    for status, _, err in map(end, both):
        assert status == 0, err
    means = load_class_means(tmp_path / "means")
    np.testing.assert_array_equal(means.classes, whole[0])
    np.testing.assert_allclose(means.centroids(), whole[1], rtol=EXACT)


@pytest.mark.parametrize(
    ("x", "labels", "words"),
    [
        (rows(17)[0], some_labels(18)[:6], r"embeddings.*matrix"),
        (rows(17) > 0, some_labels(18), r"embeddings.*bool"),
        (rows(17), some_labels(18)[1:], r"labels.*\[300\]"),
        (rows(17), some_labels(18).astype(float), r"labels.*float64"),
        (rows(17), some_labels(18).astype(np.uint64), r"labels.*uint64"),
    ],
)
def test_class_means_refuse_what_does_not_fit(x, labels, words):
    with pytest.raises(ValueError, match=words):
        class_means([(x, labels)])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_class_means_name_the_class_that_is_not_finite(bad):
    x, labels = rows(19), some_labels(20)
    x[np.flatnonzero(labels == 9)[2], 1] = bad
    with pytest.raises(ValueError, match=r"finite.*class 9\b"):
        class_means([(x, labels)])


def test_class_means_refuse_another_width():
    first = rows(21), some_labels(22)
    with pytest.raises(ValueError, match=r"6 columns.*got 5"):
        class_means([first, (first[0][:, :5], first[1])])
    with pytest.raises(ValueError, match=r"columns"):
        class_means([first]).add(first[0][:, :5], first[1])
