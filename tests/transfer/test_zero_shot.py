"""Descriptions of classes from files and names; maps into their space; where the right class comes."""

import json
import math
from collections import Counter

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ml_collections import FrozenConfigDict
from PIL import Image
from scipy.optimize import linprog

from experiments import naming
from experiments.configs.zero_shot import get_config
from experiments.runner import Learned, load, run
from pddm_jax import embed
from pddm_jax.data import drawn, glyphs, some
from pddm_jax.data.images import of_classes
from pddm_jax.data.layouts.by_name import find
from pddm_jax.data.prepare.command import prepare
from pddm_jax.transfer import placement, zero_shot
from pddm_jax.transfer.descriptions import read_descriptions, word_descriptions
from tests.helpers import oracles

CLASSES = ["n02119789", "polar_bear", "éléphant"]
VECTORS = np.array([[0.5, -1, 2e-3], [0, 4, 1], [-0.25, 3, 7]], np.float32)


def text(rows, first=(), between=" "):
    return "".join(f"{between.join(map(str, row))}\n" for row in [*first, *rows])


def rows(ids=CLASSES, vectors=VECTORS):
    return [[name, *vector] for name, vector in zip(ids, vectors.tolist(), strict=True)]


def write(folder, kind, table=None, matrix=VECTORS, ids=CLASSES):
    """The arguments of `read_descriptions` beside the classes."""
    table = rows() if table is None else table
    if kind == "npy":
        np.save(folder / "words.npy", matrix)
        (folder / "ids.txt").write_text("\n".join(ids) + "\n", encoding="utf-8")
        return {"path": folder / "words.npy", "ids": folder / "ids.txt"}
    name, content = {
        "glove": ("words.txt", text(table)),
        "word2vec": ("words.vec", text(table, [(len(table), len(table[0]) - 1)])),
        "tabs": ("words.tsv", text(table, between="\t")),
        "csv": ("attributes.csv", text(table, [["id", "long, thin", "b", "c"][: len(table[0])]], ",")),
    }[kind]
    content = content.replace("long, thin", '"long, thin"')
    (folder / name).write_text(content, encoding="utf-8")
    return {"path": folder / name}


KINDS = ("glove", "word2vec", "tabs", "csv", "npy")
each_kind = pytest.mark.parametrize("kind", KINDS)


@each_kind
def test_descriptions_are_read_in_the_order_of_the_classes(kind, tmp_path):
    for order in ([0, 1, 2], [2, 0], [1], []):
        found = read_descriptions(**write(tmp_path, kind), classes=[CLASSES[n] for n in order])
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, VECTORS[order] if order else np.zeros((0, 0)))


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.from_regex(r"[a-z0-9_\-]{1,6}", fullmatch=True), min_size=1, max_size=9, unique=True),
    st.integers(2, 5),
    st.data(),
)
def test_every_form_reads_the_same_numbers(tmp_path_factory, ids, width, data):
    folder = tmp_path_factory.mktemp("forms")
    matrix = np.random.default_rng(len(ids)).normal(size=(len(ids), width)).astype(np.float32)
    classes = data.draw(st.permutations(ids))
    table = rows(ids, matrix)
    for kind in KINDS:
        found = read_descriptions(**write(folder, kind, table, matrix, ids), classes=classes)
        np.testing.assert_array_equal(found, matrix[[ids.index(name) for name in classes]])


@each_kind
def test_a_class_that_is_not_described_is_named(kind, tmp_path):
    with pytest.raises(ValueError, match=r"describes 1 of 3 classes not, such as 'tench'"):
        read_descriptions(**write(tmp_path, kind), classes=["tench", *CLASSES[:2]])


@each_kind
@pytest.mark.parametrize(("value", "word"), [(np.nan, "finite"), (np.inf, "finite"), (1e39, "finite")])
def test_a_number_that_is_not_finite_is_named(kind, value, word, tmp_path):
    matrix = VECTORS.astype(np.float64)
    matrix[1, 2] = value
    arguments = write(tmp_path, kind, rows(vectors=matrix), matrix)
    with pytest.raises(ValueError, match=f"{arguments['path'].name}.*'polar_bear'.*{word}"):
        read_descriptions(**arguments, classes=CLASSES)
    assert len(read_descriptions(**arguments, classes=CLASSES[:1])) == 1  # it is not asked for


