"""The functions that an element-wise expression may call besides ``+ - * /``.

An expression is written once and runs on NumPy arrays here, on scalars inside compiled loops elsewhere. So it
holds no literal (an ``int`` times float32 is float64 in compiled code) and calls only what this file defines;
a backend gives each of these names its own scalar implementation.
"""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["absolute", "maximum", "minimum", "power", "ratio", "select", "sign", "sqrt"]


def sqrt(x: Any) -> Any:
    """Square root, correctly rounded."""
    return np.sqrt(x)


def absolute(x: Any) -> Any:
    """Magnitude."""
    return np.abs(x)


def sign(x: Any) -> Any:
    """-1, 0 or +1 in the dtype of ``x``; NaN stays NaN."""
    return np.sign(x)


def maximum(x: Any, y: Any) -> Any:
    """The larger; NaN if either is."""
    return np.maximum(x, y)


def minimum(x: Any, y: Any) -> Any:
    """The smaller; NaN if either is."""
    return np.minimum(x, y)


def power(x: Any, exponent: Any) -> Any:
    """``x ** exponent``; the one function here whose last bit may differ between mathematical libraries."""
    return np.power(x, exponent)


def select(condition: Any, x: Any, y: Any) -> Any:
    """``x`` where the condition holds, else ``y``."""
    return np.where(condition, x, y)


def ratio(numerator: Any, denominator: Any) -> Any:
    """``numerator / denominator`` with the papers' convention 0/0 = 0: zero wherever the denominator is zero.

    A NaN in either stays NaN.

    Examples
    --------
    >>> import numpy as np
    >>> ratio(np.array([1.0, 0.0, 3.0]), np.array([2.0, 0.0, 0.0]))
    array([0.5, 0. , 0. ])
    """
    zero = denominator == 0
    if not np.any(zero):
        return numerator / denominator
    one_for_zero = np.where(zero, np.ones_like(denominator), denominator)
    return np.where(zero, np.zeros_like(denominator), numerator / one_for_zero)
