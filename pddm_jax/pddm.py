"""The PDDM unit as the paper draws it: a learned score of a pair that knows where the pair lies."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
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

    The biases of the two branches start uniform in +-1 / sqrt(d): a branch without bias knows, once
    normalised, only the direction of its input, and the score would start blind to distance.

    Source: Huang, Loy, Tang, "Local Similarity-Aware Deep Feature Embedding", NIPS 2016, section
    3.1. Widths and initial values are not known; those here are this library's.

    Attributes:
        hidden: width of u' and v'.
        joint: width of c.
        dtype: type of the matrix products, float32 or bfloat16.
    """

    hidden: int = 128
    joint: int = 128
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*s d"], y: Float[Array, "*s d"]) -> Float[Array, "*s"]:
        """Scores [...] of the pairs (x, y)."""

        def dense(width: int, name: str, bias: float = 0.0) -> nn.Dense:
            def bias_init(key: Array, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
                return jax.random.uniform(key, shape, dtype, -bias, bias)

            return nn.Dense(
                width,
                dtype=self.dtype,
                precision="highest",
                bias_init=bias_init,
                dot_general=partial(jax.lax.dot_general, preferred_element_type=jnp.float32),
                name=name,
            )

        bias = x.shape[-1] ** -0.5
        difference = nn.relu(dense(self.hidden, "difference", bias)(jnp.abs(x - y)))
        mean = nn.relu(dense(self.hidden, "mean", bias)((x + y) / 2))
        branches = [l2_normalize(branch) for branch in (difference, mean)]
        joint = nn.relu(dense(self.joint, "joint")(jnp.concatenate(branches, axis=-1)))
        return dense(1, "score")(joint)[..., 0]