@each_kind
def test_a_vector_of_zeros_is_named(kind, tmp_path):
    matrix = VECTORS * [[1], [1], [0]]
    with pytest.raises(ValueError, match="'éléphant' is all zeros"):
        read_descriptions(**write(tmp_path, kind, rows(vectors=matrix), matrix), classes=CLASSES)


@each_kind
def test_an_id_that_stands_twice_is_named(kind, tmp_path):
    ids, matrix = [*CLASSES, CLASSES[1]], VECTORS[[0, 1, 2, 1]]
    with pytest.raises(ValueError, match=r"(:[45]) .*'polar_bear' a second time"):
        read_descriptions(**write(tmp_path, kind, rows(ids, matrix), matrix, ids), classes=CLASSES)


def test_a_class_that_is_asked_for_twice_is_named(tmp_path):
    with pytest.raises(ValueError, match="'polar_bear' is asked for more than once"):
        read_descriptions(**write(tmp_path, "csv"), classes=[*CLASSES, "polar_bear"])


@pytest.mark.parametrize("kind", ["glove", "word2vec", "tabs", "csv"])
@pytest.mark.parametrize("numbers", [["1", "2"], ["1", "2", "3", "4"], []])
def test_a_vector_of_another_length_is_named(kind, numbers, tmp_path):
    table = [*rows()[:2], ["éléphant", *numbers]]
    arguments = write(tmp_path, kind, table)
    with pytest.raises(ValueError, match=f":[34] has {len(numbers)} numbers for 'éléphant', .* 3"):
        read_descriptions(**arguments, classes=CLASSES)


@pytest.mark.parametrize("kind", ["glove", "word2vec", "tabs", "csv"])
def test_what_is_no_number_is_named(kind, tmp_path):
    table = [["n02119789", 1, "2,5" if kind != "csv" else "two", 3], *rows()[1:]]
    with pytest.raises(ValueError, match=r":[12], 'n02119789': .*(2,5|two)"):
        read_descriptions(**write(tmp_path, kind, table), classes=CLASSES)


