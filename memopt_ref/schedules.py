"""Schedules: hyper-parameters as pure functions of the step, counted from 1.

A schedule may stand wherever a rule takes a number, and is taken at the count of applied steps of the whole
tree. It keeps nothing, so a resumed run continues exactly. Schedules multiply:
``WarmUp(0.1, 500) * CoolDown(1.0, 10_000)``.

The advice that comes with SM3 (R. Anil, V. Gupta, T. Koren and Y. Singer, "Memory-efficient adaptive
optimization", NeurIPS 2019, and the README of its public code): warm up with the square of t/W over about
5 % of the steps; no other decay; at the end either average the iterates or cool down over the last 10 %.
That README prints the warm-up factor as min(1, (W/t)^p): inverted, it is 1 before step W and decays after
it. The prose beside it, and :class:`WarmUp` here, say min(1, (t/W)^p).
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import MISSING, dataclass
from itertools import pairwise
from typing import Any

from .errors import HyperparameterError
from .parts import fields
from .parts.schedule import Product, Schedule

__all__ = [
    "Constant",
    "CoolDown",
    "Cosine",
    "Exponential",
    "Function",
    "InverseSqrt",
    "InverseTime",
    "Linear",
    "Piecewise",
    "Product",
    "Schedule",
    "WarmUp",
]


class _Checked(Schedule):
    """A schedule whose fields are checked when it is made, and its step when it is called."""

    def __post_init__(self) -> None:
        fields.check_fields(self)

    def __call__(self, step: int) -> float:
        """The value at ``step``, 1 at the first."""
        if not step >= 1:
            where = type(self).__name__
            raise HyperparameterError(where, f"step {step!r}", "a step >= 1", "Steps count from 1.")
        return float(self.value_at(step))

    def value_at(self, t: int) -> float:
        """The value at step ``t`` >= 1."""
        raise NotImplementedError


def _number(default: Any = MISSING, low: float = -math.inf, high: float = math.inf, **options: Any) -> Any:
    return fields.number(default, low, high, scheduled=False, **options)


@dataclass(frozen=True)
class Constant(_Checked):
    """The same value at every step.

    Parameters
    ----------
    value : float

    Examples
    --------
    >>> Constant(0.1)(7)
    0.1
    """

    value: float = _number()

    def value_at(self, t: int) -> float:
        """``value``."""
        return self.value


@dataclass(frozen=True)
class WarmUp(_Checked):
    """value * min(1, (t / steps)^power): reaches ``value`` at step ``steps`` and stays there.

    Parameters
    ----------
    value : float
        The value after the warm-up.
    steps : int
        W >= 1; about 5 % of all steps.
    power : float
        1 is linear; 2 is what SM3's authors prefer. > 0.

    Examples
    --------
    >>> [WarmUp(1.0, 4)(t) for t in (1, 2, 4, 9)]
    [0.0625, 0.25, 1.0, 1.0]
    """

    value: float = _number()
    steps: int = fields.integer(low=1)
    power: float = _number(2, 0, open_low=True)

    def value_at(self, t: int) -> float:
        """The factor rises from (1/W)^p to 1."""
        return self.value * min(1.0, math.pow(t / self.steps, self.power))


@dataclass(frozen=True)
class CoolDown(_Checked):
    """value * min(1, (total - t) / (fraction * total)): constant, then linear to zero at step ``total``.

    As published, the last step, t = total, gets 0 and moves nothing; with ``total = T + 1`` step T still
    moves.

    Parameters
    ----------
    value : float
        The value before the end.
    total : int
        T >= 1, the step at which zero is reached; later ones get 0 too.
    fraction : float
        The share of the steps over which it falls, in (0, 1].

    Examples
    --------
    >>> [CoolDown(1.0, 100)(t) for t in (1, 90, 95, 100, 101)]
    [1.0, 1.0, 0.5, 0.0, 0.0]
    """

    value: float = _number()
    total: int = fields.integer(low=1)
    fraction: float = _number(0.1, 0, 1, open_low=True)

    def value_at(self, t: int) -> float:
        """The factor falls from 1 to 0."""
        return self.value * min(1.0, max(0, self.total - t) / (self.fraction * self.total))


@dataclass(frozen=True)
class InverseSqrt(_Checked):
    """value / sqrt(t): the step size of online gradient descent (Zinkevich 2003, Theorem 1).

    Parameters
    ----------
    value : float
        The value at the first step.

    Examples
    --------
    >>> InverseSqrt(1.0)(4)
    0.5
    """

    value: float = _number()

    def value_at(self, t: int) -> float:
        """One division."""
        return self.value / math.sqrt(t)


@dataclass(frozen=True)
class InverseTime(_Checked):
    """value / (1 + decay * (t - 1)): torch's ``lr_decay`` in Adagrad.

    Parameters
    ----------
    value : float
        The value at the first step.
    decay : float
        >= 0.

    Examples
    --------
    >>> [InverseTime(1.0, 0.5)(t) for t in (1, 3)]
    [1.0, 0.5]
    """

    value: float = _number()
    decay: float = _number(low=0)

    def value_at(self, t: int) -> float:
        """One division."""
        return self.value / (1.0 + self.decay * (t - 1))


@dataclass(frozen=True)
class Linear(_Checked):
    """From ``start`` at the first step to ``end`` after ``steps`` more, then ``end``.

    Parameters
    ----------
    start, end : float
    steps : int
        >= 1; step 1 + steps is the first that gets ``end``.

    Examples
    --------
    >>> [Linear(1.0, 0.0, 4)(t) for t in (1, 3, 5, 6)]
    [1.0, 0.5, 0.0, 0.0]
    """

    start: float = _number()
    end: float = _number()
    steps: int = fields.integer(low=1)

    def value_at(self, t: int) -> float:
        """Both ends are met exactly."""
        share = min(1.0, (t - 1) / self.steps)
        return (1.0 - share) * self.start + share * self.end


@dataclass(frozen=True)
class Exponential(_Checked):
    """value * factor^((t - 1) / steps).

    Parameters
    ----------
    value : float
        The value at the first step.
    factor : float
        What ``steps`` steps multiply the value with, > 0.
    steps : int
        >= 1.

    Examples
    --------
    >>> Exponential(1.0, 0.5, 10)(11)
    0.5
    """

    value: float = _number()
    factor: float = _number(low=0, open_low=True)
    steps: int = fields.integer(1, low=1)

    def value_at(self, t: int) -> float:
        """One power."""
        return self.value * math.pow(self.factor, (t - 1) / self.steps)


@dataclass(frozen=True)
class Cosine(_Checked):
    """end + (start - end) (1 + cos(pi (t - 1) / steps)) / 2, then ``end``.

    I. Loshchilov and F. Hutter, "SGDR: stochastic gradient descent with warm restarts", ICLR 2017, equation
    5, without restarts.

    Parameters
    ----------
    start : float
        The value at the first step.
    steps : int
        >= 1; step 1 + steps is the first that gets ``end``.
    end : float

    Examples
    --------
    >>> [round(Cosine(1.0, 4)(t), 6) for t in (1, 3, 5, 9)]
    [1.0, 0.5, 0.0, 0.0]
    """

    start: float = _number()
    steps: int = fields.integer(low=1)
    end: float = _number(0.0)

    def value_at(self, t: int) -> float:
        """Half a period."""
        if t > self.steps:
            return self.end
        return self.end + (self.start - self.end) * (1.0 + math.cos(math.pi * (t - 1) / self.steps)) / 2.0


@dataclass(frozen=True)
class Piecewise(_Checked):
    """``values[k]`` until step ``boundaries[k]``, that step included; the last value ever after.

    Parameters
    ----------
    boundaries : tuple of int
        Steps >= 1, ascending.
    values : tuple of float
        One more than there are boundaries.

    Examples
    --------
    >>> [Piecewise((10, 20), (1.0, 0.1, 0.01))(t) for t in (10, 11, 21)]
    [1.0, 0.1, 0.01]
    """

    boundaries: tuple[int, ...]
    values: tuple[float, ...]

    def __post_init__(self) -> None:
        steps, values = tuple(self.boundaries), tuple(self.values)
        if len(values) != len(steps) + 1:
            got, wanted = f"{len(values)} values", f"{len(steps) + 1}, one more than boundaries"
            raise HyperparameterError("Piecewise", got, wanted, "Add the value after the last boundary.")
        check_step = fields.integer(low=1).metadata["check"]
        check_value = _number().metadata["check"]
        steps = tuple(check_step("Piecewise.boundaries", n) for n in steps)
        if any(a >= b for a, b in pairwise(steps)):
            raise HyperparameterError("Piecewise.boundaries", repr(steps), "ascending steps", "Sort them.")
        object.__setattr__(self, "boundaries", steps)
        object.__setattr__(self, "values", tuple(check_value("Piecewise.values", v) for v in values))

    def value_at(self, t: int) -> float:
        """A look-up."""
        return self.values[bisect_left(self.boundaries, t)]


@dataclass(frozen=True)
class Function(_Checked):
    """Any function of the step. It is as pure as the function, equal only to itself, and cannot be stored.

    Parameters
    ----------
    function : callable
        Takes the step, 1 at the first; returns a number.

    Examples
    --------
    >>> Function(lambda t: 1 / t)(4)
    0.25
    """

    function: Callable[[int], float]

    def __post_init__(self) -> None:
        if not callable(self.function) or isinstance(self.function, type):
            raise HyperparameterError("Function", repr(self.function), "a function of the step", "Pass one.")

    def value_at(self, t: int) -> float:
        """What the function returns."""
        return self.function(t)
