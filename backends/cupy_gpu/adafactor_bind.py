"""Adafactor's expressions, bound into its passes; what is between them is in :mod:`.factors`."""

from __future__ import annotations

import functools
from typing import Any

from memopt_ref.rules import adafactor as rule

from . import factors, passes
from .kernel import Kernel
from .passes import Pass, call

#: What the step kernel finds in the array ``numbers``.
FOUND = ("keep", "alpha", "shrink")


def arrays(place: str, w: bool, m: bool = False) -> list[str]:
    """The arrays of a pass in the order in which its kernel takes them.

    ``place`` says where r and c come from: ``"rows"`` (a number a row, a number a column of each matrix),
    ``"entries"`` (arrays like the parameter) or ``"own"`` (there are none, V has the parameter's shape).
    """
    own = ["v"] if place == "own" else ["r", "c"]
    return ["g", *(["w"] if w else []), *own, *(["m"] if m else [])]


@functools.lru_cache(maxsize=256)
def size(decayed: bool, weight: Any, gradient: Any, block: int, vec: int) -> Kernel:
    """Leaves of the squares of w, or of ``keep`` w."""
    body = "const Real x = w_ * keep_;" if decayed else "const Real x = w_;", "const Real q = x * x;"
    return passes.one(Pass("adafactor_size", ("w",), body, ("keep",)), weight, gradient, block, vec)


@functools.lru_cache(maxsize=256)
def update(place: str, clamped: bool, l2: bool, weight: Any, gradient: Any, block: int, vec: int) -> Kernel:
    """Leaves of the squares of u; V of a tensor that is not factored is brought up to date here."""
    numbers = ["decay", "one", "most", "beta2", "fresh2", "eps1"]
    fresh = []
    if place == "own":
        fresh = ["const Real square = g_ * g_;", *call(rule.averaged, v="v_", square="square + eps1_")]
        fresh = [*fresh, "v_one = v;", *_update(place, clamped, "v")]
    body = [*_decay(l2), *(fresh or _update(place, clamped)), "const Real q = u * u;"]
    written = ["v"] if place == "own" else []
    todo = _pass("update", arrays(place, l2), body, numbers, written, place)
    return passes.one(todo, weight, gradient, block, vec)


@functools.lru_cache(maxsize=256)
def step(
    place: str, clamped: bool, l2: bool, mean: str, weight: Any, gradient: Any, block: int, vec: int
) -> Kernel:
    """The step, ``mean`` being the momentum's: ``"none"``, ``"step"`` or ``"update"``."""
    numbers = ["decay", "one", "most", "beta1", "fresh1"]
    m = mean != "none"
    expression = {
        "none": rule.stepped,
        "step": rule.stepped_by_mean_of_steps,
        "update": rule.stepped_by_mean_of_updates,
    }[mean]
    end = [
        *call(expression, ("w", "m") if m else ("w",), u="u"),
        "narrow_into(w_one, w);",
        *(["m_one = m;"] if m else []),
    ]
    body = [*_decay(l2), *_update(place, clamped), *end]
    written = ["w", *(["m"] if m else [])]
    todo = _pass("step", arrays(place, True, m), body, numbers, written, place)._replace(found=FOUND)
    return passes.one(todo, weight, gradient, block, vec)


@functools.lru_cache(maxsize=256)
def squares(l2: bool, weight: Any, gradient: Any, block: int, vec: int) -> Kernel:
    """Sums of g^2 + eps1 along rows and down columns."""
    body = *_decay(l2), "const Real square = g_ * g_;", "const Real q = square + eps1_;"
    todo = Pass("adafactor_squares", ("g", *(["w"] if l2 else [])), body, ("decay", "eps1"))
    return passes.both(todo, weight, gradient, block, vec)


def small(name: str, native: Any, clamped: bool = False) -> Kernel:
    """Between the passes: ``factor_averages``, ``factor_ratios`` or ``adafactor_numbers``."""
    return factors.small(name, rule.averaged, "adafactor_factors.cuh", native, clamped)


def _pass(
    name: str, names: list[str], body: list[str], numbers: list[str], written: list[str], place: str
) -> Pass:
    by_row, by_column = (("r",), ("c",)) if place == "rows" else ((), ())
    arrays, lines, known, stored = (tuple(x) for x in (names, body, numbers, written))
    return Pass(f"adafactor_{name}", arrays, lines, known, stored, by_row, by_column)


def _decay(l2: bool) -> list[str]:
    return (
        ["const Real shrinks = decay_ * w_;", "const Real g_ = g_read + shrinks;"]
        if l2
        else ["const Real g_ = g_read;"]
    )


def _update(place: str, clamped: bool, v: str = "v_") -> list[str]:
    if place == "own":
        return call(rule.clamped_own_update if clamped else rule.own_update, v=v)
    return call(rule.clamped_update if clamped else rule.factored_update)
