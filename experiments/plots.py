"""Pictures of a run: Recall@1 against steps, nearest neighbors of queries, zero-shot predictions."""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from experiments.plot_text import FONTS, drawable, shortened, wrapped
from pddm_jax.data import Images
from pddm_jax.data.streams import GALLERY, stream
from pddm_jax.evaluate.metrics import QueryMeasures, nearest_others
from pddm_jax.system.files import replacing
from pddm_jax.training.writer import Row

Curve = list[tuple[str, int, float]]
"""Recall@1 in percent: its classes, the step, the value."""

RIGHT, WRONG, QUERY = ("#2e8b57", "-"), ("#c0392b", (0, (2, 1))), ("#555555", "-")
NEIGHBORS = 8
TYPICAL, FAILURES = 6, 4
"""Queries of a gallery."""
EXAMPLES = 7
"""Right ones of a sheet of zero-shot examples, and wrong ones."""

# In units of an image.
TITLE_HEIGHT = 0.45
EXAMPLE_WIDTH = 5.5  # of an image with the names of classes
LABEL_WIDTH = 1.7  # of the class of a query
LABEL_CHARACTERS, LABEL_LINES = 20, 5


def curve(rows: list[Row]) -> Curve:
    """Recall@1 by step, on the test classes, or on the validation classes if the run has them."""
    names = {"recall_at_1": "unseen", "validation_recall_at_1": "validation"}
    return [
        (classes, row["step"], 100 * row[name])
        for row in rows
        for name, classes in names.items()
        if name in row
    ]


