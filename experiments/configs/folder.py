"""Images of your own, a folder for each class: half of the classes train, the others are searched.

    python -m experiments.folder --config.data.root=DIR
    python -m experiments.folder --config=experiments/configs/folder.py:lite0 --config.data.root=DIR

Data: DIR/<class>/ with images of any size and kind; or DIR/train/<class>/ and DIR/test/<class>/. A batch
has 16 classes, so there must be 16 of two images or more to train on, beside those of test, or a smaller
--config.data.classes_per_batch. What it was run on is in docs/results.md, under icons.
"""

from ml_collections import ConfigDict

from experiments.configs import photos
from pddm_jax.config import defaults

DRAWN = {
    "augment": "crop",
    "min_crop_area": 0.6,
    "flip": False,
    "color_jitter": 0.5,
    "resize_crop_ratio": 1.0,
}
"""Most of an image is seen, the right way round; colours say little, as where drawings differ in style."""


def get_config(variant: str = "tuned") -> ConfigDict:
    """Variants: "tuned", a small network from random weights, 64 pixels, 7 to 10 minutes on two CPU cores;
    "lite0", EfficientNet-Lite0 fine-tuned at 128 pixels, 9 to 15 minutes. "paper", "resnet50": as for
    photographs.
    """
    if variant == "tuned":
        config = defaults.get_config(variant)
        config.data.update(name="folder", image_size=64, **DRAWN)
        config.optimizer.pddm_lr_multiplier = 0.03  # where classes are small, a slower score mined better
        config.train.steps = 1500  # under ten minutes on two slow cores
        return config
    config = photos.get_config(variant, "folder")
    if variant == "lite0":
        config.data.update(image_size=128, val_class_fraction=0.0, workers=0, **DRAWN)
        config.data.color_jitter = 0.3
        config.network.embedding_dim = 512
        config.optimizer.update(warmup=50, backbone_lr_multiplier=0.2, pddm_lr_multiplier=0.03)
        config.train.update(steps=400, eval_every=200, checkpoint_every=100)
    return config
