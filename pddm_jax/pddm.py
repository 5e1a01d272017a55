"""The PDDM unit as the paper draws it: a learned score of a pair that knows where the pair lies."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from pddm_jax.pairwise import l2_normalize


class PDDM(nn.Module):
    """Position-dependent deep metric: S(x, y), one real number, higher = more similar.

        u  = |x - y|                                v  = (x + y) / 2
        u' = l2_normalize(relu(u W_u + b_u))        v' = l2_normalize(relu(v W_v + b_v))
        c  = relu([u', v'] W_c + b_c)               S  = c w_s + b_s

    Shapes: x and y are [..., d] (unit-length embeddings), the score is [...]. S(x, y) = S(y, x).
    The parameters are `difference` (W_u, b_u), `mean` (W_v, b_v), `joint` (W_c, b_c) and `score`
    (w_s, b_s). A branch that is zero after its ReLU stays zero, with a finite gradient.

    Source: Huang, Loy, Tang, "Local Similarity-Aware Deep Feature Embedding", NIPS 2016, section
    3.1. The widths are not given there; the defaults here are this library's.

    Attributes:
        hidden: width of u' and v'.
        joint: width of c.
        dtype: type of the matrix products, float32 or bfloat16.
    """

    hidden: int = 128
    joint: int = 128
    dtype: jax.typing.DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*s d"], y: Float[Array, "*s d"]) -> Float[Array, "*s"]:
        """Scores [...] of the pairs (x, y)."""

        def dense(width: int, name: str) -> nn.Dense:
            return nn.Dense(width, dtype=self.dtype, precision="highest", name=name)

        difference = nn.relu(dense(self.hidden, "difference")(jnp.abs(x - y)))
        mean = nn.relu(dense(self.hidden, "mean")((x + y) / 2))
        branches = [l2_normalize(branch.astype(jnp.float32)) for branch in (difference, mean)]
        joint = nn.relu(dense(self.joint, "joint")(jnp.concatenate(branches, axis=-1)))
        return dense(1, "score")(joint)[..., 0].astype(jnp.float32)
