"""Adafactor's passes over a tensor, from the rule's expressions: sums of squares, RMS(U), and the step.

    size     W       the sum of W^2, for RMS(X)
    squares  G       the sums of G^2 + eps1 along rows and down columns, for R and C
    update   G       the sum of U^2, once R and C are known
    step     W, G    X <- keep X - alpha U_hat, with momentum or without

r is a number a row and c a number a column; or both are arrays of the tensor's shape (with steps of 0), which
serves R and C of any two axes. A tensor that is not factored keeps V, which takes the place of both.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from memopt_ref.rules import adafactor as rule

from .leaf_sums import STRIP, each_text, leaf_text, loop_of, quick

#: Where r and c come from.
PLACES = ("rows", "entries", "own")
EXPRESSIONS = {
    "factored_update": rule.factored_update,
    "clamped_update": rule.clamped_update,
    "averaged": rule.averaged,
    "own_update": rule.own_update,
    "clamped_own_update": rule.clamped_own_update,
    "stepped": rule.stepped,
    "stepped_by_mean_of_steps": rule.stepped_by_mean_of_steps,
    "stepped_by_mean_of_updates": rule.stepped_by_mean_of_updates,
}


def _update(place: str, clamped: bool) -> list[str]:
    if place == "own":
        return [
            "u = clamped_own_update({g}, new, one, most)[0]" if clamped else "u = own_update({g}, new)[0]"
        ]
    r, c = ("{row}", "{column}") if place == "rows" else ("{r}", "{c}")
    if clamped:
        return [f"u = clamped_update({{g}}, {r}, {c}, most)[0]"]
    return [f"u = factored_update({{g}}, {r}, {c})[0]"]


def arrays(place: str, m: bool = False, w: bool = False) -> list[str]:
    """The arrays of a pass in the order in which its loop takes them: g first, w last."""
    own = {"rows": [], "entries": ["r", "c"], "own": ["v"]}[place]
    return ["g", *own, *(["m"] if m else []), *(["w"] if w else [])]


def size_text(decayed: bool, in_vectors: bool = False) -> str:
    """The sums of the squares of w, or of ``keep`` w."""
    entry = ["x = {w} * keep" if decayed else "x = {w}", "q = x * x"]
    return leaf_text(["w"], ["keep"], entry, in_vectors=in_vectors)


def squares_text(in_vectors: bool = False) -> str:
    """The sums of g^2 + eps1, both ways."""
    entry = ["q = {g} * {g} + eps1"]
    return leaf_text(["g"], ["decay", "eps1"], entry, down_columns=True, in_vectors=in_vectors)


def update_text(place: str, clamped: bool, in_vectors: bool = False) -> str:
    """The sums of u^2; V of a tensor that is not factored is brought up to date here."""
    numbers = ["decay", "one", "most", "beta2", "fresh2", "eps1"]
    fresh = ["new = averaged({v}, {g} * {g} + eps1, beta2, fresh2)[0]", "{v} = new"] if place == "own" else []
    entry = [*fresh, *_update(place, clamped), "q = u * u"]
    strip = 1 if place == "own" else STRIP
    return leaf_text(arrays(place), numbers, entry, strip=strip, in_vectors=in_vectors)


def step_text(place: str, clamped: bool, mean: str) -> str:
    """The step, ``mean`` being the momentum's: ``"none"``, ``"step"`` or ``"update"``."""
    numbers = ["decay", "one", "most", "keep", "alpha", "shrink", "beta1", "fresh1"]
    if mean == "none":
        end = ["{w} = stepped({w}, u, keep, alpha, shrink)[0]"]
    else:
        call = f"stepped_by_mean_of_{mean}s({{w}}, u, {{m}}, keep, alpha, shrink, beta1, fresh1)"
        end = [f"out = {call}", "{w} = out[0]", "{m} = out[1]"]
    seen = ["new = {v}"] if place == "own" else []
    return each_text(arrays(place, mean != "none", w=True), numbers, [*seen, *_update(place, clamped), *end])


def decay_text(count: int) -> str:
    """g + decay w in the gradient's buffer, w being the last of ``count`` arrays."""
    others = [f"other_{k}" for k in range(count - 2)]
    return each_text(["g", *others, "w"], ["decay"], ["{g} = {g} + decay * {w}"])


_SUMS: dict[str, Callable[..., str]] = {
    "size": size_text,
    "squares": squares_text,
    "update": update_text,
}
_STEPS: dict[str, Callable[..., str]] = {"step": step_text, "decay": decay_text}


@functools.cache
def loop(what: str, wide: bool, *options: Any) -> Any:
    """A compiled loop, in float64 or float32."""
    text = _SUMS[what](*options, in_vectors=quick(wide)) if what in _SUMS else _STEPS[what](*options)
    return loop_of(f"adafactor-{what}", text, wide, EXPRESSIONS, options)
