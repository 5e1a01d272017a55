"""The sections of a report on retrieval: queries, pairs, map, recall by class, likely label errors."""

from typing import Any

import numpy as np

from pddm_jax.evaluate.metrics import QueryMeasures
from pddm_jax.report import charts, label_errors, pairs
from pddm_jax.report.gallery import EXAMPLES, example_queries
from pddm_jax.report.projection import project
from pddm_jax.report.sample import Embedded, sample_classes, sampled
from pddm_jax.report.thumbnails import Thumbnails
from pddm_jax.types import Params

MOST_SEARCHED = 5000
"""Images of each split that are searched for label errors and duplicates."""

MOST_COMPARED = 1000
"""Test images of which all pairs are compared."""

MOST_PLOTTED = 2000
"""Points of the map."""

MOST_SUSPECTS = 24
"""Entries of each list of likely label errors and duplicates."""

SIDE, MOST_BYTES = 64, 5_000_000
"""Of thumbnails: pixels, and bytes of all of them."""

MAP_SIDE, MOST_MAP_BYTES = 28, 1_500_000
"""Of thumbnails of the map: pixels, and bytes of all of them."""

WORST_CLASSES = 200

Fields = dict[str, Any]


def retrieval_fields(
    test: Embedded, measures: QueryMeasures, train: Embedded, unit: Params | None, seed: int
) -> Fields:
    """The fields of `run.html` that show the test images and their embeddings.

    Args:
        test: the test images.
        measures: of the ranking of all test images by distance.
        train: a sample of the training images.
        unit: parameters of the PDDM unit; None: it was not trained.
        seed: of the run.
    """
    thumbnails = Thumbnails(SIDE, MOST_BYTES)
    hardest, points = _pairs(sampled(test, MOST_COMPARED, seed), unit, seed, thumbnails)
    return {
        **_classes(test, measures),
        **_suspects({"test": sampled(test, MOST_SEARCHED, seed), "training": train}, thumbnails),
        **hardest,
        **_gallery(test, measures, unit, seed, thumbnails),
        "charts": {"map": _map(test, measures, seed)} | points,
        "map_note": (
            f"At most {MOST_PLOTTED:,} test images, drawn by seed. Drag the plot to move it; hold Alt and "
            "turn the wheel to zoom. The list below chooses a class to show alone."
        ),
    }


def _gallery(
    test: Embedded, measures: QueryMeasures, unit: Params | None, seed: int, thumbnails: Thumbnails
) -> Fields:
    """Example queries with their neighbors, and thumbnails by the index of the image."""
    gallery = example_queries(test, measures, unit, seed)
    urls: dict[int, str | None] = {}
    for query in gallery:
        for entry in (query, *query["neighbors"]):
            image = entry["image"]
            entry["name"] = test.name(image)
            if image not in urls:
                urls[image] = thumbnails.url(test.images.images, image)
    answerable = measures.relevant > 0
    right = int((measures.first[answerable] == 0).sum())
    wrong = int(answerable.sum()) - right
    return {
        "gallery": gallery,
        "thumbnails": urls,
        "has_score": unit is not None,
        "gallery_note": (
            f"{min(EXAMPLES, right)} of {right:,} queries whose nearest neighbor has the same class, and "
            f"{min(EXAMPLES, wrong)} of {wrong:,} whose nearest neighbor has another class, drawn by seed. "
            "The neighbors are the nearest other test images by Euclidean distance."
        ),
    }


def _pairs(
    sample: Embedded, unit: Params | None, seed: int, thumbnails: Thumbnails
) -> tuple[Fields, Fields]:
    """The hardest pairs; and the chart of scores, if there is a unit."""
    found = pairs.hardest_pairs(sample, unit, seed)
    headings = {"euclidean": "By Euclidean distance", "pddm": "By PDDM score"}
    titles = {
        "negative": "Negative pairs: different classes, most similar first",
        "positive": "Positive pairs: the same class, least similar first",
    }
    lists = [
        (
            titles[kind],
            [
                (headings[by], [_shown(sample, pair, _numbers(pair), thumbnails) for pair in of])
                for by, of in columns.items()
            ],
        )
        for kind, columns in found["lists"].items()
    ]
    note = (
        f"All pairs of {found['images']:,} test images, drawn by seed, are compared. Each list has at most "
        "one pair of images for any two classes, or for any one class."
    )
    chart = {"scores": charts.scores_against_distances(found["points"])} if found["points"] else {}
    scores_note = f"Pairs of the same images, drawn by seed: at most {pairs.POINTS} of each kind."
    return {"pair_lists": lists, "pairs_note": note, "scores_note": scores_note}, chart


