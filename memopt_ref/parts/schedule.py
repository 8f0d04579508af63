"""What a schedule is: a pure function of the step, counted from 1, that can be compared and stored."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ..errors import HyperparameterError


@dataclass(frozen=True)
class Schedule:
    """A number that depends on the step alone. Concrete ones live in :mod:`memopt_ref.schedules`.

    A subclass is a frozen dataclass with a method ``__call__(step: int) -> float``; ``step`` is 1 at the
    first step. Schedules multiply with numbers and with each other.
    """

    #: ``numpy.float64(2) * schedule`` is a schedule too, not an array of objects.
    __array_ufunc__ = None

    def __call__(self, step: int) -> float:
        """The value at ``step``, 1 at the first."""
        raise TypeError(f"{type(self).__name__} does not say what its value is at step {step}")

    def __mul__(self, other: Any) -> Schedule:
        return Product((self, other))

    def __rmul__(self, other: Any) -> Schedule:
        return Product((other, self))


@dataclass(frozen=True)
class Product(Schedule):
    """The product of schedules and numbers, from left to right; what ``*`` makes.

    Parameters
    ----------
    factors : tuple of Schedule and float
        Products in it are taken apart, so that (a * b) * c equals a * (b * c).

    Raises
    ------
    HyperparameterError
        A factor is neither a schedule nor a finite number.
    """

    factors: tuple[Any, ...]

    def __post_init__(self) -> None:
        flat: list[Any] = []
        for factor in self.factors:
            flat += factor.factors if isinstance(factor, Product) else [_factor(factor)]
        object.__setattr__(self, "factors", tuple(flat))

    def __call__(self, step: int) -> float:
        """The product of the factors' values at ``step``."""
        value = 1.0
        for factor in self.factors:
            value *= factor(step) if isinstance(factor, Schedule) else factor
        return value


def _factor(factor: Any) -> Any:
    if isinstance(factor, Schedule):
        return factor
    try:
        number = float(factor)
    except (TypeError, ValueError):
        number = math.nan
    if isinstance(factor, bool | str) or not math.isfinite(number):
        advice = "Wrap a function in schedules.Function."
        raise HyperparameterError("Product", repr(factor), "a Schedule or a finite number", advice)
    return number


#: ``float | Schedule``. A rule's equations see floats only, since ``rule.at(step)`` comes first; a type
#: checker cannot see that, hence Any.
Number = Any
