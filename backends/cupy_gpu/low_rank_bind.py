"""The expressions of Adam with a rank-one second moment, bound into its passes."""

from __future__ import annotations

import functools
from typing import Any

from memopt_ref.rules.count_sketch_adam import along_adam
from memopt_ref.rules.elementwise import returns
from memopt_ref.rules.low_rank import averaged, factored_moment, own_moment

from . import factors, passes
from .kernel import Kernel
from .passes import Pass, begun, call, gradient

#: The numbers of the step, in order.
NUMBERS = ("decay", "beta1", "fresh1", "learning_rate", "correction1", "correction2", "eps")


@returns("w", "m", "v")
def own(
    w: Any,
    g: Any,
    m: Any,
    v: Any,
    learning_rate: Any,
    beta1: Any,
    fresh1: Any,
    beta2: Any,
    fresh2: Any,
    correction1: Any,
    correction2: Any,
    eps: Any,
) -> tuple[Any, ...]:
    """The step of a tensor below two axes, whose v is its own."""
    (m,) = averaged(m, g, beta1, fresh1)
    (v,) = own_moment(v, g, beta2, fresh2)
    w, _, _, _ = along_adam(w, m, v, learning_rate, correction1, correction2, eps)
    return w, m, v


@returns("w", "v")
def own_without_mean(
    w: Any,
    g: Any,
    v: Any,
    learning_rate: Any,
    beta2: Any,
    fresh2: Any,
    correction1: Any,
    correction2: Any,
    eps: Any,
) -> tuple[Any, ...]:
    """The same along g itself."""
    (v,) = own_moment(v, g, beta2, fresh2)
    w, _, _, _ = along_adam(w, g, v, learning_rate, correction1, correction2, eps)
    return w, v


@functools.lru_cache(maxsize=256)
def squares(l2: bool, weight: Any, gradient_: Any, block: int, vec: int) -> Kernel:
    """Sums of g^2 + 1e-30 along rows and down columns."""
    body = (*gradient(l2), "const Real square = x * x;", "const Real q = square + floor_;")
    todo = Pass("low_rank_squares", ("g", *(["w"] if l2 else [])), body, ("decay", "floor"))
    return passes.both(todo, weight, gradient_, block, vec)


@functools.lru_cache(maxsize=256)
def step(mean: bool, decay: str, weight: Any, gradient_: Any, block: int, vec: int) -> Kernel:
    """The step, with m or without."""
    m = ("m",) if mean else ()
    body = (
        *gradient(decay == "l2"),
        *begun(decay),
        *(call(averaged, g="x") if mean else ["const Real m = x;"]),
        *call(factored_moment),
        *call(along_adam, ("w",), w="begun", m="m", v="v"),
        "narrow_into(w_one, w);",
        *(["m_one = m;"] if mean else []),
    )
    todo = Pass("low_rank_step", ("g", "w", "r", "c", *m), body, NUMBERS, ("w", *m), ("r",), ("c",))
    return passes.one(todo, weight, gradient_, block, vec)


def small(name: str, native: Any) -> Kernel:
    """Between the passes: ``factor_averages`` or ``factor_ratios``."""
    return factors.small(name, averaged, "low_rank_factors.cuh", native)
