"""Fractions with a square root of 60 digits, for replays of a rule without rounding."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np


class Exact(Fraction):
    """A fraction that takes floats as what they are and has the root that ``np.sqrt`` asks for."""

    def sqrt(self):
        """The root, rounded down to a multiple of 2^-200."""
        return Exact(math.isqrt((self.numerator << 400) // self.denominator), 1 << 200)


def _closed(name: str):
    def operation(self, other=None):
        arguments = () if other is None else (Fraction(other) if isinstance(other, float) else other,)
        return Exact(getattr(Fraction, name)(self, *arguments))

    return operation


for _name in ("add", "radd", "sub", "rsub", "mul", "rmul", "truediv", "rtruediv", "neg", "abs"):
    setattr(Exact, f"__{_name}__", _closed(f"__{_name}__"))


def exact(x):
    """An array of the same numbers as :class:`Exact` objects."""
    return np.array([Exact(float(v)) for v in x.reshape(-1)], dtype=object).reshape(x.shape)
