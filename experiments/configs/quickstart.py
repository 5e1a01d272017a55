"""Glyphs: find an unseen character in another typeface.

    python -m experiments.quickstart

Needs no data: the images are rendered from fonts that are installed with the library.
"""

from ml_collections import ConfigDict

from pddm_jax.config import defaults


def get_config(variant: str = "tuned") -> ConfigDict:
    """The base fields, on glyphs."""
    config = defaults.get_config(variant)
    config.data.name = "glyphs"
    config.train.steps = 750  # within three minutes on two slow cores; 1,500 gain three points
    return config
