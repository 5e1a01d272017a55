"""Charts of a report: the steps that are shown, the colors, and points without a thumbnail."""

import numpy as np
import pytest

from pddm_jax.report.charts import COLORS, embedding_map
from tests.report.pages import Page
from tests.report.runs import write
from tests.report.samples import embedded, noise, normal


def luminance(color):
    """Relative luminance of WCAG 2.2."""
    channels = [int(color[n : n + 2], 16) / 255 for n in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("page", ["#ffffff", "#16181c"])
@pytest.mark.parametrize("color", COLORS)
def test_colors_are_seen_on_both_backgrounds(color, page):
    low, high = sorted(map(luminance, (color, page)))
    assert (high + 0.05) / (low + 0.05) >= 3


@pytest.mark.parametrize("steps", [1, 499, 500, 501, 12_345])
def test_of_many_steps_at_most_500_are_shown_with_the_last(steps, tmp_path):
    rows = [{"step": n + 1, "loss": float(n)} for n in range(steps)]
    write(tmp_path / "report.html", {}, rows=rows)
    values = Page(tmp_path / "report.html").json("charts")["loss"]["data"]["values"]
    found = [row["step"] for row in values]
    assert found[-1] == steps
    assert min(steps, 250) <= len(found) <= 500
    assert {*np.diff(found).tolist()} <= {-(-steps // 500)}
    assert [row["value"] for row in values] == [step - 1 for step in found]


def test_a_point_without_a_thumbnail_has_no_image():
    data = embedded(normal(0, 3), [0, 0, 1], np.stack([noise(n, 4, 4, 3) for n in range(3)]))
    chart = embedding_map(data, normal(1, 3)[:, :2], np.ones(2), [True, False, True], ["a", None, "b"])
    assert [row.get("image") for row in chart["data"]["values"]] == ["a", None, "b"]
    assert chart["encoding"]["description"] == {"field": "class"}
