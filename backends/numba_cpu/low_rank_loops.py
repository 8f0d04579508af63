"""The loops of Adam with a rank-one second moment, from the rule's expressions.

squares  G     the sums of G^2 + 1e-30 along rows and down columns, for r and c
step     G, W  the step, with m or without; v from r and c, or an array of its own
"""

from __future__ import annotations

import functools
from typing import Any

from memopt_ref.rules.count_sketch_adam import along_adam
from memopt_ref.rules.low_rank import averaged, factored_moment, own_moment

from .leaf_sums import DECAY, each_text, leaf_text, loop_of, quick

EXPRESSIONS = {
    "along_adam": along_adam,
    "averaged": averaged,
    "factored_moment": factored_moment,
    "own_moment": own_moment,
}
NUMBERS = (
    "decay",
    "beta1",
    "fresh1",
    "beta2",
    "fresh2",
    "learning_rate",
    "correction1",
    "correction2",
    "eps",
    "floor",
)


def squares_text(decay: str, in_vectors: bool = False) -> str:
    """The sums of squares, both ways."""
    arrays = ["g", "w"] if decay == "l2" else ["g"]
    entry = [f"x = {DECAY[decay][1]}", "q = x * x + floor"]
    return leaf_text(arrays, NUMBERS, entry, down_columns=True, in_vectors=in_vectors)


def step_text(decay: str, mean: bool, own: bool) -> str:
    """The step: ``mean`` if there is m, ``own`` if there is v."""
    arrays = ["g", "w", *(["m"] if mean else []), *(["v"] if own else [])]
    w, g = DECAY[decay]
    entry = [f"x = {g}", f"begun = {w}", "mean = x"]
    if mean:
        entry += ["mean = averaged({m}, x, beta1, fresh1)[0]", "{m} = mean"]
    if own:
        entry += ["moment = own_moment({v}, x, beta2, fresh2)[0]", "{v} = moment"]
    else:
        entry += ["moment = factored_moment({row}, {column})[0]"]
    call = "along_adam(begun, mean, moment, learning_rate, correction1, correction2, eps)"
    return each_text(arrays, NUMBERS, [*entry, f"{{w}} = {call}[0]"])


@functools.cache
def loop(what: str, wide: bool, *options: Any) -> Any:
    """A compiled loop, in float64 or float32."""
    text = squares_text(options[0], quick(wide)) if what == "squares" else step_text(*options)
    return loop_of(f"low_rank-{what}", text, wide, EXPRESSIONS, options)
