"""The loops of AdaGrad with one number a tensor or a row, from the rule's expression.

squares  G        the leaf sums of G^2
step     G, W     the step, s being one number or one a row
rows     G, W, s  both, for rows of one leaf: a panel's second visit finds it in the cache
vector   G, s, W  tensors of rank 0 or 1, whose rows are their entries
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from memopt_ref.rules.adagrad_forms import descended

from .leaf_sums import DECAY, each_text, leaf_text, loop_of, names_at, quick, row_of

NUMBERS = ("decay", "learning_rate", "eps_root", "eps")


def arrays(what: str, decay: str) -> list[str]:
    """The arrays of a loop, in its order."""
    if what == "squares":
        return ["g", "w"] if decay == "l2" else ["g"]
    return ["g", "s", "w"] if what == "vector" else ["g", "w"]


def _square(decay: str) -> list[str]:
    return [f"x = {DECAY[decay][1]}", "q = x * x"]


def _descent(s: str, decay: str) -> str:
    w, g = DECAY[decay]
    return f"{{w}} = descended({w}, {g}, {s}, learning_rate, eps_root, eps)[0]"


def squares_text(decay: str, in_vectors: bool = False) -> str:
    """The leaf sums of the squared gradient."""
    return leaf_text(arrays("squares", decay), NUMBERS, _square(decay), in_vectors=in_vectors)


def step_text(decay: str, by_row: bool) -> str:
    """The step, once s is known."""
    numbers = NUMBERS if by_row else (*NUMBERS, "total")
    return each_text(arrays("step", decay), numbers, [_descent("{row}" if by_row else "total", decay)])


def vector_text(decay: str) -> str:
    """Both for entries that are their own rows."""
    entry = [*_square(decay), "new = {s} + q", "{s} = new", _descent("new", decay)]
    return each_text(arrays("vector", decay), NUMBERS, entry)


def rows_text(decay: str, in_vectors: bool = False) -> str:
    """Both for rows of one leaf; ``row`` holds s, and ``share`` divides a row's sum."""
    names = arrays("rows", decay)
    lines = [
        leaf_text(names, (*NUMBERS, "share"), _square(decay), in_vectors=in_vectors).rstrip("\n"),
        "    for i in range(rows):",
        *("        " + line for line in row_of(names, ["{row}"], "i", "0")),
        "        new = row0 + leaves[i] / share",
        "        row[i] = new",
        "        for j in range(columns):",
        "            " + _descent("new", decay).format(**names_at(names, "0", "j")),
    ]
    return "\n".join(lines) + "\n"


_SUMS: dict[str, Callable[..., str]] = {"squares": squares_text, "rows": rows_text}
_STEPS: dict[str, Callable[..., str]] = {"step": step_text, "vector": vector_text}


@functools.cache
def loop(what: str, wide: bool, *options: Any) -> Any:
    """A compiled loop, in float64 or float32."""
    text = _SUMS[what](*options, in_vectors=quick(wide)) if what in _SUMS else _STEPS[what](*options)
    return loop_of(f"row_wise-{what}", text, wide, {"descended": descended}, options)
