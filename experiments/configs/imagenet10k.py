r"""ImageNet-10K by a network trained on ImageNet 2010. The paper reports flat top-1 28.4.

    python -m experiments.imagenet10k --config.data.root=DIR --config.data.classes=IDS.txt \
        --config.data.ground_truth=VAL.txt \
        --config.transfer.root=DIR10K --config.transfer.classes=IDS10K.txt

and with --config=experiments/configs/imagenet10k.py:VARIANT for `resnet50`, `gpu` or `pod`, and by softmax
first, see imagenet2010.py. DIR holds ImageNet 2010, DIR10K a tar or folder for each of the 10,184
WordNet ids that IDS10K.txt lists: half of the images of each class, drawn by seed, make its mean, the
others are classified. On these images it has not been run; class means of 4.5 million made features are in
docs/performance.md.
"""

from ml_collections import ConfigDict

from experiments.configs import transfers


def get_config(variant: str = "imagenet") -> ConfigDict:
    """Variants: those of `transfers`. Open points of the paper's figure are fields, as in imagenet2010.py;
    besides, which half of the images made the means (by `seed`), and whether the network had seen
    ImageNet-10K (here not).
    """
    config = transfers.imagenet(variant)
    config.transfer.name = "imagenet10k"
    config.transfer.published = "flat top-1 28.4 (Huang, Loy, Tang, NIPS 2016)"
    return config
