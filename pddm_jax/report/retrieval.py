"""The sections of a report on retrieval: queries, pairs, map, recall by class, likely label errors."""

from typing import Any

import numpy as np

from pddm_jax.evaluate.metrics import QueryMeasures
from pddm_jax.report import charts, label_errors, pairs
from pddm_jax.report.gallery import EXAMPLES, example_queries
from pddm_jax.report.projection import project
from pddm_jax.report.sample import Embedded, sampled, whole_classes
from pddm_jax.report.thumbnails import Thumbnails
from pddm_jax.types import Params

SEARCHED, COMPARED, PLOTTED = 5000, 1000, 2000
"""Images of each split that are searched for label errors; of which all pairs are compared; of the map."""

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
    hardest, points = _pairs(sampled(test, COMPARED, seed), unit, seed, thumbnails)
    return {
        **_classes(test, measures),
        **_suspects({"test": sampled(test, SEARCHED, seed), "training": train}, thumbnails),
        **hardest,
        **_gallery(test, measures, unit, seed, thumbnails),
        "charts": {"map": _map(test, measures, seed)} | points,
        "map_note": (
            f"At most {PLOTTED} test images, of classes drawn by seed. Drag the plot to move it; hold Alt "
            "and turn the wheel to zoom. The list chooses a class to show alone."
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
                urls[image] = thumbnails.url(test.images.images[image])
    answerable = measures.relevant > 0
    right = int((measures.first[answerable] == 0).sum())
    return {
        "gallery": gallery,
        "thumbnails": urls,
        "has_score": unit is not None,
        "gallery_note": (
            f"Drawn by seed: at most {EXAMPLES} of {right} queries with a right first neighbor, and of "
            f"{int(answerable.sum()) - right} with a wrong one. Neighbors are the nearest other test "
            "images by Euclidean distance."
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
        f"Among all pairs of {found['images']} test images, of classes drawn by seed. In each list a "
        "pair of classes appears once."
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
        return {"name": data.name(index), "url": thumbnails.url(data.images.images[index])}

    return image(pair["first"]), image(pair["second"]), note


def _map(test: Embedded, measures: QueryMeasures, seed: int) -> charts.Chart:
    chosen = whole_classes(test.images.labels, PLOTTED, seed)
    sample, thumbnails = sampled(test, PLOTTED, seed), Thumbnails(MAP_SIDE, MOST_MAP_BYTES)
    points, shares = project(sample.embeddings)
    right = (measures.first[chosen] == 0).tolist()
    urls = [thumbnails.url(sample.images.images[n]) for n in range(len(chosen))]
    return charts.embedding_map(sample, points, shares, right, urls)


def _classes(test: Embedded, measures: QueryMeasures) -> Fields:
    """A table of Recall@1 by class, worst first."""
    labels, answerable = test.images.labels, measures.relevant > 0
    rows = []
    for label in np.unique(labels[answerable]).tolist():
        of = answerable & (labels == label)
        recall, precision = (measures.first[of] == 0).mean(), measures.map_at_r[of].mean()
        rows.append((recall, precision, test.images.class_names[label], int(of.sum())))
    rows.sort(key=lambda row: row[:2])
    cells = [[name, f"{100 * r:.1f}", f"{100 * p:.1f}", n] for r, p, name, n in rows[:WORST_CLASSES]]
    head = ["class", "Recall@1 (%)", "MAP@R (%)", "queries"]
    caption = f"{len(cells)} of {len(rows)} classes, worst first"
    return {
        "class_table": (caption, head, cells),
        "classes_note": "Rankings by Euclidean distance, each test image as a query.",
    }


def _suspects(splits: dict[str, Embedded], thumbnails: Thumbnails) -> Fields:
    """Likely label errors and duplicates in samples of the test images and of the training images."""
    errors, copies = [], []
    for split, data in splits.items():
        for entry in label_errors.label_errors(data):
            pair = {"first": entry["image"], "second": entry["nearest"]}
            suggested = data.images.class_names[entry["suggested"]]
            note = f"{split}: {entry['votes']} of {label_errors.NEIGHBORS} neighbors are of {suggested}"
            errors.append(_shown(data, pair, note, thumbnails))
        for entry in label_errors.duplicates(data):
            note = f"{split}: correlation of grey values {entry['correlation']:.3f}"
            copies.append(_shown(data, entry, note, thumbnails))
    searched = " and ".join(f"{len(data.embeddings)} {split} images" for split, data in splits.items())
    return {
        "label_errors": errors,
        "duplicates": copies,
        "labels_note": (
            f"In {searched}: images (left) of which at least 3 of 5 nearest neighbors have one other class "
            "(right: the nearest), and none their own; most suspicious first."
        ),
        "duplicates_note": (
            f"In {searched}: among the {label_errors.CANDIDATES} nearest pairs of different classes, those "
            f"that look alike: as small grey images they correlate by {label_errors.LEAST_CORRELATION} or "
            "more."
        ),
    }
