"""The pictures that a run leaves: Recall@1 against steps, and some queries with what they found."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pddm_jax.data import Images
from pddm_jax.data.streams import GALLERY, stream
from pddm_jax.files import replacing
from pddm_jax.metrics import Ranking
from pddm_jax.writer import Row

Curve = list[tuple[str, int, float]]  # whose Recall@1, at which step, in per cent

RIGHT, WRONG, QUERY = ("#2e8b57", "-"), ("#c0392b", (0, (2, 1))), ("#555555", "-")
NEIGHBOURS = 8
TYPICAL, FAILURES = 6, 4
NAMED = 7


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


def gallery(test: Images, ranking: Ranking, seed: int, path: Path) -> None:
    """Typical queries, drawn by seed, and the worst failures, each with its nearest neighbours.

    A failure is the worse, the later the first image of its class comes.
    """
    findable = ranking.relevant > 0
    first = np.where(ranking.match.any(axis=1), ranking.match.argmax(axis=1), ranking.match.shape[1])
    by_badness = np.argsort(-np.where(findable, first, -1), kind="stable")
    worst = [int(q) for q in by_badness if first[q] > 0 and findable[q]]
    shown = [int(q) for q in stream(seed, GALLERY).permutation(len(first))[:TYPICAL]]
    failures = [q for q in _spread(worst, test.labels, FAILURES) if q not in shown]
    width = 1 + min(NEIGHBOURS, ranking.neighbours.shape[1])
    figure = Figure(figsize=(width, len(shown) + len(failures) + 0.9), layout="constrained")
    parts = figure.subfigures(2, squeeze=False, height_ratios=[len(shown), max(len(failures), 0.01)])
    titles = (
        "Queries (left) and their nearest neighbours: same class green, other class red and dashed",
        "Worst failures: the first of the class comes latest",
    )
    for part, title, queries in zip(parts[:, 0], titles, (shown, failures), strict=True):
        if queries:
            part.suptitle(title, fontsize=10)
            grid = part.subplots(len(queries), width, squeeze=False)
            for row, query in zip(grid, queries, strict=True):
                _draw(row[0], test.images[query], *QUERY)
                found = zip(row[1:], ranking.neighbours[query], ranking.match[query], strict=False)
                for axes, index, match in found:
                    _draw(axes, test.images[index], *(RIGHT if match else WRONG))
    _save(figure, path)


def successes_and_failures(places: np.ndarray, labels: np.ndarray, seed: int) -> list[int]:
    """Images whose class comes first, then as many whose does not, of different classes, drawn by seed."""
    order = stream(seed, GALLERY).permutation(len(places))
    first = places[order] == 0
    return [n for some in (order[first], order[~first]) for n in _spread(some.tolist(), labels, NAMED)]


def named(
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
    figure = Figure(figsize=(13, 1.45 * NAMED + 0.5), layout="constrained")
    halves = figure.subfigures(1, 2, squeeze=False)[0]
    titles = "The right name comes first", "It does not; in brackets, where it comes"
    for half, title, right in zip(halves, titles, (True, False), strict=True):
        half.suptitle(title, fontsize=11)
        grid = half.subplots(NAMED, 2, width_ratios=[1, 4.2])
        for axes in grid.flat:
            axes.set_axis_off()
        rows = [n for n, image in enumerate(shown) if (places[image] == 0) == right]
        for (drawing, text), n in zip(grid, rows, strict=False):
            label, place = int(test.labels[shown[n]]), int(places[shown[n]]) + 1
            drawing.set_axis_on()
            _draw(drawing, test.images[shown[n]], *QUERY)
            _write(text, 0, f"{_short(names[label])}{'' if right else f' ({place})'}", "black", "bold")
            for line, other in enumerate(found[n].tolist(), 1):
                _write(text, line, _short(names[other]), (RIGHT if other == label else WRONG)[0], "normal")
    _save(figure, path)


def _write(axes: Axes, line: int, text: str, colour: str, weight: str) -> None:
    height, style = 1 - line / 5.5, {"color": colour, "weight": weight}
    axes.text(0, height, text, style, transform=axes.transAxes, fontsize=8, va="center", parse_math=False)


def _short(name: str) -> str:
    """So much of a name as fits beside an image."""
    return name if len(name) <= 60 else f"{name[:57]}..."


def _spread(queries: list[int], labels: np.ndarray, count: int) -> list[int]:
    """The first queries of `count` different classes."""
    first_of_class: dict[int, int] = {}
    for query in queries:
        first_of_class.setdefault(int(labels[query]), query)
    return list(first_of_class.values())[:count]


def _draw(axes: Axes, image: np.ndarray, colour: str, line: object) -> None:
    axes.imshow(image.squeeze(), cmap="gray", vmin=0, vmax=255)
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set(color=colour, linestyle=line, linewidth=3, capstyle="butt")


def _save(figure: Figure, path: Path) -> None:
    with replacing(path) as part:
        figure.savefig(part, dpi=120)
