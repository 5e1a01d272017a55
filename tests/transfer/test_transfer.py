"""Class means, neighbours and probes on frozen embeddings, against float64 loops and scikit-learn."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid

import pddm_jax
from pddm_jax.transfer import class_means as module
from pddm_jax.transfer import linear_probe
from pddm_jax.transfer.class_means import (
    ClassMeans,
    class_means,
    load_class_means,
    merge,
    merge_processes,
    save_class_means,
)
from pddm_jax.transfer.classification import nearest_classes, per_class_accuracy, top_k_accuracy
from pddm_jax.transfer.hierarchy import hierarchical_accuracy, read_hierarchy
from pddm_jax.transfer.knn import knn_classes
from tests.conftest import free_address
from tests.helpers import oracles

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


def test_two_processes_make_the_same_means(anew, end, whole, tmp_path):
    address = free_address()
    both = [anew("-c", IN_TWO_PROCESSES, tmp_path / "means", address, i) for i in range(2)]
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
    params = jax.jit(pddm_jax.PDDM(8, 8).init)(jax.random.key(0), known[:1], known[:1])["params"]
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
    found = knn_classes(queries, known, labels, k)
    np.testing.assert_array_equal(found, theirs.predict(queries.astype(np.float64)))


def test_neighbours_by_any_score():
    """By the gallery's first coordinate, whatever the query."""
    gallery, labels = rows(43), some_labels(44)
    score = jax.tree_util.Partial(lambda q, g: jnp.broadcast_to(g[:, 0], (len(q), len(g))))
    best = labels[np.argsort(-gallery[:, 0])[:5]].tolist()
    expected = min(best, key=lambda label: (-best.count(label), label))
    assert knn_classes(rows(45, 4), gallery, labels, 5, score).tolist() == [expected] * 4


def test_neighbours_refuse_what_does_not_fit():
    with pytest.raises(ValueError, match="gallery_labels"):
        knn_classes(rows(46), rows(47), some_labels(48)[1:])
    with pytest.raises(ValueError, match=r"\bgallery\b"):
        knn_classes(rows(46), rows(47)[:, :2], some_labels(48))
    with pytest.raises(ValueError, match=r"\bk\b"):
        knn_classes(rows(46), rows(47), some_labels(48), 301)


# ----------------------------------------------------------------------------------------- linear probe


@pytest.fixture(scope="module")
def probe():
    """On the digits, in blocks that do not divide them, and scikit-learn's of the same penalty."""
    known, labels, queries, _ = digits()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(linear_probe, "BLOCK", 200)
        ours = linear_probe.fit(known / 16, 3 * labels - 5, weight_decay=0.01, steps=400)
    penalty = LogisticRegression(C=1 / (0.01 * len(known)), tol=1e-8, max_iter=2000)
    return ours, penalty.fit(known.astype(np.float64) / 16, 3 * labels - 5), queries / 16


def test_the_linear_probe_is_the_minimum_that_scikit_learn_finds(probe):
    ours, theirs, _ = probe
    assert ours.classes.tolist() == theirs.classes_.tolist()
    np.testing.assert_allclose(ours.kernel.T, theirs.coef_, atol=2e-3 * np.abs(theirs.coef_).max())
    centred = theirs.intercept_ - theirs.intercept_.mean()  # which the loss leaves open
    np.testing.assert_allclose(ours.bias - np.mean(ours.bias), centred, atol=2e-3 * np.abs(centred).max())


def test_the_linear_probe_ranks_as_scikit_learn_does(probe):
    ours, theirs, queries = probe
    expected = np.argsort(-theirs.decision_function(queries.astype(np.float64)), axis=1)[:, :3]
    same = ours.top_classes(queries, 3) == ours.classes[expected]
    assert same.mean() > 0.999  # a near tie may fall either way
    assert same[:, 0].all()


@pytest.mark.parametrize(
    ("labels", "fields", "words"),
    [
        (np.zeros(299, int), {}, r"labels.*\[300\].*299"),
        (some_labels(50), {"weight_decay": 0.0}, "weight_decay.*0.0"),
        (some_labels(50), {"weight_decay": np.inf}, "weight_decay.*inf"),
        (some_labels(50), {"steps": 0}, "steps.*0"),
    ],
)
def test_the_linear_probe_refuses_what_does_not_fit(labels, fields, words):
    with pytest.raises(ValueError, match=words):
        linear_probe.fit(rows(51), labels, **{"weight_decay": 0.1, "steps": 1} | fields)


