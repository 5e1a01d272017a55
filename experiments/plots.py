"""The pictures that a run leaves: Recall@1 against steps, and some queries with what they found."""

from pathlib import Path

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from pddm_jax.data import Images
from pddm_jax.data.streams import GALLERY, stream
from pddm_jax.evaluate.metrics import QueryMeasures, nearest_others
from pddm_jax.system.files import replacing
from pddm_jax.train.writer import Row

Curve = list[tuple[str, int, float]]  # whose Recall@1, at which step, in per cent

RIGHT, WRONG, QUERY = ("#2e8b57", "-"), ("#c0392b", (0, (2, 1))), ("#555555", "-")
NEIGHBOURS = 8
TYPICAL, FAILURES = 6, 4
NAMED = 7
HEAD = 0.45  # of a part, in units of an image
BESIDE = 5.5  # images that one with the names beside it is wide


def curve(rows: list[Row]) -> Curve:
    """Recall@1 by step, of test classes or of the validation classes that are watched instead."""
    names = {"recall_at_1": "unseen", "validation_recall_at_1": "validation"}
    return [
        (classes, row["step"], 100 * row[name])
        for row in rows
        for name, classes in names.items()
        if name in row
    ]


def convergence(curves: dict[str, list[Curve]], title: str, path: Path) -> None:
    """Recall@1 against step: a line a name, the mean of its runs in a band of their deviation."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for name, runs in curves.items():
        classes, steps, _ = zip(*runs[0], strict=True)
        recalls = np.array([[recall for *_, recall in run] for run in runs])
        mean = recalls.mean(axis=0)
        deviation = recalls.std(axis=0, ddof=1) if len(runs) > 1 else 0
        (line,) = axes.plot(steps, mean, marker="o", markersize=3.5, label=name)
        axes.fill_between(steps, mean - deviation, mean + deviation, color=line.get_color(), alpha=0.15)
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
    """Typical queries, drawn by seed, and the worst failures, each with its nearest neighbours.

    A failure is the worse, the later the first image of its class comes.
    """
    answerable, first = measures.relevant > 0, measures.first
    by_badness = np.argsort(-np.where(answerable, first, -1), kind="stable")
    worst = [int(q) for q in by_badness if first[q] > 0 and answerable[q]]
    shown = [int(q) for q in stream(seed, GALLERY).permutation(len(first))[:TYPICAL]]
    failures = [q for q in _spread(worst, test.labels, FAILURES) if q not in shown]
    columns = 1 + min(NEIGHBOURS, len(first) - 1)
    drawn = np.array(shown + failures)
    neighbours = dict(zip(drawn.tolist(), nearest_others(embeddings, drawn, columns - 1), strict=True))
    parts = {
        "Queries (left) and their nearest neighbours: same class green, other class red and dashed": shown,
        "Worst failures: the first of the class comes latest": failures,
    }
    parts = {title: queries for title, queries in parts.items() if queries}
    figure, axes = _sheet(columns, len(shown) + len(failures) + HEAD * len(parts))
    top = 0.0
    for title, queries in parts.items():
        axes.text(columns / 2, top + HEAD / 2, title, ha="center", va="center", fontsize=10)
        top += HEAD
        for query in queries:
            _draw(axes, 0, top, test.images[query], *QUERY)
            for column, index in enumerate(neighbours[query].tolist(), 1):
                match = test.labels[index] == test.labels[query]
                _draw(axes, column, top, test.images[index], *(RIGHT if match else WRONG))
            top += 1
    _save(figure, path)


def successes_and_failures(places: np.ndarray, labels: np.ndarray, seed: int) -> list[int]:
    """Images whose class comes first, then as many whose does not, of different classes, drawn by seed."""
    order = stream(seed, GALLERY).permutation(len(places))
    first = places[order] == 0
    return [n for some in (order[first], order[~first]) for n in _spread(some.tolist(), labels, NAMED)]


def zero_shot_examples(
    test: Images,
    shown: list[int],
    places: np.ndarray,
    found: np.ndarray,
    names: dict[int, str],
    path: Path,
) -> None:
    """Images, each with the name of its class and the names that it is given, best first.

    Args:
        test: of which they are.
        shown: their numbers.
        places: for all of `test`, where the right class comes, from 0.
        found: for those shown, the labels of the classes that come first.
        names: of the classes.
        path: of the picture.
    """
    figure, axes = _sheet(2 * BESIDE, NAMED + HEAD)
    titles = "The right name comes first", "It does not; in brackets, where it comes"
    for left, title, right in zip((0, BESIDE), titles, (True, False), strict=True):
        axes.text(left + BESIDE / 2, HEAD / 2, title, ha="center", va="center", fontsize=11)
        rows = [n for n, image in enumerate(shown) if (places[image] == 0) == right]
        for top, n in enumerate(rows[:NAMED]):
            label, place = int(test.labels[shown[n]]), int(places[shown[n]]) + 1
            _draw(axes, left, top + HEAD, test.images[shown[n]], *QUERY)
            lines = [(f"{_short(names[label])}{'' if right else f' ({place})'}", "black", "bold")]
            for other in found[n].tolist():
                lines.append((_short(names[other]), (RIGHT if other == label else WRONG)[0], "normal"))
            for line, (text, colour, weight) in enumerate(lines):
                height, style = top + HEAD + (line + 0.5) / len(lines), {"color": colour, "weight": weight}
                axes.text(left + 1.05, height, text, style, fontsize=6.5, va="center", parse_math=False)
    _save(figure, path)


def _short(name: str) -> str:
    """So much of a name as fits beside an image."""
    return name if len(name) <= 60 else f"{name[:57]}..."


def _spread(queries: list[int], labels: np.ndarray, count: int) -> list[int]:
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


def _draw(axes: Axes, left: float, top: float, image: np.ndarray, colour: str, line: object) -> None:
    """An image in its frame, in the middle of a square of side 1."""
    height, width = image.shape[0], image.shape[1]
    half_width, half_height = (0.46 * side / max(height, width) for side in (width, height))
    x, y = left + 0.5, top + 0.5
    extent = x - half_width, x + half_width, y + half_height, y - half_height
    axes.imshow(image.squeeze(), cmap="gray", vmin=0, vmax=255, extent=extent, aspect="auto")
    frame = Rectangle((extent[0], extent[3]), 2 * half_width, 2 * half_height, fill=False)
    frame.set(edgecolor=colour, linestyle=line, linewidth=3, capstyle="butt")
    axes.add_patch(frame)


def _save(figure: Figure, path: Path) -> None:
    with replacing(path) as part:
        figure.savefig(part, dpi=120)
