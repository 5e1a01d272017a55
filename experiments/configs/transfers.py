"""The fields of experiments that classify by what frozen embeddings tell."""

from collections.abc import Sequence

from ml_collections import ConfigDict, config_dict

from experiments.configs import base


def get_config(variant: str, variants: Sequence[str]) -> ConfigDict:
    """The base fields and those of `transfer`: a closed set, the one trained on unless it is named."""
    config = base.get_config(variant, variants)
    config.transfer = ConfigDict(
        {
            "name": config_dict.placeholder(str),  # of the closed set; None: that of data.name
            "root": config_dict.placeholder(str),
            "classes": config_dict.placeholder(str),  # file of its WordNet ids
            "ground_truth": config_dict.placeholder(str),  # file of the classes of its test images
            "hierarchy": config_dict.placeholder(str),  # file of is-a pairs: hierarchical accuracy too
            "ways": (),  # numbers of classes to choose from, drawn by seed; none: all
            "neighbours": (),  # numbers of neighbours that vote
            "probe_steps": 0,  # of L-BFGS, at most; 0: no linear probe
            "probe_decay": 1e-5,  # weight decay of the probe
            "published": config_dict.placeholder(str),  # what others report, told under the table
        }
    )
    return config


def imagenet(variant: str, variants: Sequence[str]) -> ConfigDict:
    """AlexNet on ImageNet 2010; batch, rate and steps are this project's, the paper's are not known."""
    config = get_config(variant, variants)
    config.data.update(name="imagenet2010", image_size=224, augment="crop", workers=8)
    config.data.classes_per_batch = 64
    config.network.update(name="alexnet", embedding_dim=512, unit_dim=512)
    config.train.update(steps=100_000, eval_every=10_000, checkpoint_every=1_000, log_every=100)
    return config