# -------------------------------------------------------------------------------------------- hierarchy

IS_A = """
thing animal
thing tool
animal dog
animal cat
dog poodle
dog terrier
tool hammer
pet dog
pet cat
thing pet
unused other
"""
NAMES = ["poodle", "terrier", "cat", "hammer", "dog"]


def loop_meeting(names, lines):
    """{(a, b): height of the lowest common ancestor}, and the height of the whole, by recursion."""
    parents = {}
    for line in lines.split("\n"):
        if line:
            parent, child = line.split()
            parents.setdefault(child, set()).add(parent)

    def above(node):
        return {node}.union(*(above(p) for p in parents.get(node, ())))

    nodes = set().union(*(above(name) for name in names))

    def height(node):
        return max((1 + height(n) for n in nodes if node in parents.get(n, ())), default=0)

    top = max(height(node) for node in nodes)
    meeting = {
        (a, b): 0 if a == b else min((height(n) for n in above(a) & above(b)), default=top)
        for a in names
        for b in names
    }
    return meeting, top


def is_a(path, text):
    path.write_text(text.strip("\n") + "\n", encoding="utf-8")
    return path


def test_classes_meet_where_the_loops_say(tmp_path):
    hierarchy = read_hierarchy(is_a(tmp_path / "is_a", IS_A), NAMES)
    meeting, top = loop_meeting(NAMES, IS_A)
    assert top == 3
    assert meeting["poodle", "terrier"] == 1
    assert meeting["poodle", "dog"] == 1
    assert meeting["cat", "terrier"] == 2
    for (a, b), height in meeting.items():
        found = hierarchical_accuracy(hierarchy, *(np.array([NAMES.index(name)]) for name in (a, b)))
        assert found == pytest.approx(1 - height / top, abs=EXACT), (a, b)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.integers(0, 2**32 - 1), st.integers(2, 25))
def test_hierarchical_accuracy_in_any_hierarchy_against_the_loops(tmp_path_factory, seed, size):
    """Of nodes that each have up to two parents among those before; some have none."""
    rng = np.random.default_rng(seed)
    lines = [
        f"n{p} n{n}" for n in range(1, size) for p in {*rng.integers(0, n, rng.integers(0, 3)).tolist()}
    ]
    nodes = sorted({node for line in lines for node in line.split()})
    if not nodes:
        return
    names = rng.permutation(nodes)[: rng.integers(1, len(nodes) + 1)].tolist()
    path = is_a(tmp_path_factory.mktemp("is_a") / "is_a", "\n".join(lines))
    predicted, labels = rng.integers(0, len(names), (2, 50))
    meeting, top = loop_meeting(names, "\n".join(lines))
    costs = [meeting[names[p], names[y]] / max(top, 1) for p, y in zip(predicted, labels, strict=True)]
    found = hierarchical_accuracy(read_hierarchy(path, names), predicted, labels)
    assert found == pytest.approx(1 - sum(costs) / 50, abs=EXACT)


def test_a_hierarchy_that_is_none_is_refused(tmp_path):
    path = tmp_path / "is_a"
    with pytest.raises(OSError, match="is_a"):
        read_hierarchy(path, ["a"])
    with pytest.raises(ValueError, match=r"line 2: expected PARENT CHILD, got 'a b c'"):
        read_hierarchy(is_a(path, "a b\na b c"), ["a"])
    with pytest.raises(ValueError, match=r"lacks 2 of 3 classes, for example x"):
        read_hierarchy(is_a(path, "a b"), ["a", "x", "y"])
    with pytest.raises(ValueError, match=r"cycle through [ab]"):
        read_hierarchy(is_a(path, "a b\nb a\nb c"), ["c"])
    hierarchy = read_hierarchy(is_a(path, "a b"), ["a", "b"])
    for wrong in ([2], [-1], []):
        with pytest.raises(ValueError, match="2 classes"):
            hierarchical_accuracy(hierarchy, np.array(wrong, int), np.array(wrong, int))
