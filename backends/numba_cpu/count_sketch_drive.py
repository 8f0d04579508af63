"""One step through the sketches of a tensor, a block of columns at a time.

Every task owns its columns of all rows, weights and tables alike: no two tasks write the same number, and
each meets the rows in ascending order. What is in flight are pieces of rows in the first cache, and the sums
that buckets hold aside.

Row k of ``arrays`` describes the weights (k = 0), the gradient (1) or a dense first moment (2), columns as in
:mod:`.drive`, with the steps from row to row and from column to column. Row s of ``moments`` are the words of
M (s = 0) or V (1), see :mod:`.count_sketch_rows`, all 0 if there is none; row s of ``numbers`` are addresses
of its numbers, and of two numbers which the whole table is multiplied with first, or 0.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from .cache import KernelCache
from .count_sketch_rows import (
    ANSWER,
    ASIDE,
    BUCKETS,
    DEPTH,
    GRADIENT,
    QUERY,
    SIZE,
    SPACE,
    SPARE,
    TABLE,
    WEIGHTS,
)
from .drive import ADDRESS, GATHER, ITEMSIZE, NATIVE, SCATTER
from .memory import call_kernel, call_mover
from .options import STRICT

#: Rows of ``arrays``.
W, G, MEAN = range(3)


@numba.njit(**STRICT)
def opened(array: Any, row: int, left: int, n: int, buffer: int) -> int:
    """The address of a piece of a row, or of ``buffer`` with its numbers."""
    here: int = array[ADDRESS] + (row * array[-2] + left * array[-1]) * array[ITEMSIZE]
    if array[NATIVE] != 0 and (array[-1] == 1 or n == 1):
        return here
    call_mover(array[GATHER], here, 0, array[-1], 1, n, 0, buffer)
    return buffer


@numba.njit(**STRICT)
def closed(array: Any, row: int, left: int, n: int, buffer: int, found: int) -> None:
    """Write a piece back, if it was not used in place."""
    if found == buffer:
        here = array[ADDRESS] + (row * array[-2] + left * array[-1]) * array[ITEMSIZE]
        call_mover(array[SCATTER], here, 0, array[-1], 1, n, 0, found)


@numba.njit(**STRICT)
def block(
    kernels: Any,
    arrays: Any,
    moments: Any,
    numbers: Any,
    items: Any,
    listed: bool,
    ready: Any,
    apart: int,
    l2: bool,
    values: int,
    left: int,
    right: int,
) -> None:
    """All rows of the columns ``left`` to ``right``.

    Parameters
    ----------
    kernels : array of int64
        Addresses of the loops that step the weights, follow a moment, and multiply rows.
    items : array of int64
        The active rows; ``ready`` those that can be stepped as soon as they are met.
    listed : bool
        The gradient is dense, and has its rows where the weights have theirs.
    apart : int
        How many sums are held aside at most.
    l2 : bool
        Whether the weights are added to the gradient.
    values : int
        Address of the numbers of the step of the weights.
    """
    finish, follow, scale = kernels[0], kernels[1], kernels[2]
    words, n = moments.copy(), right - left
    size, deep = words[0, SIZE], max(words[0, DEPTH], words[1, DEPTH])
    space = np.empty((3 + 2 * (SPARE + deep) + apart) * n * size // 8 + 1, np.int64)
    w = space.ctypes.data
    g, m, free = w + n * size, w + 2 * n * size, w + 3 * n * size
    table = np.zeros(4, np.int64)
    for s in range(2):
        words[s, TABLE] += left * size
        words[s, SPACE] = free + s * (SPARE + deep) * n * size
        words[s, ASIDE] = free + 2 * (SPARE + deep) * n * size
        table[2 + s] = words[s, SPACE] + ANSWER * n * size
        for k in range(1, 3):
            if numbers[s, k] != 0:
                call_kernel(scale, words[s].ctypes.data, words[s, BUCKETS], n, numbers[s, k])
    for turn in range(2):
        for i in range(items.size):
            if turn == 1 and ready[i]:
                continue
            row = items[i]
            table[1] = opened(arrays[G], row if listed else i, left, n, g)
            if turn == 0:
                before = opened(arrays[W], row, left, n, w) if l2 else 0
                for s in range(2):
                    if words[s, DEPTH] != 0:
                        words[s, GRADIENT], words[s, WEIGHTS] = table[1], before
                        call_kernel(follow, words[s].ctypes.data, i, n, numbers[s, 0])
                if not ready[i]:
                    continue
            table[0] = opened(arrays[W], row, left, n, w)
            for s in range(2):
                if words[s, DEPTH] != 0:
                    call_kernel(words[s, QUERY], words[s].ctypes.data, i, n, numbers[s, 0])
            if arrays.shape[0] > MEAN:
                table[2] = opened(arrays[MEAN], row, left, n, m)
            call_kernel(finish, table.ctypes.data, 0, n, values)
            closed(arrays[W], row, left, n, w, table[0])
            if arrays.shape[0] > MEAN:
                closed(arrays[MEAN], row, left, n, m, table[2])
    # Known by its address only, the space would be given back before the loop.
    space[0] = 0


@numba.njit(**STRICT, nogil=True)
def serial(
    kernels: Any,
    arrays: Any,
    moments: Any,
    numbers: Any,
    items: Any,
    listed: bool,
    ready: Any,
    apart: int,
    l2: bool,
    values: int,
    edges: Any,
) -> None:
    """All blocks of columns, between neighbours of ``edges``, in this thread."""
    for task in range(edges.size - 1):
        left, right = edges[task], edges[task + 1]
        block(kernels, arrays, moments, numbers, items, listed, ready, apart, l2, values, left, right)


@numba.njit(**STRICT, nogil=True, parallel=True)
def parallel(
    kernels: Any,
    arrays: Any,
    moments: Any,
    numbers: Any,
    items: Any,
    listed: bool,
    ready: Any,
    apart: int,
    l2: bool,
    values: int,
    edges: Any,
) -> None:
    """All blocks of columns, which the threads share."""
    for task in numba.prange(edges.size - 1):
        left, right = edges[task], edges[task + 1]
        block(kernels, arrays, moments, numbers, items, listed, ready, apart, l2, values, left, right)


@numba.njit(**STRICT, nogil=True)
def find_active(
    stir: int, arrays: Any, l2: bool, numbers: int, piece: int, columns: int, active: Any
) -> None:
    """Which rows of a dense gradient hold anything but zeros, ``piece`` columns at a time."""
    space, table = np.empty(2 * piece, np.float64), np.zeros(3, np.int64)
    for row in range(active.size):
        table[2] = 0
        for left in range(0, columns, piece):
            if table[2] == 0:
                n = min(piece, columns - left)
                table[0] = opened(arrays[G], row, left, n, space.ctypes.data)
                if l2:
                    table[1] = opened(arrays[W], row, left, n, space.ctypes.data + 8 * piece)
                call_kernel(stir, table.ctypes.data, 0, n, numbers)
        active[row] = table[2] != 0


@numba.njit(**STRICT, nogil=True)
def shrink_resting(scale: int, arrays: Any, factor: int, piece: int, columns: int, active: Any) -> None:
    """Decay the weights of the other rows: multiply them with the number at the address ``factor``."""
    space, table = np.empty(piece, np.float64), np.zeros(2, np.int64)
    for row in range(active.size):
        if not active[row]:
            for left in range(0, columns, piece):
                n = min(piece, columns - left)
                table[0] = opened(arrays[W], row, left, n, space.ctypes.data)
                call_kernel(scale, table.ctypes.data, 1, n, factor)
                closed(arrays[W], row, left, n, space.ctypes.data, table[0])


serial._cache, parallel._cache = KernelCache("sketch-serial"), KernelCache("sketch-parallel")
find_active._cache, shrink_resting._cache = KernelCache("sketch-find"), KernelCache("sketch-shrink")
