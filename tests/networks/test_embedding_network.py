"""The head of every network, and refused networks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pddm_jax.networks import make_network


def test_a_network_makes_embeddings_of_unit_length():
    network = make_network("small_cnn", 12)
    images = np.random.default_rng(0).integers(0, 256, (6, 16, 16, 1), dtype=np.uint8)

    @jax.jit
    def forward(images):
        variables = network.init(jax.random.key(0), images)
        trained, updated = network.apply(variables, images, train=True, mutable=["batch_stats"])
        return variables, updated, trained, network.apply(variables, images)

    variables, updated, *found = forward(images)
    for x in found:
        assert x.shape == (6, 12)
        assert x.dtype == jnp.float32
        np.testing.assert_allclose(np.linalg.norm(x, axis=1), 1, atol=1e-5)
    assert np.abs(found[0] - found[1]).max() > 0.01
    different = jax.tree.map(
        lambda a, b: bool((a != b).any()), variables["batch_stats"], updated["batch_stats"]
    )
    assert all(jax.tree.leaves(different))


def test_networks_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match=r"network\.dtype.*'bfloat16'.*got 'float16'"):
        make_network("small_cnn", 8, dtype="float16")
    with pytest.raises(ValueError, match=r"network\.name.*'small_cnn'.*got 'nope'"):
        make_network("nope", 8)
    with pytest.raises(ValueError, match=r"embedding_dim must be 0 or more, got -1"):
        make_network("small_cnn", -1)
    with pytest.raises(ValueError, match=r"network\.microbatches must be 1 or more, got 0"):
        make_network("small_cnn", 8, microbatches=0)
