"""Operations of the matrix products and convolutions of a traced program, before compilation."""

import math
from collections import Counter
from collections.abc import Iterator

import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn
from jax.lax import Precision


def operations(jaxpr: Jaxpr) -> Counter[int]:
    """Multiplications and additions on all devices, by the number of bfloat16 passes of a TPU.

    A loop counts as often as it runs, and a TPU kernel for each step of its grid. The branch with the most
    operations counts, so that a GPU kernel, which hides its products, counts as the plain form next to it.
    Zeros by which a convolution pads or dilates its input do not count.

    Raises:
        ValueError: the number of iterations of a loop is unknown.
    """
    total: Counter[int] = Counter()
    for equation in jaxpr.eqns:
        kind, params = equation.primitive.name, equation.params
        if kind == "dot_general":
            depth = [equation.invars[0].aval.shape[axis] for axis in params["dimension_numbers"][0][0]]
            total[passes(equation)] += 2 * equation.outvars[0].aval.size * math.prod(depth)
        elif kind == "conv_general_dilated":
            total[passes(equation)] += convolution(equation)
        else:
            inner = [operations(sub) for sub in parts(equation)]
            if kind == "while" and any(inner):
                raise ValueError("a loop with products does not state how often it runs")
            if kind == "cond":
                inner = [max(inner, key=Counter.total)]
            times = params["mesh"].size if kind == "shard_map" else params.get("length", 1)
            if kind == "pallas_call":
                times = math.prod(params["grid_mapping"].grid)
            for found in inner:
                total.update({width: times * count for width, count in found.items()})
    return total


def parts(equation: JaxprEqn) -> Iterator[Jaxpr]:
    """The inner programs of an equation."""
    for value in equation.params.values():
        for part in value if isinstance(value, tuple) else (value,):
            if isinstance(part, Jaxpr | ClosedJaxpr):
                yield part.jaxpr if isinstance(part, ClosedJaxpr) else part


def passes(equation: JaxprEqn) -> int:
    """Passes in bfloat16 for a product of this type and precision; float32 takes six."""
    given = equation.params["precision"]
    exact = Precision.HIGHEST in (given if isinstance(given, tuple) else (given,))
    return 6 if exact and equation.invars[0].aval.dtype == np.float32 else 1


def convolution(equation: JaxprEqn) -> int:
    """Twice the number of products of a kernel weight and an input value; padding does not count."""
    params, (x, kernel) = equation.params, (variable.aval for variable in equation.invars)
    numbers = params["dimension_numbers"]
    total = 2 * equation.outvars[0].aval.size * kernel.shape[numbers.rhs_spec[1]]
    for n, axis in enumerate(numbers.lhs_spec[2:]):
        size, taps = x.shape[axis], kernel.shape[numbers.rhs_spec[2 + n]]
        places = equation.outvars[0].aval.shape[numbers.out_spec[2 + n]]
        dilation = params["lhs_dilation"][n]
        at = np.arange(places)[:, None] * params["window_strides"][n]
        at = at + np.arange(taps) * params["rhs_dilation"][n] - params["padding"][n][0]
        meets = (at >= 0) & (at <= (size - 1) * dilation) & (at % dilation == 0)
        total = total * int(meets.sum()) // places
    return total
