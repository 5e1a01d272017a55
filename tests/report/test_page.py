"""Pages of reports, parsed by the standard library: hostile names, no references, the numbers given."""

import numpy as np
import pytest

from pddm_jax.report.write import write_comparison
from tests.report.pages import Page, check_policy, check_references, shown
from tests.report.runs import HOSTILE, PLAIN, ROWS, fields, images, results, write, write_whole
from tests.report.samples import nearest, unit

OF_RETRIEVAL = ["queries", "pairs", "scores", "map", "classes", "labels", "duplicates"]


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """The page of a run with hostile names, and with plain ones."""
    folder = tmp_path_factory.mktemp("pages")
    return write_whole(folder / "hostile.html", HOSTILE), write_whole(folder / "plain.html")


def compared(path, names):
    """A page of a comparison whose objectives have these names."""
    curves = {name: [(2, 50.0 + n), (4, 60.5 + n)] for n, name in enumerate(names)}
    cells = [[name, f"{60.5 + n:.2f} ± 0.10", "-"] for n, name in enumerate(names)]
    summary, runs = (names[2], ["objective", *names[1:3]], cells), ("Each run", ["run", *names[1:3]], cells)
    write_comparison(
        path, names[1], summary, (names[0], curves), runs, results(names)["protocol"], names[3]
    )
    return Page(path), curves, cells


def test_a_page_refers_to_nothing_outside_and_has_the_licenses_of_its_scripts(pages):
    for page in pages:
        assert "BSD 3-Clause License" in page.source
        assert "ISC License" in page.source
        check_references(page)
        check_policy(page)
        assert page.sections() == ["results", "convergence", *OF_RETRIEVAL]


def test_hostile_names_are_text(pages):
    page, plain = pages
    assert page.shape() == plain.shape()
    texts = page.texts("th", "td", "dt", "dd", "figcaption")
    alts, of_plain = ([attrs["alt"] for _, attrs, _ in p.elements if "alt" in attrs] for p in pages)
    assert alts
    for name, other in zip(HOSTILE, PLAIN, strict=True):
        assert shown(name).strip() in texts
        assert alts.count(shown(name)) == of_plain.count(other)
    title = f"{HOSTILE[0]}: {HOSTILE[6]} on {HOSTILE[1]}"
    assert page.texts("h1") == page.texts("title") == [title]


def test_the_json_of_the_scripts_holds_the_names(pages):
    page, made = pages[0], fields(HOSTILE, unit()[0])
    for script in ("charts", "data", "results-json"):
        assert not {"<", ">", "&"} & {*page.script(script)}
    assert {row["class"] for row in page.json("charts")["map"]["data"]["values"]} == {*HOSTILE}
    data = page.json("data")
    assert data["gallery"] == made["gallery"]
    assert {query["name"] for query in data["gallery"]} == {*HOSTILE}
    assert data["thumbnails"] == {str(n): url for n, url in made["thumbnails"].items()}


def test_the_results_are_those_given(pages):
    for page, names in zip(pages, (HOSTILE, PLAIN), strict=True):
        assert page.json("results-json") == results(names)
    cells, found = pages[1].texts("th", "td"), results()
    for ranking in ("euclidean", "pddm"):
        measures = [*found["recall_at_k"][ranking].values()]
        measures += [found["r_precision"][ranking], found["map_at_r"][ranking]]
        row = cells[cells.index(ranking) + 1 :][: len(measures)]
        assert [float(cell) for cell in row] == pytest.approx([100 * x for x in measures], abs=0.0501)


def test_the_curves_are_those_of_the_rows(pages):
    recall, precision = "Recall@1, test classes", "MAP@R, test classes"
    charts, cells = pages[0].json("charts"), pages[0].texts("th", "td")
    points = {(row["run"], row["step"]): row["value"] for row in charts["convergence"]["data"]["values"]}
    assert points == {(recall, 2): 51.5625, (precision, 2): 25, (recall, 4): 71.875, (precision, 4): 37.5}
    losses = [(row["step"], row["value"]) for row in charts["loss"]["data"]["values"]]
    assert losses == [(2, 3.25), (4, 2.125)]
    table = cells[cells.index("step") :][:12]
    assert table[:4] == ["step", recall, precision, "loss"]
    assert table[4:] == ["2", "51.56", "25", "3.25", "4", "71.88", "37.5", "2.125"]


def test_recall_by_class_and_the_map_against_loops(pages):
    data = images()
    x, labels = data.embeddings, data.images.labels
    right, averages = [], []
    for query in range(40):
        hits = [labels[n] == labels[query] for n in nearest(x, query)[:3]]  # classes have 4 images
        right.append(bool(hits[0]))
        averages.append(sum(sum(hits[: i + 1]) / (i + 1) for i in range(3) if hits[i]) / 3)
    of = np.stack([right, averages], axis=1).reshape(10, 4, 2).mean(axis=1) * 100
    worst = sorted(range(10), key=lambda n: tuple(of[n]))
    cells = pages[1].texts("th", "td")
    start = cells.index("queries") + 1
    for place, n in enumerate(worst):
        expected = [PLAIN[n], f"{of[n][0]:.1f}", f"{of[n][1]:.1f}", "4"]
        assert cells[start + 4 * place : start + 4 * place + 4] == expected
    points = pages[1].json("charts")["map"]["data"]["values"]
    assert [point["class"] for point in points] == [PLAIN[n] for n in labels]
    assert ["same class" in point["first"] for point in points] == right


def test_a_run_without_a_unit(tmp_path):
    page = write(tmp_path / "report.html", fields(), pddm=False)
    check_references(page)
    assert page.sections() == ["results", "convergence", *OF_RETRIEVAL[:2], *OF_RETRIEVAL[3:]]
    assert "pddm" not in page.texts("th")
    assert "order" not in [attrs.get("name") for _, attrs, _ in page.elements]


VALIDATION = {"step": 3, "validation_recall_at_1": 0.5, "seconds": 1}


@pytest.mark.parametrize(
    "rows",
    [(), ROWS, ROWS[1::2], ROWS[::2], [VALIDATION], [VALIDATION, ROWS[2]]],
    ids=["none", "all", "measures", "loss", "validation", "validation and loss"],
)
def test_a_run_without_retrieval(rows, tmp_path):
    page = write(tmp_path / "report.html", {}, rows=rows)
    check_references(page)
    assert page.sections() == ["results", "convergence"][: 1 + bool(rows)]
    assert bool(rows) == (len(page.source) > 500_000)  # the scripts that draw


def test_a_comparison(tmp_path):
    page, curves, cells = compared(tmp_path / "hostile.html", HOSTILE)
    plain, *_ = compared(tmp_path / "plain.html", PLAIN)
    assert page.shape() == plain.shape()
    check_references(page)
    check_policy(page)
    assert page.texts("title") == page.texts("h1") == [HOSTILE[1]]
    texts = page.texts("th", "td")
    for row in cells:
        place = texts.index(shown(row[0]).strip(), 3)
        assert texts[place + 1 : place + 3] == row[1:]
    values = page.json("charts")["convergence"]["data"]["values"]
    assert [(row["run"], row["step"], row["value"]) for row in values] == [
        (name, *point) for name, curve in curves.items() for point in curve
    ]
    write_comparison(tmp_path / "plain.html", "t", ("a", ["b"], []), ("y", {}), ("c", ["d"], []), {}, "")
    check_references(Page(tmp_path / "plain.html"))  # replaced by one without runs