@pytest.mark.parametrize(
    ("matrix", "words"),
    [
        (VECTORS[:2], r"3 lines.*\(2, 3\)"),
        (VECTORS[0], r"shape \(3,\)"),
        (VECTORS > 0, "bool"),
        (VECTORS + 1j, "complex"),
        (VECTORS.astype(object), "not a whole .npy"),
    ],
)
def test_a_matrix_that_does_not_fit_its_ids_is_told(matrix, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        read_descriptions(**write(tmp_path, "npy", matrix=matrix), classes=CLASSES)


def test_broken_and_missing_files_are_named(tmp_path):
    arguments = write(tmp_path, "npy")
    whole = arguments["path"].read_bytes()
    for part in (whole[:-1], whole[:20], b""):
        arguments["path"].write_bytes(part)
        with pytest.raises(ValueError, match=r"words\.npy is not a whole"):
            read_descriptions(**arguments, classes=CLASSES)
    for path, ids in ((arguments["path"], None), (tmp_path / "a.csv", arguments["ids"])):
        with pytest.raises(ValueError, match="a file of ids"):
            read_descriptions(path, CLASSES, ids)
    for name in ("a.csv", "a.txt"):
        with pytest.raises(FileNotFoundError, match=name):
            read_descriptions(tmp_path / name, CLASSES)
        (tmp_path / name).write_bytes(b"id,x\npolar_bear,\xff\n")
        with pytest.raises(ValueError, match=f"{name} is not text in UTF-8"):
            read_descriptions(tmp_path / name, CLASSES)
        (tmp_path / name).write_text("", encoding="utf-8")
        with pytest.raises(ValueError, match=f"{name} describes 3 of 3"):
            read_descriptions(tmp_path / name, CLASSES)


def test_words_are_weighted_by_how_few_names_have_them():
    names = ["LATIN SMALL LETTER A", "Latin capital letter A-acute", "ACUTE ACCENT", "SNOWMAN"]
    found = word_descriptions(names)
    words = ["a", "accent", "acute", "capital", "latin", "letter", "small", "snowman"]
    assert found.shape == (4, len(words))
    count = [2, 1, 2, 1, 2, 2, 1, 1]
    for name, row in zip(names, found, strict=True):
        has = {*name.lower().replace("-", " ").split()}
        weights = [math.sqrt(math.log(4 / n)) * (word in has) for word, n in zip(words, count, strict=True)]
        np.testing.assert_allclose(row, weights, rtol=1e-6)
    assert word_descriptions([]).shape == (0, 0)


@given(st.lists(st.lists(st.sampled_from("abcdefg"), max_size=5).map(" ".join), min_size=1, max_size=8))
def test_the_product_of_two_names_is_what_their_shared_words_say(names):
    found = word_descriptions(names)
    count = Counter(word for name in names for word in {*name.split()})
    assert found.shape == (len(names), len(count))
    for a, x in zip(names, found, strict=True):
        for b, y in zip(names, found, strict=True):
            said = sum(math.log(len(names) / count[word]) for word in {*a.split()} & {*b.split()})
            assert float(x @ y) == pytest.approx(said, abs=1e-5)


# ------------------------------------------------------------------------- into the space of descriptions

N, WIDTH, CLASS_COUNT, ATTRIBUTES = 40, 5, 9, 7
NOT_SEEN = 4  # a class that has a description and no image
ARGUMENTS = {
    "conse": {"top": 3, "temperature": 0.5},
    "ridge": {"weight": 0.1},
    "ranking": {"margin": 0.1, "learning_rate": 0.05, "steps": 3, "seed": 0},
}
each_method = pytest.mark.parametrize("method", ARGUMENTS)


def problem(seed=0):
    """Embeddings, the rows of their classes, descriptions of any length."""
    rng = np.random.default_rng(seed)
    rows = rng.choice(np.setdiff1d(np.arange(CLASS_COUNT), NOT_SEEN), N)
    rows[: CLASS_COUNT - 1] = np.setdiff1d(np.arange(CLASS_COUNT), NOT_SEEN)
    descriptions = rng.normal(size=(CLASS_COUNT, ATTRIBUTES)) * rng.uniform(0.1, 9, (CLASS_COUNT, 1))
    embeddings = rng.normal(size=(CLASS_COUNT, WIDTH))[rows] + rng.normal(size=(N, WIDTH))
    return embeddings.astype(np.float32), rows, descriptions.astype(np.float32)


def made(method, *data, **changed):
    return getattr(zero_shot, method)(*(data or problem()), **ARGUMENTS[method] | changed)


@pytest.mark.parametrize("top", [1, 3, 100])
@pytest.mark.parametrize("temperature", [0.05, 2.0])
def test_conse_is_the_loops(top, temperature):
    x, rows, s = problem()
    found = made("conse", top=top, temperature=temperature)(x)
    expected = [oracles.conse(x, rows, s, top, temperature, query) for query in oracles.number_rows(x)]
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_conse_far_from_all_classes_is_finite_and_the_nearest():
    x = problem()[0]
    found = made("conse", temperature=1e-6)(1e3 * x)
    nearest = made("conse", top=1)(1e3 * x)
    np.testing.assert_allclose(found, nearest, atol=1e-6)


@pytest.mark.parametrize("weight", [1e-3, 0.1, 10.0])
def test_ridge_is_least_squares_with_rows_for_the_weight(weight):
    x, rows, s = (np.asarray(array, np.float64) for array in problem())
    targets = (s / np.linalg.norm(s, axis=1, keepdims=True))[rows.astype(int)]
    centred, offset = x - x.mean(axis=0), targets.mean(axis=0)
    extended = np.concatenate([centred, math.sqrt(weight * N) * np.eye(WIDTH)])
    wanted = np.concatenate([targets - offset, np.zeros((WIDTH, ATTRIBUTES))])
    kernel = np.linalg.lstsq(extended, wanted, rcond=None)[0]
    found = made("ridge", weight=weight)
    np.testing.assert_allclose(found.kernel, kernel, atol=1e-5)
    np.testing.assert_allclose(found(problem()[0]), centred @ kernel + offset, atol=1e-5)


def test_ridge_of_one_image_and_of_equal_images_is_their_description():
    _, _, s = problem()
    for x in (np.ones((1, WIDTH)), np.ones((3, WIDTH))):
        found = zero_shot.ridge(x, np.full(len(x), 2), s, weight=0.1)(np.zeros((2, WIDTH)))
        np.testing.assert_allclose(found, np.stack([s[2] / np.linalg.norm(s[2])] * 2), atol=1e-6)


@pytest.mark.parametrize("margin", [0.1, 1.0])
def test_the_ranking_loss_is_the_loops(margin):
    x, rows, s = problem()
    kernel = np.random.default_rng(1).normal(size=(WIDTH, ATTRIBUTES)).astype(np.float32)
    unit = s / np.linalg.norm(s, axis=1, keepdims=True)
    found = zero_shot.ranking_loss(kernel, x, rows, unit, margin)
    assert float(found) == pytest.approx(oracles.ranking_loss(kernel, x, rows, s, margin), rel=1e-5)


def test_ranking_descends_to_the_least_loss():
    """The loss is convex, and the least one is found by linear programming."""
    x, rows, s = problem()
    margin, unit = ARGUMENTS["ranking"]["margin"], s / np.linalg.norm(s, axis=1, keepdims=True)
    wrong = [(n, j) for n in range(N) for j in {*rows.tolist()} - {int(rows[n])}]
    hinges = np.stack([np.outer(x[n], unit[rows[n]] - unit[j]).ravel() for n, j in wrong])
    least = linprog(
        np.concatenate([np.zeros(WIDTH * ATTRIBUTES), np.full(len(wrong), 1 / N)]),
        A_ub=-np.concatenate([hinges, np.eye(len(wrong))], axis=1),
        b_ub=np.full(len(wrong), -margin),
        bounds=[(None, None)] * (WIDTH * ATTRIBUTES) + [(0, None)] * len(wrong),
    ).fun
    seen = np.unique(rows)
    found = [
        float(zero_shot.ranking_loss(kernel, x, np.searchsorted(seen, rows), unit[seen], margin))
        for kernel in (0 * made("ranking").kernel, made("ranking", steps=1000).kernel)
    ]
    assert found[0] == pytest.approx(margin * (len(seen) - 1))
    assert least < found[1] < 1.1 * least < 0.7 * found[0]


def test_the_batches_of_ranking_go_by_its_seed():
    one, again, other = (np.asarray(made("ranking", seed=seed).kernel) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()


@each_method
def test_only_directions_of_descriptions_and_classes_with_images_count(method):
    x, rows, s = problem()
    found = made(method)(x)
    changed = s * np.linspace(0.5, 3, CLASS_COUNT)[:, None]
    changed[NOT_SEEN] = -5
    np.testing.assert_allclose(made(method, x, rows, changed)(x), found, atol=1e-5)


@each_method
def test_a_map_is_a_pytree_of_finite_numbers(method):
    into = made(method)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(into))
    x = problem()[0]
    np.testing.assert_allclose(jax.jit(lambda into, x: into(x))(into, x), into(x), atol=1e-5)


@each_method
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x, rows, s: (x[0], rows, s), r"embeddings must be a matrix"),
        (lambda x, rows, s: (x, rows[1:], s), r"labels must be 40 integers"),
        (lambda x, rows, s: (x, rows + 0.5, s), r"labels must be 40 integers, got float"),
        (lambda x, rows, s: (x, rows + 1, s), r"labels must be rows of 9 descriptions, got 9"),
        (lambda x, rows, s: (x, rows - 1, s), r"labels must be rows of 9 descriptions, got -1"),
        (lambda x, rows, s: (x, rows, s * np.inf), r"descriptions must be finite"),
        (lambda x, rows, s: (x * np.nan, rows, s), r"embeddings must be finite"),
        (lambda x, rows, s: (x[:0], rows[:0], s), r"at least one image"),
    ],
)
def test_bad_data_is_named(method, change, words):
    with pytest.raises(ValueError, match=words):
        made(method, *change(*problem()))


