"""The functions of :mod:`memopt_ref.parts.scalar` on scalars inside compiled loops, with NumPy's bits.

Each is a choice of values, never of instructions: a branch would keep a loop from being vectorised, and an
``if`` around a division is a branch.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import types
from numba.core.errors import TypingError
from numba.extending import intrinsic, overload

from memopt_ref.parts import scalar

from .options import STRICT


@intrinsic
def choose(typing_context: Any, condition: Any, x: Any, y: Any) -> Any:
    """``x`` if the condition holds, else ``y``: one machine instruction; both are of one type."""
    if x != y or not isinstance(condition, types.Boolean):
        raise TypingError(f"choose takes a bool and two of one type, got {condition}, {x}, {y}")

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.select(*arguments)

    return x(condition, x, y), generate


def _number(kind: Any) -> Any:
    if not isinstance(kind, types.Float):
        raise TypingError(f"expressions compute with floating-point numbers, got {kind}")
    return np.dtype(str(kind)).type


def _same(x: Any, y: Any) -> Any:
    if x != y:
        raise TypingError(
            f"an expression mixes {x} and {y}: it holds a literal, or a coefficient is not cast"
        )
    return _number(x)


@overload(scalar.sqrt, jit_options=STRICT)
def sqrt(x: Any) -> Any:
    """Correctly rounded by the processor."""
    _number(x)

    def value(x: Any) -> Any:
        return math.sqrt(x)

    return value


@overload(scalar.absolute, jit_options=STRICT)
def absolute(x: Any) -> Any:
    """Clears the sign, of NaN too."""
    _number(x)

    def value(x: Any) -> Any:
        return abs(x)

    return value


@overload(scalar.sign, jit_options=STRICT)
def sign(x: Any) -> Any:
    """Both zeros have the sign +0; NaN stays as it is."""
    number = _number(x)
    one, zero, minus = number(1), number(0), number(-1)

    def value(x: Any) -> Any:
        unsigned = choose(x == zero, zero, x)
        return choose(x > zero, one, choose(x < zero, minus, unsigned))

    return value


@overload(scalar.maximum, jit_options=STRICT)
def maximum(x: Any, y: Any) -> Any:
    """NaN if either is; between +0 and -0 the second, as NumPy has it on x86."""
    _same(x, y)

    def value(x: Any, y: Any) -> Any:
        return choose((x > y) | (x != x), x, y)

    return value


@overload(scalar.minimum, jit_options=STRICT)
def minimum(x: Any, y: Any) -> Any:
    """NaN if either is; between +0 and -0 the second, as NumPy has it on x86."""
    _same(x, y)

    def value(x: Any, y: Any) -> Any:
        return choose((x < y) | (x != x), x, y)

    return value


@overload(scalar.power, jit_options=STRICT)
def power(x: Any, exponent: Any) -> Any:
    """The C library's ``pow``: its last bit may differ from NumPy's, so no bitwise kernel is made with it."""
    _same(x, exponent)

    def value(x: Any, exponent: Any) -> Any:
        return x**exponent

    return value


@overload(scalar.select, jit_options=STRICT)
def select(condition: Any, x: Any, y: Any) -> Any:
    """A choice between two numbers, both of them computed."""
    _same(x, y)

    def value(condition: Any, x: Any, y: Any) -> Any:
        return choose(condition, x, y)

    return value


@overload(scalar.ratio, jit_options=STRICT)
def ratio(numerator: Any, denominator: Any) -> Any:
    """0 wherever the denominator is 0; the division itself is by 1 there, and never trapped."""
    number = _same(numerator, denominator)
    one, zero = number(1), number(0)

    def value(numerator: Any, denominator: Any) -> Any:
        nothing = denominator == zero
        return choose(nothing, zero, numerator / choose(nothing, one, denominator))

    return value
