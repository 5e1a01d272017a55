"""Embeddings of the images that are evaluated during training are computed once for each step."""

from types import SimpleNamespace

import numpy as np

from pddm_jax.data import Images
from pddm_jax.training import setup


def test_the_evaluated_images_are_embedded_once_a_step(monkeypatch):
    calls = []

    def forward(state, batches):
        calls.append(state.step)
        return np.full((4, 2), float(state.step))

    monkeypatch.setattr(setup, "make_embed", lambda *_: forward)
    monkeypatch.setattr(setup.data, "ordered_batches", lambda *_: iter(()))
    images = Images(np.zeros((3, 2, 2, 1), np.uint8), np.arange(3), ("a", "b", "c"))
    training = SimpleNamespace(
        recipe=SimpleNamespace(network=None, transform=None),
        mesh=SimpleNamespace(size=1),
        config=SimpleNamespace(data=SimpleNamespace(workers=0)),
        evaluated=images,
    )
    embed = setup.Embedder(training)
    first, second = SimpleNamespace(step=1), SimpleNamespace(step=2)
    found = embed.evaluated(first)
    np.testing.assert_array_equal(found, np.ones((3, 2)))
    assert embed.evaluated(first) is found
    assert calls == [1]
    embed(first, images)  # given as any other images, they are embedded
    assert calls == [1, 1]
    np.testing.assert_array_equal(embed.evaluated(second), np.full((3, 2), 2.0))
    assert calls == [1, 1, 2]
