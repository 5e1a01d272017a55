"""Stanford Online Products: unseen products, a few photographs of each. The paper has no figure.

    python -m experiments.sop --config.data.root=DIR
    python -m experiments.sop --config=experiments/configs/sop.py:paper --config.data.root=DIR \
        --config.network.pretrained=googlenet-1378be20.pth

Data: --config.data.root=DIR with Stanford_Online_Products/, as its archive unpacks.
11,318 products train (59,551 images), 11,316 are searched (60,502).

Its layouts are tested on small made-up images; on the data itself it has not been run.
"""

from ml_collections import ConfigDict

from experiments.configs import photos


def get_config(variant: str = "lite0") -> ConfigDict:
    """The fields of photographs; variants as there."""
    config = photos.get_config(variant, "sop")
    config.data.update(classes_per_batch=32, images_per_class=2)
    config.train.update(steps=10_000, eval_every=1000, checkpoint_every=1000, nmi=False)
    return config
