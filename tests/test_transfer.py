"""Class means, neighbours and probes on frozen embeddings, against float64 loops and scikit-learn."""

import socket
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid

import pddm_jax
from pddm_jax.transfer import class_means as module
from pddm_jax.transfer.class_means import ClassMeans, class_means, load, merged, over_processes, save
from pddm_jax.transfer.classification import nearest_classes, per_class_accuracy, top_k_accuracy
from pddm_jax.transfer.neighbours import neighbour_classes

EXACT = 1e-6
CLASSES = np.array([-5, 0, 3, 8, 9, 2**40])


def rows(seed, n=300, d=6):
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


def some_labels(seed, n=300):
    return np.random.default_rng(seed).choice(CLASSES, n, p=[0.5, 0.2, 0.1, 0.1, 0.05, 0.05])


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


def assert_same(a, b):
    for x, y in zip(a, b, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-12, atol=1e-12)


def digits():
    """Real features: half of scikit-learn's digits to learn from, the others to name."""
    x, labels = load_digits(return_X_y=True)
    x = x[:, x[::2].std(axis=0) > 0]
    return x[::2].astype(np.float32), labels[::2], x[1::2].astype(np.float32), labels[1::2]


# ------------------------------------------------------------------------------------------ class means


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
    assert_means(merged([*parts, class_means([])]), x, labels)
    assert len(merged([class_means([])]).classes) == 0
    assert over_processes(parts[0]) is parts[0]


def test_means_of_some_classes():
    x, labels = rows(11), some_labels(12)
    chosen = np.isin(labels, [9, -5])
    assert_means(class_means([(x, labels)]).of(np.array([9, -5])), x[chosen], labels[chosen])
    with pytest.raises(ValueError, match=r"\bclasses\b.*\b77\b"):
        class_means([(x, labels)]).of(np.array([0, 77]))


def test_means_are_a_pytree_of_the_host():
    means = class_means([(rows(13), some_labels(14))])
    doubled = jax.tree.map(lambda x: x * 2, means)
    assert isinstance(doubled, ClassMeans)
    np.testing.assert_array_equal(doubled.centroids(), means.centroids())


def test_saved_means_are_loaded_to_the_bit_and_go_on(tmp_path):
    x, labels = rows(15), some_labels(16)
    means = class_means([(x[:200], labels[:200])])
    save(tmp_path / "means", means)
    loaded = load(tmp_path / "means")
    for a, b in zip(means, loaded, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)
    assert_means(loaded.add(x[200:], labels[200:]), x, labels)
    with pytest.raises(ValueError, match="means"):
        save(tmp_path / "means", means)
    with pytest.raises(OSError, match="nowhere"):
        load(tmp_path / "nowhere")


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
from pddm_jax.training import data_mesh, sharded
from pddm_jax.transfer.class_means import class_means, over_processes, save
from pathlib import Path
there = jax.device_put(x, sharded(data_mesh()))
assert len(there.addressable_shards) == 8
parts = (there[:800], labels[:800]), (there[800:], labels[800:])
save(Path(sys.argv[1]), over_processes(class_means(parts)))
"""
)

IN_TWO_PROCESSES = (
    DATA
    + """
jax.distributed.initialize(sys.argv[2], 2, int(sys.argv[3]), initialization_timeout=60)
from pddm_jax.training import data_mesh, sharded
from pddm_jax.transfer import class_means as module
from pddm_jax.transfer.class_means import class_means, over_processes, save
from pathlib import Path
module.GATHERED = 300
mesh, me = data_mesh(), jax.process_index()
def blocks():
    for a in (0, 800):  # as labels of all rows, and as an array that is shared out itself
        mine = slice(a + 400 * me, a + 400 * (me + 1))
        shared = [jax.make_array_from_process_local_data(sharded(mesh), v)
                  for v in (x[mine], labels[mine].astype(np.int32))]
        yield shared[0], shared[1] if a else labels[:800]
means = over_processes(class_means(blocks()))
nothing = over_processes(class_means([(x[:5], labels[:5])] if me else []))
assert nothing.counts.sum() == 5
save(Path(sys.argv[1]), means)
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
    devices = "--xla_force_host_platform_device_count=8"
    status, _, err = python("-c", ON_EIGHT_DEVICES, tmp_path / "means", XLA_FLAGS=devices)
    assert status == 0, err
    means = load(tmp_path / "means")
    np.testing.assert_array_equal(means.classes, whole[0])
    np.testing.assert_allclose(means.centroids(), whole[1], rtol=EXACT)


def test_two_processes_make_the_same_means(start, end, whole, tmp_path):
    with socket.socket() as found:
        found.bind(("localhost", 0))
        address = f"localhost:{found.getsockname()[1]}"
    both = [start("-c", IN_TWO_PROCESSES, tmp_path / "means", address, i) for i in range(2)]
    for status, _, err in map(end, both):
        assert status == 0, err
    means = load(tmp_path / "means")
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


# --------------------------------------------------------------------------------------- classification


@pytest.mark.parametrize("data", ["random", "digits"])
def test_nearest_classes_are_those_of_scikit_learn(data):
    known, labels, queries, _ = digits() if data == "digits" else (rows(30), some_labels(31), rows(32), 0)
    theirs = NearestCentroid().fit(known.astype(np.float64), labels)
    found = nearest_classes(queries, class_means([(known, labels)]), k=3)
    np.testing.assert_array_equal(found[:, 0], theirs.predict(queries.astype(np.float64)))
    centroids, order = theirs.centroids_.tolist(), sorted(set(labels.tolist()))
    for query, row in zip(queries[:40], found, strict=False):
        expected = oracles.ranked(query, centroids)[:3]
        assert row.tolist() == [order[index] for _, index in expected]


