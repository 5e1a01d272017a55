"""Class descriptions from files in every format, and from the words of names."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pddm_jax.transfer.descriptions import read_descriptions, word_descriptions

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
    with pytest.raises(ValueError, match=r"no description for 1 of 3 classes, for example 'tench'"):
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
    with pytest.raises(ValueError, match=r"(:[45]) .*another (vector|row) for 'polar_bear'"):
        read_descriptions(**write(tmp_path, kind, rows(ids, matrix), matrix, ids), classes=CLASSES)


def test_a_class_that_is_asked_for_twice_is_named(tmp_path):
    with pytest.raises(
        ValueError, match="classes must have no duplicates, but 'polar_bear' occurs more than once"
    ):
        read_descriptions(**write(tmp_path, "csv"), classes=[*CLASSES, "polar_bear"])


@pytest.mark.parametrize("kind", ["glove", "word2vec", "tabs", "csv"])
@pytest.mark.parametrize("numbers", [["1", "2"], ["1", "2", "3", "4"], []])
def test_a_vector_of_another_length_is_named(kind, numbers, tmp_path):
    table = [*rows()[:2], ["éléphant", *numbers]]
    arguments = write(tmp_path, kind, table)
    with pytest.raises(
        ValueError, match=f":[34] has {len(numbers)} numbers for 'éléphant', but the first vector has 3"
    ):
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
        (VECTORS.astype(object), "not a .npy file"),
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
        with pytest.raises(ValueError, match=r"words\.npy is damaged"):
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
        with pytest.raises(ValueError, match=f"{name} has no description for 3 of 3"):
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
