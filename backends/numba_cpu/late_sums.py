"""The later levels of the sums of :mod:`memopt_ref.parts.sums`, whose first level the passes have formed.

The same trees in plain loops: NumPy adds a few thousand numbers too slowly for a step that only moves memory.
"""

from __future__ import annotations

from math import prod
from typing import Any

import numba
import numpy as np

from memopt_ref.parts import sums as reference
from memopt_ref.parts.sums import LANES, LEAF, RUN

from .cache import KernelCache
from .options import STRICT


@numba.njit(**STRICT)
def sum_row(x: Any, n: int, lanes: Any) -> Any:
    """The sum of the first ``n`` numbers of ``x``, which is used up; ``lanes`` is room for as many lanes."""
    zero = x.dtype.type(0)
    left = 0
    while left != 1:
        left, wide = max((n + LEAF - 1) // LEAF, 1), 1
        while wide < LANES and wide < n:
            wide *= 2
        for leaf in range(left):
            begin, end = leaf * LEAF, min(n, leaf * LEAF + LEAF)
            for lane in range(wide):
                lanes[lane] = zero
            for start in range(begin, end, wide):
                for lane in range(min(wide, end - start)):
                    lanes[lane] += x[start + lane]
            many = wide
            while many > 1:
                many //= 2
                for lane in range(many):
                    lanes[lane] = lanes[2 * lane] + lanes[2 * lane + 1]
            x[leaf] = lanes[0]
        n = left
    return x[0]


@numba.njit(**STRICT, nogil=True)
def sum_rows(x: Any, sums: Any) -> None:
    """The sum of each row of a matrix; one of one or two numbers needs no lanes."""
    n, zero = x.shape[1], x.dtype.type(0)
    if n == 1 or n == 2:
        for i in range(x.shape[0]):
            sums[i] = (zero + x[i, 0]) + (zero + x[i, n - 1] if n == 2 else zero)
        return
    row, lanes = np.empty(max(n, 1), x.dtype), np.empty(LANES, x.dtype)
    for i in range(x.shape[0]):
        for j in range(n):
            row[j] = x[i, j]
        sums[i] = sum_row(row, n, lanes)


@numba.njit(**STRICT, nogil=True)
def sum_columns(x: Any, sums: Any) -> None:
    """The sums of the columns of each matrix of a batch."""
    zero = x.dtype.type(0)
    m, n = x.shape[1:]
    total = np.empty(((m + RUN - 1) // RUN, n), x.dtype)
    for b in range(x.shape[0]):
        for i in range(m):
            into = total[i // RUN]
            for j in range(n):
                into[j] = (zero if i % RUN == 0 else into[j]) + x[b, i, j]
        left = total.shape[0]
        while left > 1:
            # A run's sum takes a place that was read before.
            for i in range(left):
                into = total[i // RUN]
                for j in range(n):
                    into[j] = (zero if i % RUN == 0 else into[j]) + total[i, j]
            left = (left + RUN - 1) // RUN
        for j in range(n):
            sums[b, j] = total[0, j]


sum_rows._cache, sum_columns._cache = KernelCache("late-sums-rows"), KernelCache("late-sums-columns")


def along_rows(x: Any) -> Any:
    """Sum along the last axis, as :func:`memopt_ref.parts.sums.along_rows`.

    >>> along_rows(np.arange(6.0).reshape(2, 3))
    array([ 3., 12.])
    """
    if prod(x.shape[:-1]) > x.shape[-1]:
        # Many short rows, to which NumPy adds a number each at a time.
        return reference.along_rows(x)
    sums = np.empty(x.shape[:-1], x.dtype)
    sum_rows(np.ascontiguousarray(x).reshape(sums.size, x.shape[-1]), sums.reshape(-1))
    return sums


def down_columns(x: Any) -> Any:
    """Sum over the axis before the last, which is not empty, as :func:`memopt_ref.parts.sums.down_columns`.

    >>> down_columns(np.arange(6.0).reshape(2, 3))
    array([3., 5., 7.])
    """
    *batch, m, n = x.shape
    sums = np.empty((*batch, n), x.dtype)
    sum_columns(np.ascontiguousarray(x).reshape(prod(batch), m, n), sums.reshape(prod(batch), n))
    return sums