@pytest.mark.parametrize(
    ("method", "name"), [(method, name) for method in ARGUMENTS for name in ARGUMENTS[method]]
)
def test_a_bad_field_is_named(method, name):
    for value in (0, -1, math.nan) if name not in ("top", "steps", "seed") else (0,) * (name != "seed"):
        with pytest.raises(ValueError, match=name):
            made(method, **{name: value})


@pytest.mark.parametrize("method", ARGUMENTS)
def test_classes_never_seen_are_known_by_what_they_share_with_seen_ones(method):
    """Images are a linear function of attributes: a class has two of eight, half of the pairs are seen."""
    rng = np.random.default_rng(0)
    pairs = rng.permutation([(a, b) for a in range(8) for b in range(a)])
    s = np.zeros((len(pairs), 8), np.float32)
    s[np.arange(len(pairs))[:, None], pairs] = 1
    mixing = rng.normal(size=(8, 16))
    rows = np.repeat(np.arange(len(pairs)), 20)
    x = s[rows] @ mixing + 0.3 * rng.normal(size=(len(rows), 16))
    half = len(pairs) // 2
    seen = rows < half
    into = made(method, x[seen], rows[seen], s[:half], **{"steps": 300} if method == "ranking" else {})
    found = placement.hit_at_k(placement.places(into, x[~seen], rows[~seen] - half, s[half:]), (1, 5))
    least = {"conse": 0.3, "ridge": 0.9, "ranking": 0.7}[method]
    assert least < found[1] <= found[5]
    assert 1 / half < least / 4


