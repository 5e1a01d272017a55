"""The fields that every experiment has."""

from ml_collections import ConfigDict, config_dict

VARIANTS = ("tuned", "paper")


def get_config(variant: str) -> ConfigDict:
    """All fields, at the values that the experiments share.

    Variants: "tuned", this project's recipe; "paper", the objective with the paper's one quadruplet
    a batch and the constants that its re-implementations agree on.

    A field of `objective` that is None stands at the objective's own default; the defaults, and
    which fields an objective has, are in `pddm_jax/objectives.py`.
    """
    if variant not in VARIANTS:
        raise ValueError(f"the variant of a config must be one of {list(VARIANTS)}, got {variant!r}")
    config = ConfigDict(
        {
            "seed": 0,
            "data": {
                "name": config_dict.placeholder(str),
                "root": config_dict.placeholder(str),  # None: the data set's own place
                "image_size": config_dict.placeholder(int),  # pixels; None: the data set's own
                "classes_per_batch": 16,
                "images_per_class": 4,
                "shift": 3,  # pixels by which training images are moved, at most, in x and y
            },
            "network": {
                "name": "small_cnn",
                "embedding_dim": 64,
                "unit_dim": 32,  # width of all layers of the PDDM unit; the paper leaves it open
            },
            "objective": {
                "name": "pddm",
                "per": config_dict.placeholder(str),  # scope of mining: batch, anchor or positive
                "alpha": config_dict.placeholder(float),
                "beta": config_dict.placeholder(float),
                "weight": config_dict.placeholder(float),  # the paper's lambda
                "margin": config_dict.placeholder(float),
                "base": config_dict.placeholder(float),
            },
            "optimizer": {
                "name": "adamw",
                "learning_rate": 3e-3,
                "weight_decay": 1e-4,
                "schedule": "cosine",
                "clip_norm": 10.0,
                "warmup": 100,  # steps over which the rate rises
                "unit_factor": 3.0,  # learning rate of the PDDM unit, times that of the network
            },
            "train": {
                "steps": 750,
                "eval_every": 250,
                "checkpoint_every": 250,
                "log_every": 25,
                "max_to_keep": 2,
            },
        }
    )
    if variant == "paper":
        config.objective.update(per="batch", alpha=0.5, beta=1.0, weight=0.5)
    return config
