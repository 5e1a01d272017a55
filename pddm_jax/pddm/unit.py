"""The PDDM unit: a learned score of a pair, from its difference and its position; scores of given pairs."""

from collections.abc import Mapping
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from pddm_jax.checks import as_count, as_reals, check_choice
from pddm_jax.numerics import all_finite, l2_normalize
from pddm_jax.types import DTYPES, AnyArray, Params

LAYERS = ("difference", "joint", "mean", "score")
LEAVES = ("kernel", "bias")

lecun_normal = nn.initializers.lecun_normal()


def _first_half(units: int) -> Float[Array, " units"]:
    return (jnp.arange(units) < units / 2).astype(jnp.float32)


def _difference_kernel(key: Array, shape: tuple[int, int], dtype: DTypeLike) -> Float[Array, "d h"]:
    return lecun_normal(key, shape, dtype) / 2 + 2 * shape[0] ** -0.5 * _first_half(shape[1])


def _difference_bias(key: Array, shape: tuple[int], dtype: DTypeLike) -> Float[Array, " h"]:
    del key, dtype
    return 2 * (1 - _first_half(shape[0]))


def _mean_bias(key: Array, shape: tuple[int], dtype: DTypeLike) -> Float[Array, " h"]:
    return jax.random.uniform(key, shape, dtype, -1, 1) * shape[0] ** -0.5


def _joint_kernel(key: Array, shape: tuple[int, int], dtype: DTypeLike) -> Float[Array, "hh c"]:
    of_difference, of_mean = jnp.split(lecun_normal(key, shape, dtype), 2)
    falls = (1 - 2 * _first_half(len(of_difference))) * shape[0] ** -0.5
    return jnp.concatenate([of_difference + falls[:, None], 0.3 * of_mean])


def _score_kernel(key: Array, shape: tuple[int, int], dtype: DTypeLike) -> Float[Array, "c 1"]:
    return jnp.abs(lecun_normal(key, shape, dtype))