# ------------------------------------------------------------------------------ where the right class comes


IDENTITY = zero_shot.Affine(np.eye(2, dtype=np.float32), np.zeros(2, np.float32))


def scores_of(into, x, s):
    """In float64."""
    return [[oracles.cosine(vector, row) for row in oracles.number_rows(s)] for vector in into(x).tolist()]


@each_method
def test_hit_at_k_is_the_loops(method):
    x, rows, s = problem()
    into = made(method)
    found = placement.places(into, x, rows, s)
    expected = oracles.hit_at_k(scores_of(into, x, s), rows, placement.KS)
    assert placement.hit_at_k(found) == pytest.approx(expected)
    assert 0 < expected[1] < expected[5] < expected[10] == 1


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_places_where_many_cosines_tie(seed):
    """Along the axes and at 0 cosines are whole numbers, to the bit."""
    rng = np.random.default_rng(seed)
    axes = np.array([[0, 0], [1, 0], [0, 2], [-4, 0], [0, -0.5]], np.float32)
    x, s, rows = axes[rng.integers(0, 5, 6)], axes[rng.integers(0, 5, 5)], rng.integers(0, 5, 6)
    found = placement.places(IDENTITY, x, rows, s)
    for place, vector, row in zip(found, x, rows, strict=True):
        of_all = [oracles.cosine(vector, other) for other in s]
        order = sorted(range(5), key=lambda j: (-of_all[j], j))
        assert place == order.index(row)
    assert placement.hit_at_k(found, (5,)) == {5: 1.0}


@each_method
def test_the_likeliest_are_those_that_come_first(method):
    x, rows, s = problem()
    into = made(method)
    found = placement.likeliest(into, x, s, 4)
    for ranked, scores in zip(found, scores_of(into, x, s), strict=True):
        np.testing.assert_allclose([scores[j] for j in ranked], sorted(scores)[:-5:-1], atol=1e-5)
    every = placement.likeliest(into, x, s, 100)
    assert every.shape == (N, CLASS_COUNT)
    np.testing.assert_array_equal(
        (every == rows[:, None]).argmax(axis=1), placement.places(into, x, rows, s)
    )


def test_places_of_many_blocks_are_those_of_one(monkeypatch):
    x, rows, s = problem()
    into = made("ridge")
    one = placement.places(into, x, rows, s)
    monkeypatch.setattr(placement, "BLOCK", 7)
    jax.clear_caches()
    np.testing.assert_array_equal(placement.places(into, x, rows, s), one)


def test_hit_at_k_by_class_counts_each_class_once():
    places, classes = np.array([0, 0, 0, 5]), np.array([7, 7, 7, 2**40])
    assert placement.hit_at_k(places, (1, 6)) == {1: 0.75, 6: 1.0}
    assert placement.hit_at_k(places, (1, 6), classes) == {1: 0.5, 6: 1.0}
    with pytest.raises(ValueError, match="no image"):
        placement.hit_at_k(places[:0])


def test_the_harmonic_mean():
    assert placement.harmonic_mean(0.5, 0.25) == pytest.approx(1 / 3)
    assert placement.harmonic_mean(0.0, 0.9) == placement.harmonic_mean(0.0, 0.0) == 0


