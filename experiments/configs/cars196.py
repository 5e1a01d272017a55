"""CARS196: cars of unseen models. The paper reports Recall@1 57.4.

    python -m experiments.cars196 --config.data.root=DIR
    python -m experiments.cars196 --config=experiments/configs/cars196.py:paper --config.data.root=DIR \
        --config.network.pretrained=googlenet-1378be20.pth

Data: --config.data.root=DIR with one of
    car_ims/ and cars_annos.mat
    cars_train/, cars_test/ and devkit/
    train/, test/, anno_train.csv, anno_test.csv and names.csv
Classes 1 to 98 train (8,054 images), 99 to 196 are searched (8,131). Whole images, or
--config.data.crop=bbox; which of the two the paper's figure is for, is not known.

Its layouts are tested on small made-up images; on the data itself it has not been run.
"""

from ml_collections import ConfigDict

from experiments.configs import photos


def get_config(variant: str = "lite0") -> ConfigDict:
    """The fields of photographs; variants as there."""
    return photos.get_config(variant, "cars196")
