"""Label errors against loops of their rule."""

import numpy as np
import pytest

from pddm_jax.report.label_errors import label_errors
from tests.report.samples import distances_from, embedded, grid, nearest, normal

PLANTED = {7: 4, 33: 5, 91: 0}  # image: the label that it is given; its class is its remainder by 6


def clusters(spread=0.05):
    """20 images around each of 6 distant centers."""
    return 5 * np.eye(6, dtype=np.float32)[np.arange(120) % 6] + spread * normal(0, 120, 6)


def loops_label_errors(x, labels):
    """(image, suggested class, votes, nearest image of it), by falling margin of distances."""
    found = []
    for image in range(len(x)):
        order, distances = nearest(x, image), distances_from(x, image)
        own = [n for n in order if labels[n] == labels[image]]
        voters = [int(labels[n]) for n in order[:5]]
        suggested = max(voters, key=voters.count) if voters else None
        votes = voters.count(suggested)
        if len(voters) < 5 or votes < 3 or int(labels[image]) in voters or not own:
            continue
        other = next(n for n in order if labels[n] == suggested)
        found.append((distances[own[0]] - distances[other], (image, suggested, votes, other)))
    return [entry for _, entry in sorted(found, key=lambda pair: (-pair[0], pair[1]))]


def entries(found):
    return [(entry["image"], entry["suggested"], entry["votes"], entry["nearest"]) for entry in found]


def test_planted_label_errors_come_first():
    x, labels = clusters(), np.arange(120) % 6
    assert label_errors(embedded(x, labels)) == []
    for image, label in PLANTED.items():
        labels[image] = label
    found = label_errors(embedded(x, labels))
    assert {entry["image"]: entry["suggested"] for entry in found} == {n: n % 6 for n in PLANTED}
    assert entries(found) == loops_label_errors(x, labels)
    spread = clusters(spread=2.2)  # now other images lie among those of another class too
    found = entries(label_errors(embedded(spread, labels)))
    assert len(found) > len(PLANTED)
    assert found == loops_label_errors(spread, labels)


@pytest.mark.parametrize(("classes", "n"), [(2, 40), (2, 160), (3, 120), (6, 200), (40, 60)])
def test_on_overlapping_classes_they_obey_the_rule(classes, n):
    x, labels = normal(classes, n, 2), np.random.default_rng(n).integers(0, classes, n) * 7 - 5
    found = entries(label_errors(embedded(x, labels)))
    assert found == loops_label_errors(x, labels)
    assert found or classes == 40


def test_an_image_alone_in_its_class_is_not_listed():
    """No image of its own class is there to compare with."""
    labels = np.arange(120) % 6
    labels[33] = 99
    assert label_errors(embedded(clusters(), labels)) == []


def test_where_distances_tie():
    x, labels = grid(1, 60), np.random.default_rng(1).integers(0, 3, 60)
    found = entries(label_errors(embedded(x, labels)))
    assert sorted(found) == sorted(loops_label_errors(x, labels))


@pytest.mark.parametrize("labels", [[0], [0, 1], [0, 0, 1, 1, 1], [0] * 9, [*range(9)]])
def test_too_few_images_or_classes(labels):
    assert label_errors(embedded(normal(2, len(labels)), labels)) == []
