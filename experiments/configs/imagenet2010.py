r"""ImageNet 2010 by nearest class mean on frozen embeddings. The paper reports top-5 48.2.

    python -m experiments.imagenet2010 --config=experiments/configs/imagenet2010.py:glyphs
    python -m experiments.imagenet2010 --config.data.root=DIR --config.data.classes=IDS.txt \
        --config.data.ground_truth=VAL.txt

and with --config=experiments/configs/imagenet2010.py:VARIANT for `resnet50`, `gpu` (one GPU) or `pod` (a
slice of a TPU pod: the same command on each host, with --distributed). By softmax and then PDDM, or by
both at once:

    python -m experiments.imagenet2010 ... --config.objective.name=softmax --workdir=runs/softmax
    python -m experiments.imagenet2010 ... --config.network.pretrained=runs/softmax --workdir=runs/pddm
    python -m experiments.imagenet2010 ... --config.objective.softmax=1 --workdir=runs/both

Glyphs need no data: 1,419 characters that were not trained on, class means of half of each one's typefaces,
the others classified. ImageNet 2010: DIR, IDS.txt and VAL.txt as the release has them, or as
`pddm_jax.data.prepare` made of them; see `pddm_jax/data/layouts/imagenet.py`. What was run on glyphs is in
docs/results.md; on the images of ImageNet it has not been run.
"""

from ml_collections import ConfigDict

from experiments.configs import transfers


def get_config(variant: str = "imagenet") -> ConfigDict:
    """Variants: "glyphs"; and on the training images of all 1,000 classes those of `transfers`.

    Not known of the paper's figure, and so fields here, are what the network was trained on (`data`), how
    it was trained (`train`, `optimizer`), the width of embedding and unit (`network`), and whether images
    were ranked by distance from the means or by score: both are reported.
    """
    if variant == "glyphs":
        config = transfers.get_config(variant, ("glyphs",))
        config.data.name = "glyphs"
        config.transfer.update(ways=(200, 1000, 1400), neighbours=(1, 5), probe_steps=100)
        return config
    config = transfers.imagenet(variant, ("glyphs", *transfers.IMAGENET))
    config.transfer.published = "top-5 48.2 (Huang, Loy, Tang, NIPS 2016)"
    return config
