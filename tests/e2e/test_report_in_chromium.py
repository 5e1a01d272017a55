"""Reports opened in a real browser: headless Chromium, driven by Selenium."""

import json
import shutil

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import Select, WebDriverWait

from experiments.compare import compare
from experiments.configs import fashion_mnist
from experiments.runner import run

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
ARGUMENTS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--no-first-run", "--disable-quic"),
)

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs chromium and chromedriver"),
]


@pytest.fixture(scope="module")
def browser():
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ARGUMENTS:
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield browser
    browser.quit()


@pytest.fixture(scope="module")
def config(fashion_root):
    config = fashion_mnist.get_config()
    config.data.update(root=str(fashion_root), classes_per_batch=2, images_per_class=4)
    config.network.update(embedding_dim=4, unit_dim=3)
    config.train.update(steps=4, eval_every=1, log_every=1)
    return config


@pytest.fixture(scope="module")
def workdir(config, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("report") / "run"
    run(config, workdir, "fashion_mnist")
    return workdir


def opened(browser, path, width=1280, scheme="light"):
    """The page, once its charts are drawn."""
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    browser.get(path.as_uri())
    charts = json.loads(browser.find_element(By.ID, "charts").get_property("textContent"))
    drawn = (By.CSS_SELECTOR, ".chart[data-ready] svg")
    WebDriverWait(browser, 30).until(lambda b: len(b.find_elements(*drawn)) == len(charts))
    return browser


def cells(browser, section):
    """The rows of the first table of a section, as text."""
    rows = browser.find_elements(By.CSS_SELECTOR, f"#{section} table tr")
    return [[cell.text for cell in row.find_elements(By.CSS_SELECTOR, "th, td")] for row in rows]


def shown(browser):
    """Queries of the page of the gallery: class names and marks."""
    items = browser.find_elements(By.CSS_SELECTOR, "#gallery > li")
    return [[f.text for f in item.find_elements(By.TAG_NAME, "figure")] for item in items]


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_report_opens_without_an_error_and_fits_the_screen(browser, workdir, width, scheme):
    opened(browser, workdir / "report.html", width, scheme)
    assert browser.get_log("browser") == []
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    background = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert background == {"light": "rgb(255, 255, 255)", "dark": "rgb(22, 24, 28)"}[scheme]


def test_its_numbers_are_those_of_the_results(browser, workdir):
    opened(browser, workdir / "report.html")
    results = json.loads((workdir / "results.json").read_text(encoding="utf-8"))
    results.pop("sha256")
    assert json.loads(browser.find_element(By.ID, "results-json").get_property("textContent")) == results
    _, *rows = cells(browser, "results")
    for name, *values in rows:
        of = [
            *results["recall_at_k"][name].values(),
            results["r_precision"][name],
            results["map_at_r"][name],
        ]
        assert values == [f"{100 * x:.1f}" for x in of]
    assert [name for name, *_ in rows] == ["euclidean", "pddm"]


def test_its_gallery_is_paged_filtered_and_ordered_by_keyboard(browser, workdir):
    opened(browser, workdir / "report.html")
    first = shown(browser)
    assert len(first) == 10
    button = browser.find_element(By.ID, "next")
    button.send_keys("\n")
    assert shown(browser) != first
    browser.find_element(By.ID, "previous").send_keys("\n")
    assert shown(browser) == first
    assert not browser.find_element(By.ID, "previous").is_enabled()
    for kind, mark in (("right", "✓"), ("wrong", "✗")):
        Select(browser.find_element(By.NAME, "right")).select_by_value(kind)
        assert shown(browser)
        assert {neighbor[0] for _, neighbor, *_ in shown(browser)} == {mark}
    Select(browser.find_element(By.NAME, "right")).select_by_value("all")
    Select(browser.find_element(By.NAME, "order")).select_by_value("score")
    for _, *neighbors in shown(browser):
        scores = [float(text.split("score ")[1]) for text in neighbors]
        assert scores == sorted(scores, reverse=True)
    browser.find_element(By.NAME, "class").send_keys("no such class")
    assert shown(browser) == []
    assert "0 of" in browser.find_element(By.ID, "place").text


def test_the_sliders_of_the_convergence_choose_its_steps(browser, workdir):
    opened(browser, workdir / "report.html")

    def points():
        return len(browser.find_elements(By.CSS_SELECTOR, "#chart-convergence .mark-symbol.role-mark path"))

    assert points() == 8  # two measures at four steps
    slider = browser.find_element(By.CSS_SELECTOR, "#chart-convergence input[type=range]")
    slider.send_keys("\ue014")  # the right arrow key
    WebDriverWait(browser, 10).until(lambda _: points() == 6)


def test_the_map_shows_one_class_alone(browser, workdir):
    opened(browser, workdir / "report.html")
    charts = json.loads(browser.find_element(By.ID, "charts").get_property("textContent"))
    names = [row["class"] for row in charts["map"]["data"]["values"]]

    def opaque():
        points = browser.find_elements(By.CSS_SELECTOR, "#chart-map .mark-symbol.role-mark path")
        return sum(float(point.get_attribute("opacity")) > 0.5 for point in points)

    points = browser.find_elements(By.CSS_SELECTOR, "#chart-map .mark-symbol.role-mark path")
    assert sorted(point.get_attribute("aria-label") for point in points) == sorted(names)
    assert opaque() == len(names)
    choice = Select(browser.find_element(By.CSS_SELECTOR, "#chart-map select"))
    choice.select_by_visible_text(names[0])
    WebDriverWait(browser, 10).until(lambda _: opaque() == names.count(names[0]))
    choice.select_by_visible_text("all classes")
    WebDriverWait(browser, 10).until(lambda _: opaque() == len(names))


def test_a_comparison_opens_without_an_error(browser, config, tmp_path):
    compare(config, tmp_path / "both", ["pddm", "quadruplet"], [0, 1])
    opened(browser, tmp_path / "both" / "report.html")
    assert browser.get_log("browser") == []
    found = json.loads((tmp_path / "both" / "compare.json").read_text(encoding="utf-8"))["objectives"]
    _, *rows = cells(browser, "results")
    assert {row[0] for row in rows} == {*found}
    for name, recall, *_ in rows:
        values = found[name]["Recall@1"]
        assert float(recall.split(" ± ")[0]) == pytest.approx(50 * sum(values), abs=0.005)
    assert len(cells(browser, "runs")) == 5
