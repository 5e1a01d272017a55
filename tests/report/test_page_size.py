"""The size of a page whose images do not compress."""

import numpy as np
import pytest

from pddm_jax.evaluate.metrics import query_measures
from pddm_jax.report.retrieval import retrieval_fields
from tests.report.pages import check_references
from tests.report.runs import write
from tests.report.samples import embedded


class Noise:
    """Images of 64 x 64 pixels that are made when they are indexed."""

    def __init__(self, seeds):
        self.seeds = seeds

    def __len__(self):
        return len(self.seeds)

    def __getitem__(self, index):
        rng = np.random.default_rng(self.seeds[index])
        return rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)

    def take(self, indices):
        return Noise(self.seeds[indices])


def part(seed, n):
    """Images of 10 a class; the embeddings are random unit vectors, around centers of the classes."""
    rng, labels = np.random.default_rng(seed), np.arange(n) // 10
    x = rng.normal(size=(n // 10, 16))[labels] + 0.5 * rng.normal(size=(n, 16))
    return embedded(
        x / np.linalg.norm(x, axis=1, keepdims=True), labels, Noise(20_000 * seed + np.arange(n))
    )


@pytest.mark.long
def test_a_page_of_many_images_has_at_most_10_mb(tmp_path):
    test, train = part(0, 20_000), part(1, 5000)
    measures = query_measures(test.embeddings, test.images.labels, 32)
    page = write(tmp_path / "report.html", retrieval_fields(test, measures, train, None, 0), pddm=False)
    check_references(page)
    size = (tmp_path / "report.html").stat().st_size
    assert 6_000_000 < size <= 10_000_000