def test_places_name_what_does_not_fit():
    x, rows, s = problem()
    into = made("ridge")
    for arguments, words in (
        ((x * np.inf, rows, s), "embeddings must be finite"),
        ((x, rows, s[:3]), "labels must be rows of 3 descriptions"),
        ((x, rows[1:], s), "labels must be 40 integers"),
    ):
        with pytest.raises(ValueError, match=words):
            placement.places(into, *arguments)


# --------------------------------------------------------------------------------------- the experiment


def assert_hits(hits):
    assert [*hits] == [str(k) for k in placement.KS]
    assert [*hits.values()] == sorted(hits.values())


def test_characters_never_seen_are_known_by_their_names(glyph_root, tmp_path):
    """Already by their pixels: every fifth character, seen and unseen, without a network."""
    config = get_config()
    config.zero_shot.ranking_steps = 40
    config = FrozenConfigDict(config)
    whole = glyphs.load(str(glyph_root), None, 0)
    few = [of_classes(part, np.unique(part.labels)[::5]) for part in (whole.train, whole.test)]
    split = whole._replace(train=few[0], test=few[1])
    apart = drawn(split.train, config.data.seen_test, 0)
    train, seen = (some(split.train, np.flatnonzero(chosen)) for chosen in (~apart, apart))

    def pixels(data):
        coarse = data.images.reshape(-1, 8, 4, 8, 4).mean(axis=(2, 4)).reshape(-1, 64)
        return coarse / np.linalg.norm(coarse, axis=1, keepdims=True)

    beside = naming.ready(config, split)
    learned = Learned(config, tmp_path, split, train, seen, None, pixels, beside)
    rule, found = naming.measure(learned)
    assert rule["zero_shot"]["classes"] == {"seen": len(split.train.class_names), "unseen": 284}
    hits = found["hit_at_k"]
    assert [*hits] == ["chance", "word frequency", "conse", "ranking", "ridge"]
    assert hits["chance"] == {str(k): k / 284 for k in placement.KS}
    for name in ("conse", "ranking", "ridge"):
        assert_hits(hits[name])
        for k in ("1", "5"):
            assert hits[name][k] > 4 * max(hits["chance"][k], hits["word frequency"][k]), (name, k)
        of = found["generalised"][name]
        for part in ("seen", "unseen", "harmonic mean"):
            assert_hits(of[part])
        for k, share in of["seen"].items():
            unseen = of["unseen"][k]
            assert unseen < share
            assert of["harmonic mean"][k] == pytest.approx(2 * share * unseen / (share + unseen))
    with Image.open(tmp_path / "zero_shot.png") as picture:
        assert len(picture.convert("RGB").getcolors(2**20)) > 100
    described = {"data": "glyphs", "seed": 0, "objective": {"name": "pddm"}, "images": {"test": 1}}
    results = {"experiment": "x", "protocol": described | rule, "steps": 1, "seconds": 1, **found}
    line = next(line for line in naming.table(results).splitlines() if line.split()[:1] == ["conse"])
    assert line.split()[1:] == [f"{100 * share:.2f}" for share in hits["conse"].values()]


def test_the_ordering_by_word_frequency_is_that_of_the_counts():
    seen, unseen = ["A B", "A C", "A"], ["C", "B C D", "A", "E", "A B"]
    vectors = word_descriptions([*seen, *unseen])
    places = naming.by_frequency(vectors[:3], vectors[3:])
    means = [1, 2 / 3, 3, 0, 2]  # seen classes with each word of the name
    assert places.tolist() == [sorted(means, reverse=True).index(mean) for mean in means]


@pytest.fixture
def photos(tmp_path):
    """A folder of ten classes of five images, a file that describes them, one that names three of them."""
    rng = np.random.default_rng(0)
    for label in range(10):
        (tmp_path / "photos" / f"n{label}").mkdir(parents=True)
        for number in range(5):
            pixels = rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / f"n{label}" / f"{number}.png")
    vectors = rng.normal(size=(10, 4)).tolist()
    (tmp_path / "words.txt").write_text(text(rows([f"n{label}" for label in range(10)], np.array(vectors))))
    (tmp_path / "unseen.txt").write_text("n7\nn2\n\nn4\n")
    return tmp_path


