"""Charts of a report, as Vega-Lite specifications."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from pddm_jax.report.sample import Embedded

Chart = dict[str, Any]

COLORS = ("#1b6ca8", "#b5541c", "#2e7d4f", "#a050a8", "#8a7500", "#c2405c", "#008087", "#737373")
"""Of series; each has a contrast of at least 3 to 1 on white and on #16181c."""


def _chart(description: str, values: Sequence[Mapping[str, Any]], **fields: Any) -> Chart:
    return {
        "description": description,
        "width": "container",
        "height": 320,
        "background": "transparent",
        "data": {"values": list(values)},
        **fields,
    }


def _axis(field: str, title: str, **more: Any) -> dict[str, Any]:
    return {"field": field, "type": "quantitative", "title": title, "scale": {"zero": False}, **more}


def _series(field: str, names: Sequence[str]) -> dict[str, Any]:
    """A color and a shape for each name."""
    colors = [COLORS[n % len(COLORS)] for n in range(len(names))]
    legend = {"orient": "top", "title": None, "labelLimit": 0}
    return {
        "color": {"field": field, "scale": {"domain": names, "range": colors}, "legend": legend},
        "shape": {"field": field, "scale": {"domain": names}, "legend": legend},
    }


def convergence(curves: Mapping[str, Sequence[tuple[int, float]]], measure: str) -> Chart:
    """A measure against the step, a line for each name; two sliders choose the range of steps."""
    values = [
        {"run": name, "step": step, "value": value}
        for name, curve in curves.items()
        for step, value in curve
    ]
    steps = [step for curve in curves.values() for step, _ in curve]
    low, high = min(steps, default=0), max(steps, default=0)

    def slider(name: str, value: int) -> dict[str, Any]:
        bind = {"input": "range", "min": low, "max": high, "step": 1, "name": f"{name} step "}
        return {"name": f"{name}_step", "value": value, "bind": bind}

    tooltip = [
        {"field": "run", "title": "run"},
        {"field": "step", "title": "step"},
        {"field": "value", "title": measure, "format": ".4~g"},
    ]
    return _chart(
        f"{measure} by training step",
        values,
        params=[slider("first", low), slider("last", high)] if low < high else [],
        transform=[{"filter": "datum.step >= first_step && datum.step <= last_step"}] if low < high else [],
        mark={"type": "line", "point": {"size": 40}},
        encoding={
            "x": _axis("step", "step", axis={"tickMinStep": 1, "format": "d"}),
            "y": _axis("value", measure),
            **_series("run", [*curves]),
            "tooltip": tooltip,
        },
    )


def scores_against_distances(points: Sequence[Mapping[str, Any]]) -> Chart:
    """The PDDM score of pairs against their Euclidean distance."""
    return _chart(
        "PDDM score against Euclidean distance, for positive and negative pairs",
        points,
        mark={"type": "point", "size": 16},
        encoding={
            "x": _axis("distance", "Euclidean distance"),
            "y": _axis("score", "PDDM score (higher: more similar)"),
            **_series("kind", ["positive", "negative"]),
        },
    )


RIGHT, WRONG = "first neighbor has the same class", "first neighbor has another class"


def embedding_map(
    data: Embedded,
    points: Float[np.ndarray, "n 2"],
    shares: Float[np.ndarray, " 2"],
    first_is_right: Sequence[bool],
    urls: Sequence[str | None],
) -> Chart:
    """Embeddings in two dimensions, with the class and a thumbnail of the image at the pointer.

    Args:
        data: the images.
        points: their positions.
        shares: of the variance, for the titles of the axes.
        first_is_right: whether the nearest neighbor of each image has its class.
        urls: their thumbnails; None where there is none.
    """
    values = [
        {"x": round(x, 5), "y": round(y, 5), "class": data.name(n), "first": RIGHT if right else WRONG}
        | ({"image": urls[n]} if urls[n] else {})
        for n, ((x, y), right) in enumerate(zip(points.tolist(), first_is_right, strict=True))
    ]
    names = sorted({row["class"] for row in values})
    choice = {"input": "select", "options": [None, *names], "labels": ["all classes", *names]}
    chosen = {"name": "chosen_class", "value": None, "bind": {**choice, "name": "class "}}
    zoom = {
        "name": "zoom",
        "select": {"type": "interval", "zoom": "wheel![event.altKey]"},
        "bind": "scales",
    }
    is_chosen = "chosen_class === null || datum['class'] === chosen_class"
    tooltip = "datum.image ? {class: datum['class'], image: datum.image} : {class: datum['class']}"
    return _chart(
        "Principal components of the embeddings",
        values,
        height=420,
        params=[zoom, chosen],
        mark={"type": "point", "size": 26, "filled": True},
        encoding={
            "x": _axis("x", f"first principal component ({100 * shares[0]:.0f}% of the variance)"),
            "y": _axis("y", f"second principal component ({100 * shares[1]:.0f}%)"),
            **_series("first", [RIGHT, WRONG]),
            "opacity": {"condition": {"test": is_chosen, "value": 1}, "value": 0.05},
            "description": {"field": "class"},
            "tooltip": {"value": {"expr": tooltip}},
        },
    )
