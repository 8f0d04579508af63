"""Where an array begins, as a number. Nothing here loads Numba."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from typing import Any

import numpy as np


def slow_address(x: Any) -> int:
    """The address of an array's first entry, as NumPy says it."""
    return int(x.ctypes.data)


def fast_address(x: Any) -> int:
    """The same, many times sooner: read where the array object keeps it.

    That is its first field after the head of every object, in each release of NumPy: extensions are compiled
    with it. Addresses of ever new gradients are most of what a small step costs.
    """
    return int(_Number.from_address(id(x) + _HEAD).value)


class _Asked:
    """A window for interpreters whose objects lie elsewhere."""

    def __init__(self, x: Any) -> None:
        self._x = x

    @property
    def value(self) -> int:
        return slow_address(self._x)


_Number, _HEAD = ctypes.c_ssize_t, object.__basicsize__


def _is_where_it_was() -> bool:
    x = np.zeros((3, 4), np.float32)
    tried = (x, x[1:, ::-1], x.T, np.zeros(()), x.view(np.uint8))
    return all(fast_address(y) == slow_address(y) for y in tried)


RELIABLE = sys.implementation.name == "cpython" and _is_where_it_was()
address_of: Callable[[Any], int] = fast_address if RELIABLE else slow_address


def window(x: Any) -> Any:
    """An object whose ``value`` is the array's address at any time, as long as someone keeps the array alive.

    Examples
    --------
    >>> x = np.zeros(3)
    >>> window(x).value == x.ctypes.data
    True
    """
    return _Number.from_address(id(x) + _HEAD) if RELIABLE else _Asked(x)
