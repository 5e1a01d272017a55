"""Pictures of runs: which names they show, and characters that no font has."""

import warnings

import numpy as np
import pytest
from PIL import Image

from experiments import plot_text, plots
from pddm_jax.data.images import Images
from pddm_jax.evaluate.metrics import query_measures

NAMES = {3: "polar bear", 5: "雪豹 snow leopard", 8: "$x^2$\x07 a\udcff", 9: "n" * 300}


@pytest.fixture
def sheet(monkeypatch):
    """The texts of the picture that is drawn, in their order; the picture is saved as well."""
    texts, save = [], plots._save

    def saved(figure, path):
        texts.extend(text.get_text() for text in figure.axes[0].texts)
        save(figure, path)

    monkeypatch.setattr(plots, "_save", saved)
    return texts


@pytest.fixture(scope="module")
def test_images():
    rng = np.random.default_rng(0)
    labels = np.repeat([*NAMES], 3)
    images = rng.integers(0, 256, (len(labels), 8, 8, 1), dtype=np.uint8)
    return Images(images, labels, NAMES), rng.normal(size=(len(labels), 4)).astype(np.float32)


def test_a_gallery_names_the_class_of_every_query(sheet, test_images, tmp_path):
    test, embeddings = test_images
    measures = query_measures(embeddings, test.labels, len(embeddings))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plots.gallery(test, embeddings, measures, 0, tmp_path / "gallery.png")
    with Image.open(tmp_path / "gallery.png") as picture:
        picture.load()
        assert picture.width > 120 * (1 + plots.NEIGHBORS)
    shown = {3: "polar bear", 5: "U+96EA U+8C79 snow\nleopard", 8: "$x^2$ U+0007 a\nU+DCFF"}
    shown[9] = "\n".join(["n" * plots.LABEL_CHARACTERS] * (plots.LABEL_LINES - 1) + ["..."])
    typical, failures = plots._typical_and_failures(measures, test.labels, 0)
    assert len(typical) == plots.TYPICAL
    assert failures
    titles = [text for text in sheet if text not in shown.values()]
    assert [title.split()[0] for title in titles] == ["Queries", "Worst"]
    names = [text for text in sheet if text in shown.values()]
    assert names == [shown[int(test.labels[query])] for query in typical + failures]


def test_zero_shot_examples_name_the_class_and_the_predicted_ones(sheet, test_images, tmp_path):
    test, _ = test_images
    ranks = np.arange(len(test.labels)) % 3
    chosen = plots.successes_and_failures(ranks, test.labels, 0)
    assert {*ranks[chosen[:4]].tolist()} == {0}
    assert 0 not in ranks[chosen[4:]]
    assert [sorted(test.labels[part].tolist()) for part in (chosen[:4], chosen[4:])] == [[*NAMES]] * 2
    predicted = np.array([[3, 5]] * len(chosen))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plots.zero_shot_examples(test, chosen, ranks, predicted, NAMES, tmp_path / "zero_shot.png")
    assert sheet.count("polar bear") == len(chosen) + 1  # predicted for each, and the class of a success
    (rank,) = {int(ranks[n]) for n in chosen[4:] if test.labels[n] == 3}
    assert f"polar bear ({rank + 1})" in sheet
    assert "U+96EA U+8C79 snow leopard" in sheet
    assert f"{'n' * 57}..." in sheet


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("A / Α GREEK CAPITAL LETTER ALPHA", "A / Α GREEK CAPITAL LETTER ALPHA"),
        ("☃\n雪 b", "☃ U+96EA b"),
        ("é雪é", "é U+96EA é"),
        ("\U0001f44d\x00", "U+1F44D U+0000"),
        ("", ""),
    ],
)
def test_characters_without_a_glyph_are_shown_as_code_points(name, expected):
    assert plot_text.drawable(name) == plot_text.drawable(name, "bold") == expected


def test_a_character_counts_as_drawable_at_the_weight_it_is_drawn_in():
    only_normal = plot_text._characters("normal") - plot_text._characters("bold")
    character = chr(min(only_normal))
    assert plot_text.drawable(character) == character
    assert plot_text.drawable(character, "bold") == f"U+{ord(character):04X}"


def test_long_texts_are_cut_off():
    assert plot_text.shortened("a" * 60) == "a" * 60
    assert plot_text.shortened("a" * 61) == "a" * 57 + "..."
    assert plot_text.wrapped("aa bb cc dd ee", 5, 2) == "aa bb\ncc..."
    assert plot_text.wrapped("", 5, 2) == ""