def test_nearest_classes_by_pddm_score():
    known, labels, queries = rows(33), some_labels(34), rows(35, 8)
    params = pddm_jax.PDDM(8, 8).init(jax.random.key(0), known[:1], known[:1])["params"]
    means = class_means([(known, labels)])
    score = jax.tree_util.Partial(pddm_jax.score_matrix, params)
    plain = oracles.as_python(params)
    found = nearest_classes(queries, means, k=len(CLASSES), score_fn=score)
    for query, row in zip(queries, found, strict=True):
        expected = oracles.ranked(query, means.centroids(), lambda a, b: oracles.pddm_score(plain, a, b))
        assert row.tolist() == [CLASSES[index] for _, index in expected]


def test_equal_means_fall_to_the_lowest_class():
    x = np.array([[1.0], [3.0], [2.0], [2.0]], np.float32)
    means = class_means([(x, np.array([7, 7, 4, 9]))])
    assert nearest_classes(np.array([[5.0]], np.float32), means, k=3).tolist() == [[4, 7, 9]]


def test_nearest_classes_refuse_what_does_not_fit():
    means = class_means([(rows(36), some_labels(37))])
    with pytest.raises(ValueError, match=r"\bk\b.*1\.\.6"):
        nearest_classes(rows(38), means, k=7)
    with pytest.raises(ValueError, match="embeddings"):
        nearest_classes(rows(38)[:, :3], means)
    with pytest.raises(ValueError, match=r"embeddings.*finite"):
        nearest_classes(np.full((2, 6), np.nan, np.float32), means)


@pytest.mark.parametrize("seed", range(3))
def test_accuracies_against_the_loops(seed):
    rng = np.random.default_rng(seed)
    ranked = np.array([rng.permutation(CLASSES)[:5] for _ in range(60)])
    labels = rng.choice([*CLASSES[:4], 77], 60)  # 77 is no class that is ranked
    accuracy = top_k_accuracy(ranked, labels, (1, 2, 5))
    for k in (1, 2, 5):
        hits = sum(label in row[:k] for row, label in zip(ranked.tolist(), labels.tolist(), strict=True))
        assert accuracy[k] == pytest.approx(hits / 60, abs=EXACT)
    classes, shares = per_class_accuracy(ranked, labels)
    assert classes.tolist() == sorted(set(labels.tolist()))
    for c, share in zip(classes, shares, strict=True):
        right = [row[0] == c for row, label in zip(ranked, labels, strict=True) if label == c]
        assert share == pytest.approx(sum(right) / len(right), abs=EXACT)


@pytest.mark.parametrize(
    ("ranked", "labels", "ks", "words"),
    [
        (np.zeros((3, 2), int), np.zeros(3, int), (1, 5), "ks.*1 to 2"),
        (np.zeros((3, 2), int), np.zeros(3, int), (0,), "ks"),
        (np.zeros((3, 2), int), np.zeros(2, int), (1,), r"labels.*\[3\]"),
        (np.zeros((0, 2), int), np.zeros(0, int), (1,), "ranked"),
        (np.zeros(3, int), np.zeros(3, int), (1,), "ranked"),
    ],
)
def test_accuracies_refuse_what_does_not_fit(ranked, labels, ks, words):
    with pytest.raises(ValueError, match=words):
        top_k_accuracy(ranked, labels, ks)
    if "ks" not in words:
        with pytest.raises(ValueError, match=words):
            per_class_accuracy(ranked, labels)


# ------------------------------------------------------------------------------------------- neighbours


@pytest.mark.parametrize("data", ["random", "digits"])
@pytest.mark.parametrize("k", [1, 4, 7])
def test_neighbour_classes_are_those_of_scikit_learn(data, k):
    known, labels, queries, _ = digits() if data == "digits" else (rows(40), some_labels(41), rows(42), 0)
    theirs = KNeighborsClassifier(k, algorithm="brute").fit(known.astype(np.float64), labels)
    found = neighbour_classes(queries, known, labels, k)
    np.testing.assert_array_equal(found, theirs.predict(queries.astype(np.float64)))


def test_neighbours_by_any_score():
    """By the gallery's first coordinate, whatever the query."""
    gallery, labels = rows(43), some_labels(44)
    score = jax.tree_util.Partial(lambda q, g: jnp.broadcast_to(g[:, 0], (len(q), len(g))))
    best = labels[np.argsort(-gallery[:, 0])[:5]].tolist()
    expected = min(best, key=lambda label: (-best.count(label), label))
    assert neighbour_classes(rows(45, 4), gallery, labels, 5, score).tolist() == [expected] * 4


def test_neighbours_refuse_what_does_not_fit():
    with pytest.raises(ValueError, match="gallery_labels"):
        neighbour_classes(rows(46), rows(47), some_labels(48)[1:])
    with pytest.raises(ValueError, match=r"\bgallery\b"):
        neighbour_classes(rows(46), rows(47)[:, :2], some_labels(48))
    with pytest.raises(ValueError, match=r"\bk\b"):
        neighbour_classes(rows(46), rows(47), some_labels(48), 301)
