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
    LINE,
    NOTHING,
    QUERY,
    SIZE,
    SOON,
    SPACE,
    SPARE,
    TABLE,
    WEIGHTS,
)
from .drive import ADDRESS, GATHER, ITEMSIZE, NATIVE, SCATTER
from .memory import as_uint8, as_uint32, call_kernel, call_mover, hold
from .options import STRICT
from .prefetch import prefetch
from .vectors import LANES

#: Rows of ``arrays``.
W, G, MEAN = range(3)
#: -0 in float32.
MINUS_ZERO = np.uint32(1 << 31)


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
def near(array: Any, row: int, left: int, n: int) -> None:
    """Send for a piece of a row, if it is in one piece: it will be opened soon."""
    if array[-1] == 1:
        here = as_uint8(array[ADDRESS] + (row * array[-2] + left) * array[ITEMSIZE])
        for line in range(0, n * array[ITEMSIZE], LINE):
            prefetch(here, line)


@numba.njit(**STRICT)
def finished(
    finish: int, arrays: Any, table: Any, row: int, left: int, n: int, w: int, m: int, values: int
) -> None:
    """Step a piece of a row of the weights, whose gradient and moments are in the table."""
    table[0] = opened(arrays[W], row, left, n, w)
    if arrays.shape[0] > MEAN:
        table[2] = opened(arrays[MEAN], row, left, n, m)
    call_kernel(finish, table.ctypes.data, 0, n, values)
    closed(arrays[W], row, left, n, w, table[0])
    if arrays.shape[0] > MEAN:
        closed(arrays[MEAN], row, left, n, m, table[2])


@numba.njit(**STRICT)
def block(
    kernels: Any,
    arrays: Any,
    moments: Any,
    numbers: Any,
    items: Any,
    listed: bool,
    ready: Any,
    waiting: Any,
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
        Addresses of the loops that step the weights, follow a moment, and multiply rows; and of those that
        follow a moment and leave QUERY's answer, and QUERY, a whole number of vectors at a time, or 0.
    items : array of int64
        The active rows; ``ready`` those that can be stepped as soon as they are met, ``waiting`` the places
        of the others.
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
    pitch, fused = n * size, kernels[3] != 0 and n % LANES == 0
    space = np.empty(((4 + 2 * (SPARE + deep) + apart) * pitch + LINE) // 8 + 1, np.int64)
    # A vector that lies in two cache lines takes twice as long.
    w = (space.ctypes.data + LINE - 1) // LINE * LINE
    g, m, nothing, free = w + pitch, w + 2 * pitch, w + 3 * pitch, w + 4 * pitch
    table = np.zeros(4, np.int64)
    for s in range(2):
        words[s, TABLE] += left * size
        words[s, SPACE] = free + s * (SPARE + deep) * pitch
        words[s, ASIDE] = free + 2 * (SPARE + deep) * pitch
        words[s, NOTHING] = nothing
        if fused:
            words[s, QUERY] = kernels[4]
        table[2 + s] = words[s, SPACE] + ANSWER * pitch
        for k in range(1, 3):
            if numbers[s, k] != 0:
                call_kernel(scale, words[s].ctypes.data, words[s, BUCKETS], n, numbers[s, k])
    if fused:
        follow = kernels[3]
        for c in range(n):
            as_uint32(nothing)[c] = MINUS_ZERO
    for i in range(items.size):
        row, after = items[i], min(i + 1, items.size - 1)
        table[1] = opened(arrays[G], row if listed else i, left, n, g)
        before = opened(arrays[W], row, left, n, w) if l2 else 0
        for s in range(2):
            if words[s, DEPTH] != 0:
                words[s, GRADIENT], words[s, WEIGHTS] = table[1], before
                call_kernel(follow, words[s].ctypes.data, i, n, numbers[s, 0])
                if ready[i] and not fused:
                    call_kernel(words[s, QUERY], words[s].ctypes.data, i, n, numbers[s, 0])
        near(arrays[G], items[after] if listed else after, left, n)
        if ready[after] or l2:
            near(arrays[W], items[after], left, n)
        if ready[i]:
            finished(finish, arrays, table, row, left, n, w, m, values)
    for k in range(waiting.size):
        i, after = waiting[k], waiting[min(k + 1, waiting.size - 1)]
        table[1] = opened(arrays[G], items[i] if listed else i, left, n, g)
        for s in range(2):
            if words[s, DEPTH] != 0:
                words[s, SOON] = after
                call_kernel(words[s, QUERY], words[s].ctypes.data, i, n, numbers[s, 0])
        near(arrays[W], items[after], left, n)
        finished(finish, arrays, table, items[i], left, n, w, m, values)
    hold(space)
    hold(table)
    hold(words)


@numba.njit(**STRICT, nogil=True)
def serial(
    kernels: Any,
    arrays: Any,
    moments: Any,
    numbers: Any,
    items: Any,
    listed: bool,
    ready: Any,
    waiting: Any,
    apart: int,
    l2: bool,
    values: int,
    edges: Any,
) -> None:
    """All blocks of columns, between neighbours of ``edges``, in this thread."""
    for task in range(edges.size - 1):
        left, right = edges[task], edges[task + 1]
        block(
            kernels, arrays, moments, numbers, items, listed, ready, waiting, apart, l2, values, left, right
        )


@numba.njit(**STRICT, nogil=True, parallel=True)
def parallel(
    kernels: Any,
    arrays: Any,
    moments: Any,
    numbers: Any,
    items: Any,
    listed: bool,
    ready: Any,
    waiting: Any,
    apart: int,
    l2: bool,
    values: int,
    edges: Any,
) -> None:
    """All blocks of columns, which the threads share."""
    for task in numba.prange(edges.size - 1):
        left, right = edges[task], edges[task + 1]
        block(
            kernels, arrays, moments, numbers, items, listed, ready, waiting, apart, l2, values, left, right
        )


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
    hold(space)
    hold(table)


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
    hold(space)
    hold(table)


serial._cache, parallel._cache = KernelCache("sketch-serial"), KernelCache("sketch-parallel")
find_active._cache, shrink_resting._cache = KernelCache("sketch-find"), KernelCache("sketch-shrink")
