"""PDDM units with random parameters."""

import jax.numpy as jnp
import numpy as np


def random_unit(width):
    """The parameters of a PDDM unit of embeddings of a width.

    It is wide enough that hardly a pair has no active unit: such scores tie in exact arithmetic alone.
    """
    shapes = {"difference": (width, 8), "mean": (width, 8), "joint": (16, 16), "score": (16, 1)}
    rng = np.random.default_rng(0)
    return {
        layer: {
            "kernel": jnp.asarray(rng.normal(size=shape), jnp.float32),
            "bias": jnp.asarray(rng.normal(size=shape[1:]) + 0.5, jnp.float32),
        }
        for layer, shape in shapes.items()
    }
