"""Glyphs: find an unseen character in another typeface.

    python -m experiments.quickstart

Needs no data: the images are rendered from fonts that are installed with the library.
"""

from ml_collections import ConfigDict

from experiments.configs import base


def get_config(variant: str = "tuned") -> ConfigDict:
    """The base fields, on glyphs."""
    config = base.get_config(variant)
    config.data.name = "glyphs"
    return config
