"""Fashion-MNIST by unseen class: five classes train, five are searched.

    python -m experiments.fashion_mnist

Needs the four IDX files: `apt-get install dataset-fashion-mnist`, or --config.data.root=DIR.
"""

from ml_collections import ConfigDict

from pddm_jax.config import defaults


def get_config(variant: str = "tuned") -> ConfigDict:
    """The base fields, on Fashion-MNIST: batches of its five training classes."""
    config = defaults.get_config(variant)
    config.data.update(name="fashion_mnist", classes_per_batch=5, images_per_class=16, shift=2)
    config.train.update(steps=600, eval_every=100, checkpoint_every=200)
    return config
