"""Element-wise rules: one expression of scalars serves every backend.

The expression is a module-level function ``f(w, g, *slots, *coefficients)`` that returns a tuple;
``@returns`` names its members. NumPy calls it on arrays, a compiled backend binds it into loops over scalars.
It holds no literal and no branch: conventions are coefficients, computed on the host in float64 and rounded
once to the compute dtype.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Collection
from typing import Any

import numpy as np

from .base import LeafState, Rule, Values

Expression = Callable[..., tuple[Any, ...]]


def returns(*names: str) -> Callable[[Expression], Expression]:
    """Name the members of the tuple that an expression returns: ``w``, the slots, the rest."""

    def mark(expression: Expression) -> Expression:
        expression.returns = names  # type: ignore[attr-defined]
        return expression

    return mark


@functools.cache
def parameters(expression: Expression) -> tuple[str, ...]:
    """The names of an expression's arguments, looked up once: a step asks at every call."""
    return tuple(inspect.signature(expression).parameters)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Elementwise(Rule):
    """A rule whose step is the same expression at every entry. Subclasses are dataclasses."""

    def expression(self, slots: Collection[str]) -> Expression:
        """The expression for a tensor that keeps these slots."""
        raise NotImplementedError

    def coefficients(self, t: int) -> dict[str, float]:
        """The expression's coefficients by name at the tensor's own step ``t`` (1 at the first)."""
        raise NotImplementedError

    def step(self, w: Any, g: Any, state: LeafState) -> Values:
        """Evaluate the expression on whole arrays; counts ``t`` when the rule keeps it."""
        t = int(state["t"]) + 1 if "t" in state else 0
        expression = self.expression(state.keys())
        numbers = {name: round_to(w, value) for name, value in self.coefficients(t).items()}
        known = {"w": w, "g": g, **state, **numbers}
        members = expression(*(known[name] for name in parameters(expression)))
        values = dict(zip(expression.returns, members, strict=True))  # type: ignore[attr-defined]
        return {**values, "t": np.int64(t)} if "t" in state else values


def round_to(w: Any, value: float) -> Any:
    """``value`` rounded once to the dtype of ``w``; left alone beside objects (fractions)."""
    return value if w.dtype == object else w.dtype.type(value)
