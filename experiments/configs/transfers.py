"""The fields of experiments that classify with frozen embeddings."""

from collections.abc import Sequence

from ml_collections import ConfigDict, config_dict

from pddm_jax.config import defaults


def get_config(variant: str, variants: Sequence[str]) -> ConfigDict:
    """The base fields and those of `transfer`: a closed set, the one trained on unless it is named."""
    config = defaults.get_config(variant, variants)
    config.evaluation = "transfer"
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
            "published": config_dict.placeholder(str),  # published results, printed under the table
        }
    )
    return config


IMAGENET = ("imagenet", "resnet50", "gpu", "pod")


def imagenet(variant: str, variants: Sequence[str] = IMAGENET) -> ConfigDict:
    """Networks on ImageNet 2010; batch, rate and steps are this project's, the paper's are not known.

    Variants: "imagenet", AlexNet in float32, 256 images a step; "resnet50", ResNet-50 likewise, in bfloat16
    and its blocks computed again for the gradient; "gpu", for one GPU, AlexNet and the mining in bfloat16,
    1,024 images a step; "pod", for a slice of a TPU pod, AlexNet in bfloat16, 8,192 images on all chips
    together. None has been trained with; steps of "gpu" were run on one (docs/performance.md). More images
    a step are twice, and four times, as many in all; where a step is too much for a chip's memory,
    `network.microbatches` takes its images through the backbone in parts.
    """
    config = get_config(variant, variants)
    config.data.update(name="imagenet2010", image_size=224, augment="crop", workers=8)
    config.data.classes_per_batch = 64
    config.network.update(name="alexnet", embedding_dim=512, unit_dim=512)
    config.optimizer.update(learning_rate=3e-4, warmup=1_000)
    config.train.update(steps=100_000, eval_every=10_000, checkpoint_every=1_000, log_every=100)
    if variant == "resnet50":
        config.network.update(name="resnet50", dtype="bfloat16", remat=True)
    if variant == "gpu":
        config.network.dtype = config.objective.dtype = "bfloat16"
        config.data.update(classes_per_batch=128, images_per_class=8, workers=16)
        config.train.update(steps=50_000, eval_every=5_000)
    if variant == "pod":
        config.network.dtype = "bfloat16"
        config.data.update(classes_per_batch=512, images_per_class=16, workers=16)
        config.train.update(steps=12_500, eval_every=2_500, checkpoint_every=500)
    return config
