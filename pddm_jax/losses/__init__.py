"""Losses of deep metric learning: one pure function per formula, 0 where a batch has nothing to compare.

Notation: x_i are the embeddings, y_i the labels, D_ij = |x_i - x_j|^2 the squared distance of two
embeddings, S_ij their PDDM score, [t]+ = max(0, t). A pair is positive where y_i = y_j, i != j.

Every loss here, and every objective made of them:

- is a float32 scalar, computed in float32, for inputs of any type and any default type of JAX;
- is NaN, and so is its gradient, where an embedding or another argument (parameters of the unit, a
  classifier, a margin) is not finite: for all labels, also where no pair uses the number;
- is NaN, and so is its gradient, where an intermediate overflows float32, such as the squares of finite
  embeddings of 1e20;
- has correct distances, and correct gradients of them, at every scale of float32;
- is 0, with gradient 0, where there is nothing to compare: for an empty batch, for one image, and where
  all images have one class or each has its own, unless the loss has a term for positive or for negative
  pairs alone (`contrastive_loss`). Classification compares an image with classes.
"""

from pddm_jax.losses.contrastive import contrastive_loss
from pddm_jax.losses.double_header import double_header_hinge
from pddm_jax.losses.lifted_structure import lifted_structure_loss
from pddm_jax.losses.multi_similarity import multi_similarity_loss
from pddm_jax.losses.softmax import softmax_loss
from pddm_jax.losses.triplet import TRIPLET_MINING, triplet_loss

__all__ = [
    "TRIPLET_MINING",
    "contrastive_loss",
    "double_header_hinge",
    "lifted_structure_loss",
    "multi_similarity_loss",
    "softmax_loss",
    "triplet_loss",
]