def fields(photos):
    """Of a short run on the photos."""
    return {
        "data.name": "folder",
        "data.root": str(photos / "photos"),
        "data.test_classes": str(photos / "unseen.txt"),
        "data.image_size": 16,
        "data.seen_test": 0.2,
        "data.workers": 0,
        "data.classes_per_batch": 4,
        "network.name": "small_cnn",
        "network.embedding_dim": 8,
        "network.unit_dim": 8,
        "train.steps": 2,
        "zero_shot.descriptions": str(photos / "words.txt"),
    }


@pytest.mark.long
def test_compare_sets_objectives_side_by_side_by_the_naming_of_unseen_classes(run_command, photos):
    given = [f"--config.{name}={value}" for name, value in fields(photos).items()]
    status, out, err = run_command(
        *("experiments.compare", "--config=experiments/configs/zero_shot.py:ilsvrc2010"),
        *("--evaluation=zero_shot", "--objectives=pddm,triplet", "--seeds=3"),
        *(f"--workdir={photos / 'run'}", *given),
    )
    assert status == 0, err
    summary = json.loads((photos / "run" / "compare.json").read_text(encoding="utf-8"))
    for name in ("pddm", "triplet"):
        results = (photos / "run" / f"{name}-3" / "results.json").read_text(encoding="utf-8")
        run = json.loads(results)
        assert run["evaluation"] == "zero_shot"
        assert [*run["hit_at_k"]] == ["chance", "conse", "ranking", "ridge"]
        assert run["hit_at_k"]["conse"]["5"] == 1.0  # of three classes
        assert run["protocol"]["images"] == {"train": 28, "test": 15, "seen_test": 7}
        assert "3 of 10 classes for test" in run["protocol"]["split"]
        assert summary["objectives"][name]["ridge Hit@1"] == [run["hit_at_k"]["ridge"]["1"]]
        mean = run["generalised"]["ridge"]["harmonic mean"]["1"]
        assert summary["objectives"][name]["ridge harmonic mean"] == [mean]
        assert "published: Hit@5 48.2" in naming.table(run)
    assert out.startswith("| objective | conse Hit@1 | conse Hit@5 |")


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"zero_shot.descriptions": "/nowhere.txt"}, "/nowhere.txt"),
        ({"zero_shot.ids": "ids.txt"}, r"zero_shot\.ids.*ids\.txt"),
        ({"zero_shot.ridge_weight": math.nan}, r"zero_shot\.ridge_weight .* nan"),
        ({"data.test_classes": "0"}, r"data\.test_classes: 0 keeps 0 of 10"),
        ({"data.seen_test": 0.1}, r"data\.seen_test of 0\.1 keeps no image"),
        ({"data.seen_test": 1.0}, r"data\.seen_test must be .* below 1, got 1\.0"),
        ({"data.test_classes": None, "data.name": "imagenet2010"}, r"data\.name .* 'imagenet2010'"),
    ],
)
def test_what_is_wrong_is_told_before_training(changed, words, photos):
    config = get_config("ilsvrc2010")
    config.update_from_flattened_dict(fields(photos) | changed)
    with pytest.raises((ValueError, OSError), match=words):
        run(config, photos / "run", "zero_shot", naming.EVALUATION)
    assert not (photos / "run" / "config.json").exists()


def test_prepared_imagenet_is_split_by_class_for_a_run_and_for_its_embeddings(photos, tmp_path):
    wnids = [f"n{label:08d}" for label in range(10)]
    (tmp_path / "wnids.txt").write_text("\n".join(wnids))
    for label, wnid in enumerate(wnids):
        (photos / "photos" / f"n{label}").rename(photos / "photos" / wnid)
    source = find("imagenet2010", photos / "photos", str(tmp_path / "wnids.txt"))
    prepare("imagenet2010", source, photos / "photos", tmp_path / "records", 16, False)
    config = get_config("ilsvrc2010")
    config.data.update(root=str(tmp_path / "records"), test_classes="3")
    split = load(FrozenConfigDict(config), closed_sets=False)
    assert [len(part.class_names) for part in (split.train, split.test)] == [7, 3]
    assert not split.train.class_names.keys() & split.test.class_names.keys()
    again = embed.load_data(config.to_dict(), None, None)
    assert again.test.class_names == split.test.class_names
    with pytest.raises(ValueError, match=r"data\.test_classes do not apply to imagenet2010"):
        load(FrozenConfigDict(config), closed_sets=True)
