"""Icons: the fields of folder, on the icons that `python -m experiments.icons --prepare` makes."""

from ml_collections import ConfigDict

from experiments.configs import folder


def get_config(variant: str = "tuned") -> ConfigDict:
    """Variants as in folder.py."""
    config = folder.get_config(variant)
    config.data.root = "data/icons"
    return config