class PDDM(nn.Module):
    """Position-dependent deep metric: S(x, y), one real number, higher = more similar.

        u  = |x - y|                                v  = (x + y) / 2
        u' = l2_normalize(relu(u W_u + b_u))        v' = l2_normalize(relu(v W_v + b_v))
        c  = relu([u', v'] W_c + b_c)               S  = c w_s + b_s

    Shapes: x and y are [..., d] (unit-length embeddings), the score is [...]. S(x, y) = S(y, x).
    The parameters are `difference` (W_u, b_u), `mean` (W_v, b_v), `joint` (W_c, b_c) and `score`
    (w_s, b_s). A branch that is zero after its ReLU (of a length of 1e-12 or less) stays zero, with a
    finite gradient. A score is float32 for inputs of any type; it is NaN where x or y is not finite, or
    where the square of a branch overflows.

    The initial score decreases with distance, up to random weights: half of the units of u' grow with
    |x - y| and the others are constant, so that the normalized branch depends on the length of x - y and
    not only on its direction; S weights the former negatively and the latter positively. So mining starts
    with the pairs that are hard by distance, and training adds what distance does not capture.

    Source: Huang, Loy, Tang, "Local Similarity-Aware Deep Feature Embedding", NIPS 2016, section
    3.1. The paper gives no widths and no initial values; those here are this library's.

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
        """Scores [...] of the pairs (x, y); ValueError where their shapes differ or a width is below 1."""
        x, y = as_reals("x", x), as_reals("y", y)
        if x.shape != y.shape:
            raise ValueError(f"y must have the shape of x, {x.shape}, got {y.shape}")
        for name in ("hidden", "joint"):
            as_count(name, getattr(self, name), least=1)

        def dense(
            width: int,
            name: str,
            kernel: nn.initializers.Initializer = lecun_normal,
            bias: nn.initializers.Initializer = nn.initializers.zeros,
        ) -> nn.Dense:
            return nn.Dense(
                width,
                dtype=self.dtype,
                precision="highest",
                kernel_init=kernel,
                bias_init=bias,
                dot_general=partial(jax.lax.dot_general, preferred_element_type=jnp.float32),
                name=name,
            )

        far = dense(self.hidden, "difference", _difference_kernel, _difference_bias)
        where = dense(self.hidden, "mean", bias=_mean_bias)
        difference, mean = nn.relu(far(jnp.abs(x - y))), nn.relu(where((x + y) / 2))
        branches = [l2_normalize(branch) for branch in (difference, mean)]
        joint = nn.relu(dense(self.joint, "joint", _joint_kernel)(jnp.concatenate(branches, axis=-1)))
        # A ReLU may have hidden a number that is not finite.
        finite = jnp.isfinite(x).all(axis=-1) & jnp.isfinite(y).all(axis=-1)
        scores = dense(1, "score", _score_kernel)(joint)[..., 0]
        return scores + jnp.where(finite, 0, jnp.nan).astype(jnp.float32)


def check_dtype(dtype: object) -> str:
    """The name of a type of matrix products; ValueError unless it is float32 or bfloat16."""
    try:
        name = dtype if isinstance(dtype, str) else str(jnp.dtype(dtype).name)  # type: ignore[call-overload]
    except TypeError:
        name = repr(dtype)
    check_choice("dtype", name, DTYPES)
    return name


def as_unit(params: Params) -> Params:
    """Parameters of a unit, in float32; ValueError if they are not those of a unit."""
    check_unit(params)
    return {
        layer: {name: as_reals(f"params[{layer!r}][{name!r}]", params[layer][name]) for name in LEAVES}
        for layer in LAYERS
    }


def check_unit(params: Params) -> int:
    """The width of the embeddings that a unit scores; ValueError if `params` are not those of a unit."""
    try:
        shapes = {layer: params[layer]["kernel"].shape for layer in LAYERS}
        widths = {layer: params[layer]["bias"].shape for layer in LAYERS}
        (d, h), (joint_in, joint) = shapes["difference"], shapes["joint"]
        fits = shapes["mean"] == (d, h) and joint_in == 2 * h and shapes["score"] == (joint, 1)
        fits &= all(widths[layer] == shapes[layer][1:] for layer in LAYERS)
    except (AttributeError, LookupError, TypeError, ValueError):
        fits = False
    if not fits:
        raise ValueError(
            f"params must be those of a PDDM unit, layers {', '.join(LAYERS)} with a kernel and a bias of "
            f"matching widths, got {_described(params)}"
        )
    return d


def _described(params: object) -> str:
    if not isinstance(params, Mapping):
        return type(params).__name__
    if not {*LAYERS} <= {*params}:
        return f"the layers {', '.join(map(str, params)) or 'none'}"
    return f"the shapes {jax.tree.map(jnp.shape, {layer: params[layer] for layer in LAYERS})}"


def pair_scores(
    params: Params,
    x: Float[AnyArray, "*s d"],
    y: Float[AnyArray, "*s d"],
    *,
    dtype: DTypeLike = jnp.float32,
) -> Float[Array, "*s"]:
    """PDDM scores S(x, y) of given pairs; higher = more similar. See `PDDM` for formula and source.

    Jit-compiled. A score is NaN where its pair or a parameter is not finite, or where it overflows.

    Args:
        params: parameters of a PDDM unit.
        x: [..., d] embeddings, of any type.
        y: [..., d] embeddings, of the shape of x.
        dtype: type of the matrix products, float32 or bfloat16.

    Returns:
        [...] float32 scores.

    Raises:
        ValueError: x does not fit params, y does not fit x, or dtype is not one of the two.
    """
    dtype, d = check_dtype(dtype), check_unit(params)
    x, y = as_reals("x", x), as_reals("y", y)
    if x.shape[-1:] != (d,):
        raise ValueError(f"x must have {d} features, as params has, got shape {x.shape}")
    if x.shape != y.shape:
        raise ValueError(f"y must have the shape of x, {x.shape}, got {y.shape}")
    return _pair_scores(as_unit(params), x, y, dtype)


@partial(jax.jit, static_argnums=3)
def _pair_scores(params: Params, x: Array, y: Array, dtype: str) -> Float[Array, "*s"]:
    unit = PDDM(params["mean"]["kernel"].shape[-1], params["joint"]["kernel"].shape[-1], jnp.dtype(dtype))
    scores: Array = unit.apply({"params": params}, x, y)  # type: ignore[assignment]
    return scores + jnp.where(all_finite(params), 0, jnp.nan).astype(jnp.float32)
