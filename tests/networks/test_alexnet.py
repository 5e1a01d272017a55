"""AlexNet: the smallest images that it takes."""

import jax
import jax.numpy as jnp
import pytest

from pddm_jax.networks.alexnet import AlexNet


def test_alexnet_refuses_images_that_its_pools_would_empty():
    shapes = jax.eval_shape(AlexNet().init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))

    def run(*size):
        return jax.eval_shape(AlexNet().apply, shapes, jnp.zeros((1, *size, 3)))

    assert run(63, 63).shape == (1, 4096)
    with pytest.raises(ValueError, match=r"at least 63 pixels, got \(62, 63\)"):
        run(62, 63)
