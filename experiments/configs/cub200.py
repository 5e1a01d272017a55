"""CUB-200-2011: birds of unseen species. The paper reports Recall@1 58.3.

    python -m experiments.cub200 --config.data.root=DIR
    python -m experiments.cub200 --config=experiments/configs/cub200.py:paper --config.data.root=DIR \
        --config.network.pretrained=googlenet-1378be20.pth

Data: --config.data.root=DIR with CUB_200_2011/, as its archive unpacks.
Classes 1 to 100 train (5,864 images), 101 to 200 are searched (5,924). Whole images, or
--config.data.crop=bbox; which of the two the paper's figure is for, is not known.

Its layouts are tested on small made-up images; on the data itself it has not been run.
"""

from ml_collections import ConfigDict

from experiments.configs import photos


def get_config(variant: str = "lite0") -> ConfigDict:
    """The fields of photographs; variants as there."""
    return photos.get_config(variant, "cub200")