def convergence(curves: dict[str, list[Curve]], title: str, path: Path) -> None:
    """Recall@1 against step: for each name the mean of its runs, in a band of their standard deviation."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for name, runs in curves.items():
        classes, steps, _ = zip(*runs[0], strict=True)
        recalls = np.array([[recall for *_, recall in run] for run in runs])
        mean = recalls.mean(axis=0)
        std = recalls.std(axis=0, ddof=1) if len(runs) > 1 else 0
        (line,) = axes.plot(steps, mean, marker="o", markersize=3.5, label=name)
        axes.fill_between(steps, mean - std, mean + std, color=line.get_color(), alpha=0.15)
        axes.set_ylabel(f"Recall@1 on {classes[0]} classes (%)")
    axes.set(xlabel="step", xlim=(0, None), title=title)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    if len(curves) > 1:
        axes.legend()
    _save(figure, path)


def gallery(
    test: Images, embeddings: Float[np.ndarray, "n d"], measures: QueryMeasures, seed: int, path: Path
) -> None:
    """Typical queries, drawn by seed, and the worst failures, each with its class and nearest neighbors.

    A failure is worse, the later the first image of its class comes.
    """
    typical, failures = _typical_and_failures(measures, test.labels, seed)
    columns = min(NEIGHBORS, len(test.labels) - 1)
    queries = np.array(typical + failures)
    neighbors = dict(zip(queries.tolist(), nearest_others(embeddings, queries, columns), strict=True))
    parts = {
        "Queries (left), neighbors by Euclidean distance: same class green, other red and dashed": typical,
        "Worst failures: the first of the class comes latest": failures,
    }
    parts = {title: queries for title, queries in parts.items() if queries}
    width, height = LABEL_WIDTH + 1 + columns, len(queries) + TITLE_HEIGHT * len(parts)
    figure, axes = _sheet(width, height)
    top = 0.0
    for title, part in parts.items():
        _write(axes, width / 2, top + TITLE_HEIGHT / 2, title, ha="center", fontsize=10)
        top += TITLE_HEIGHT
        for query in part:
            name = wrapped(
                drawable(test.class_names[int(test.labels[query])]), LABEL_CHARACTERS, LABEL_LINES
            )
            _write(axes, LABEL_WIDTH - 0.08, top + 0.5, name, ha="right", fontsize=8)
            _draw(axes, LABEL_WIDTH, top, test.images[query], *QUERY)
            for column, index in enumerate(neighbors[query].tolist(), 1):
                frame = RIGHT if test.labels[index] == test.labels[query] else WRONG
                _draw(axes, LABEL_WIDTH + column, top, test.images[index], *frame)
            top += 1
    _save(figure, path)


def _typical_and_failures(
    measures: QueryMeasures, labels: Int[np.ndarray, " n"], seed: int
) -> tuple[list[int], list[int]]:
    """Queries drawn by seed, and other queries of different classes, worst first."""
    answerable, first = measures.relevant > 0, measures.first
    typical: list[int] = stream(seed, GALLERY).permutation(len(first))[:TYPICAL].tolist()
    order = np.argsort(-np.where(answerable, first, -1), kind="stable")
    worst = [q for q in order.tolist() if first[q] > 0 and answerable[q]]
    return typical, [q for q in _of_different_classes(worst, labels, FAILURES) if q not in typical]


def successes_and_failures(
    ranks: Int[np.ndarray, " n"], labels: Int[np.ndarray, " n"], seed: int
) -> list[int]:
    """Images of rank 0, then as many of other ranks, of different classes, drawn by seed."""
    order = stream(seed, GALLERY).permutation(len(ranks))
    first = ranks[order] == 0
    parts = order[first], order[~first]
    return [n for part in parts for n in _of_different_classes(part.tolist(), labels, EXAMPLES)]


def zero_shot_examples(
    test: Images,
    chosen: list[int],
    ranks: Int[np.ndarray, " n"],
    predicted: Int[np.ndarray, "m k"],
    names: dict[int, str],
    path: Path,
) -> None:
    """Images, each with the name of its class and the names of the predicted classes, best first.

    Args:
        test: labeled images.
        chosen: numbers of the images to draw.
        ranks: [n], for each image of `test` the rank of its class, from 0.
        predicted: [m, k], for each chosen image the labels of the classes that come first.
        names: names of the classes, by label.
        path: of the picture.
    """
    figure, axes = _sheet(2 * EXAMPLE_WIDTH, EXAMPLES + TITLE_HEIGHT)
    titles = "The right name comes first", "It does not; in brackets, where it comes"
    for left, title, right in zip((0, EXAMPLE_WIDTH), titles, (True, False), strict=True):
        _write(axes, left + EXAMPLE_WIDTH / 2, TITLE_HEIGHT / 2, title, ha="center", fontsize=11)
        rows = [n for n, image in enumerate(chosen) if (ranks[image] == 0) == right]
        for top, n in enumerate(rows[:EXAMPLES]):
            label, rank = int(test.labels[chosen[n]]), int(ranks[chosen[n]]) + 1
            _draw(axes, left, top + TITLE_HEIGHT, test.images[chosen[n]], *QUERY)
            name = shortened(drawable(names[label], "bold"))
            lines = [(f"{name}{'' if right else f' ({rank})'}", "black", "bold")]
            for other in predicted[n].tolist():
                color = (RIGHT if other == label else WRONG)[0]
                lines.append((shortened(drawable(names[other])), color, "normal"))
            for line, (text, color, weight) in enumerate(lines):
                height = top + TITLE_HEIGHT + (line + 0.5) / len(lines)
                _write(axes, left + 1.05, height, text, color=color, weight=weight, fontsize=6.5)
    _save(figure, path)


def _of_different_classes(queries: list[int], labels: Int[np.ndarray, " n"], count: int) -> list[int]:
    """The first queries of `count` different classes."""
    first_of_class: dict[int, int] = {}
    for query in queries:
        first_of_class.setdefault(int(labels[query]), query)
    return list(first_of_class.values())[:count]


def _sheet(width: float, height: float) -> tuple[Figure, Axes]:
    """Axes that fill a figure, in units of an image, from the upper left: one for each image takes long."""
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0), autoscale_on=False)
    axes.set_axis_off()
    return figure, axes


def _write(axes: Axes, x: float, y: float, text: str, **style: Any) -> None:
    """Text, vertically centered, in the fonts that `drawable` looks at; `$` is a character like others."""
    axes.text(x, y, text, va="center", parse_math=False, family=FONTS, **style)


def _draw(axes: Axes, left: float, top: float, image: np.ndarray, color: str, line: object) -> None:
    """An image in its frame, in the middle of a square of side 1."""
    height, width = image.shape[0], image.shape[1]
    half_width, half_height = (0.46 * side / max(height, width) for side in (width, height))
    x, y = left + 0.5, top + 0.5
    extent = x - half_width, x + half_width, y + half_height, y - half_height
    axes.imshow(image.squeeze(), cmap="gray", vmin=0, vmax=255, extent=extent, aspect="auto")
    frame = Rectangle((extent[0], extent[3]), 2 * half_width, 2 * half_height, fill=False)
    frame.set(edgecolor=color, linestyle=line, linewidth=3, capstyle="butt")
    axes.add_patch(frame)


def _save(figure: Figure, path: Path) -> None:
    with replacing(path) as part:
        figure.savefig(part, dpi=120)
