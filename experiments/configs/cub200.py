"""CUB-200-2011: birds of unseen species. The paper reports Recall@1 58.3.

    python -m experiments.cub200 --config.data.root=DIR
    python -m experiments.cub200 --config=experiments/configs/cub200.py:lite0 --config.data.root=DIR

Data: --config.data.root=DIR with CUB_200_2011/, as its archive unpacks.
Classes 1 to 100 train (5,864 images), 101 to 200 are searched (5,924). Whole images, or
--config.data.crop=bbox; which of the two the paper's figure is for, is not known.

Run so far on small made-up images in this layout only, never on the data itself.
"""

from ml_collections import ConfigDict

from experiments.configs import photos


def get_config(variant: str = "tuned") -> ConfigDict:
    """The fields of photographs; variants as there."""
    return photos.get_config(variant, "cub200")
