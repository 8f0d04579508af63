"""Numbers for replaying a witness: fractions, or 50 digits where there are roots.

A rule steps arrays of these through the same equations as floats. A float that meets one is taken exactly (a
float is a fraction), so the learning rate of a float rule stays what it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from decimal import Context, Decimal, localcontext
from fractions import Fraction
from typing import Any

import numpy as np

DIGITS = 50


def _with(operation: Callable[[Any, Any], Any]) -> Callable[[Exact, Any], Any]:
    def method(self: Exact, other: Any) -> Any:
        # An array goes through its entries by itself.
        return (
            NotImplemented if isinstance(other, np.ndarray) else Exact(operation(self.value, self._of(other)))
        )

    return method


class Exact:
    """A Fraction or a Decimal that mixes with Python floats and lives in NumPy object arrays.

    Examples
    --------
    >>> Exact(Fraction(1, 3)) + 0.5
    Exact(5/6)
    >>> Exact(Fraction(9, 4)).sqrt()
    Exact(3/2)
    """

    __slots__ = ("value",)

    def __init__(self, value: Fraction | Decimal) -> None:
        self.value: Any = value

    def _of(self, other: Any) -> Any:
        if isinstance(other, Exact):
            return other.value
        return type(self.value)(other.item() if isinstance(other, np.generic) else other)

    __add__ = __radd__ = _with(lambda a, b: a + b)
    __sub__, __rsub__ = _with(lambda a, b: a - b), _with(lambda a, b: b - a)
    __mul__ = __rmul__ = _with(lambda a, b: a * b)
    __truediv__, __rtruediv__ = _with(lambda a, b: a / b), _with(lambda a, b: b / a)

    def __pow__(self, exponent: int) -> Exact:
        return Exact(self.value ** int(exponent))

    def __neg__(self) -> Exact:
        return Exact(-self.value)

    def __abs__(self) -> Exact:
        return Exact(abs(self.value))

    def __float__(self) -> float:
        return float(self.value)

    def __bool__(self) -> bool:
        return bool(self.value)

    def __lt__(self, other: Any) -> bool:
        return bool(self.value < self._of(other))

    def __le__(self, other: Any) -> bool:
        return bool(self.value <= self._of(other))

    def __gt__(self, other: Any) -> bool:
        return bool(self.value > self._of(other))

    def __ge__(self, other: Any) -> bool:
        return bool(self.value >= self._of(other))

    def __eq__(self, other: object) -> bool:
        return bool(self.value == self._of(other))

    def __hash__(self) -> int:
        return hash(self.value)

    def __repr__(self) -> str:
        return f"Exact({self.value})"

    def sqrt(self) -> Exact:
        """The square root, in the number's own kind.

        Raises
        ------
        ArithmeticError
            The root of this fraction is not a fraction: replay with digits.
        """
        if isinstance(self.value, Decimal):
            return Exact(self.value.sqrt())
        top, bottom = math.isqrt(self.value.numerator), math.isqrt(self.value.denominator)
        if top * top != self.value.numerator or bottom * bottom != self.value.denominator:
            raise ArithmeticError(f"the root of {self.value} is irrational")
        return Exact(Fraction(top, bottom))


def array(values: Any, kind: type[Fraction] | type[Decimal]) -> Any:
    """An object array of :class:`Exact`; strings and floats are taken exactly.

    Examples
    --------
    >>> array(["0.1", "-2"], Fraction)
    array([Exact(1/10), Exact(-2)], dtype=object)
    """
    given = np.asarray(values, dtype=object)
    made = np.empty(given.shape, object)
    for where in np.ndindex(given.shape):
        entry: Any = given[where]
        made[where] = entry if isinstance(entry, Exact) else Exact(kind(entry))
    return made


def digits(n: int = DIGITS) -> AbstractContextManager[Context]:
    """A context in which Decimals have ``n`` digits."""
    return localcontext(Context(prec=n))