def _numbers(pair: Fields) -> str:
    score = "" if pair["score"] is None else f", score {pair['score']:.3f}"
    return f"distance {pair['distance']:.3f}{score}"


def _shown(data: Embedded, pair: Fields, note: str, thumbnails: Thumbnails) -> tuple[Fields, Fields, str]:
    """Two images with their classes and thumbnails, and a note."""

    def image(index: int) -> Fields:
        return {"name": data.name(index), "url": thumbnails.url(data.images.images, index)}

    return image(pair["first"]), image(pair["second"]), note


def _map(test: Embedded, measures: QueryMeasures, seed: int) -> charts.Chart:
    chosen = sample_classes(test.images.labels, MOST_PLOTTED, seed)
    sample, thumbnails = test.take(chosen), Thumbnails(MAP_SIDE, MOST_MAP_BYTES)
    points, shares = project(sample.embeddings)
    right = (measures.first[chosen] == 0).tolist()
    urls = [thumbnails.url(sample.images.images, n) for n in range(len(chosen))]
    return charts.embedding_map(sample, points, shares, first_is_right=right, urls=urls)


def _classes(test: Embedded, measures: QueryMeasures) -> Fields:
    """A table of Recall@1 by class, worst first."""
    answerable = measures.relevant > 0
    classes, codes, counts = np.unique(
        test.images.labels[answerable], return_inverse=True, return_counts=True
    )
    recalls = np.bincount(codes, measures.first[answerable] == 0) / counts
    precisions = np.bincount(codes, measures.map_at_r[answerable]) / counts
    worst = np.lexsort((precisions, recalls))[:WORST_CLASSES]
    cells = [
        [
            test.images.class_names[int(classes[n])],
            f"{100 * recalls[n]:.1f}",
            f"{100 * precisions[n]:.1f}",
            int(counts[n]),
        ]
        for n in worst
    ]
    head = ["class", "Recall@1 (%)", "MAP@R (%)", "queries"]
    caption = f"{len(cells):,} of {len(classes):,} classes, worst first"
    return {
        "class_table": (caption, head, cells),
        "classes_note": "Rankings by Euclidean distance, each test image as a query.",
    }


def _suspects(splits: dict[str, Embedded], thumbnails: Thumbnails) -> Fields:
    """Likely label errors and duplicates in samples of the test images and of the training images."""
    errors, copies = [], []
    for split, data in splits.items():
        searched = f"{len(data.embeddings):,} {split} images"
        entries = []
        found = label_errors.label_errors(data)
        for entry in found[:MOST_SUSPECTS]:
            pair = {"first": entry["image"], "second": entry["nearest"]}
            suggested = data.images.class_names[entry["suggested"]]
            note = f"{entry['votes']} of {label_errors.NEIGHBORS} nearest neighbors: {suggested}"
            entries.append(_shown(data, pair, note, thumbnails))
        errors.append((f"{len(entries)} of {len(found)} found in {searched}", entries))
        alike = label_errors.duplicates(data)
        entries = [
            _shown(data, pair, f"correlation {pair['correlation']:.3f}", thumbnails)
            for pair in alike[:MOST_SUSPECTS]
        ]
        copies.append((f"{len(entries)} of {len(alike)} found in {searched}", entries))
    return {
        "label_errors": errors,
        "duplicates": copies,
        "labels_note": (
            f"Left: an image with none of its {label_errors.NEIGHBORS} nearest neighbors in its own class, "
            f"and at least {label_errors.NEIGHBORS // 2 + 1} in one other class. Right: its nearest "
            "neighbor in that class. Most suspicious first."
        ),
        "duplicates_note": (
            "Two images of different classes whose grey values at "
            f"{label_errors.SIDE} x {label_errors.SIDE} pixels have a Pearson correlation of at least "
            f"{label_errors.LEAST_CORRELATION}: the most similar pair of each two classes, among the "
            f"{label_errors.CANDIDATES} nearest pairs of embeddings."
        ),
    }
