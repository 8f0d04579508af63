"""One step through the sketches of a tensor, a block of columns at a time.

Every task owns its columns of all rows, weights and tables alike: no two tasks write the same number, and
in each a bucket meets its rows in ascending order. What is in flight are pieces of rows in the first cache,
and the sums that buckets hold aside.

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
    NOTHING,
    NUMBERS,
    QUERY,
    SIZE,
    SOON,
    SPACE,
    SPARE,
    TABLE,
    WEIGHTS,
)
from .count_sketch_vectors import TASK
from .memory import as_uint32, call_kernel, hold
from .options import STRICT
from .pieces import LINE, closed, near, opened
from .vectors import LANES

#: Rows of ``arrays``.
W, G, MEAN = range(3)
#: Places in ``kernels``.
FINISH, FOLLOW, SCALE, IN_VECTORS = range(4)
#: Places in the table of the loop in vectors; the first three begin a run of places.
OF_WORDS, OF_ARRAYS, OF_OWN = (TASK.index(name) for name in ("m_words", "w_array", "own_w"))
OF_ITEMS, OF_ORDER, OF_READY, OF_CLOSING, OF_LATER, LISTED, LEFT = (
    TASK.index(name) for name in ("items", "order", "ready", "closing", "later", "listed", "left")
)
#: -0 in float32.
MINUS_ZERO = np.uint32(1 << 31)


@numba.njit(**STRICT)
def stepped(
    kernels: Any,
    arrays: Any,
    words: Any,
    table: Any,
    row: int,
    g: int,
    i: int,
    left: int,
    n: int,
    own: int,
    values: int,
) -> None:
    """Ask for the moments of the active row ``i``, whose gradient is at ``g``, and step its weights."""
    pitch = n * words[0, SIZE]
    for s in range(2):
        if words[s, DEPTH] != 0:
            call_kernel(words[s, QUERY], words[s].ctypes.data, i, n, words[s, NUMBERS])
    table[0], table[1] = opened(arrays[W], row, left, n, own + W * pitch), g
    if arrays.shape[0] > MEAN:
        table[2] = opened(arrays[MEAN], row, left, n, own + MEAN * pitch)
    call_kernel(kernels[FINISH], table.ctypes.data, 0, n, values)
    closed(arrays[W], row, left, n, own + W * pitch, table[0])
    if arrays.shape[0] > MEAN:
        closed(arrays[MEAN], row, left, n, own + MEAN * pitch, table[2])


@numba.njit(**STRICT)
def plainly(
    kernels: Any,
    arrays: Any,
    words: Any,
    items: Any,
    listed: bool,
    order: Any,
    ready: Any,
    closing: Any,
    later: Any,
    l2: bool,
    values: int,
    left: int,
    n: int,
    own: int,
) -> None:
    """All rows, by plain loops."""
    table, pitch, rows, q = np.zeros(4, np.int64), n * words[0, SIZE], items.size, 0
    for s in range(2):
        table[2 + s] = words[s, SPACE] + ANSWER * pitch
    for p in range(rows):
        i, after = order[p], order[min(p + 1, rows - 1)]
        row = items[i]
        g = opened(arrays[G], row if listed else i, left, n, own + G * pitch)
        w = opened(arrays[W], row, left, n, own + W * pitch) if l2 else 0
        for s in range(2):
            if words[s, DEPTH] != 0:
                words[s, SOON], words[s, GRADIENT], words[s, WEIGHTS] = after, g, w
                call_kernel(kernels[FOLLOW], words[s].ctypes.data, i, n, words[s, NUMBERS])
        near(arrays[G], items[after] if listed else after, left, n)
        near(arrays[W], items[after], left, n)
        if ready[i]:
            stepped(kernels, arrays, words, table, row, g, i, left, n, own, values)
        last = q + closing[p]
        while q < last:
            i = later[q]
            g = opened(arrays[G], items[i] if listed else i, left, n, own + G * pitch)
            stepped(kernels, arrays, words, table, items[i], g, i, left, n, own, values)
            q += 1
    hold(table)


@numba.njit(**STRICT)
def block(
    kernels: Any,
    arrays: Any,
    moments: Any,
    numbers: Any,
    items: Any,
    listed: bool,
    order: Any,
    ready: Any,
    closing: Any,
    later: Any,
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
        Addresses of loops: that step the weights, follow a moment, and multiply rows; and that do it all in
        vectors, or 0.
    items : array of int64
        The active rows.
    listed : bool
        The gradient is dense, and has its rows where the weights have theirs.
    order, ready, closing, later : array, shape [k]
        How the rows go through the sketches, see :mod:`.count_sketch_plan`.
    apart : int
        How many sums are held aside at most.
    l2 : bool
        Whether the weights are added to the gradient.
    values : int
        Address of the numbers of the step of the weights.
    """
    words, n = moments.copy(), right - left
    size, deep = words[0, SIZE], max(words[0, DEPTH], words[1, DEPTH])
    pitch = n * size
    space = np.empty(((4 + 2 * (SPARE + deep) + apart) * pitch + LINE) // 8 + 1, np.int64)
    # A vector that lies in two cache lines takes twice as long.
    own = (space.ctypes.data + LINE - 1) // LINE * LINE
    nothing, free = own + 3 * pitch, own + 4 * pitch
    for s in range(2):
        words[s, TABLE] += left * size
        words[s, SPACE] = free + s * (SPARE + deep) * pitch
        words[s, ASIDE] = free + 2 * (SPARE + deep) * pitch
        words[s, NOTHING], words[s, NUMBERS] = nothing, numbers[s, 0]
        for k in range(1, 3):
            if numbers[s, k] != 0:
                call_kernel(kernels[SCALE], words[s].ctypes.data, words[s, BUCKETS], n, numbers[s, k])
    task = np.zeros(len(TASK), np.int64)
    if kernels[IN_VECTORS] != 0 and n % LANES == 0:
        for c in range(n):
            as_uint32(nothing)[c] = MINUS_ZERO
        for s in range(2):
            task[OF_WORDS + s] = words[s].ctypes.data
        for k in range(3):
            if k < arrays.shape[0]:
                task[OF_ARRAYS + k] = arrays[k].ctypes.data
            task[OF_OWN + k] = own + k * pitch
        task[OF_ITEMS], task[OF_ORDER], task[OF_READY] = (
            items.ctypes.data,
            order.ctypes.data,
            ready.ctypes.data,
        )
        task[OF_CLOSING], task[OF_LATER] = closing.ctypes.data, later.ctypes.data
        task[LISTED], task[LEFT] = listed, left
        call_kernel(kernels[IN_VECTORS], task.ctypes.data, items.size, n, values)
    else:
        plainly(kernels, arrays, words, items, listed, order, ready, closing, later, l2, values, left, n, own)
    hold(space)
    hold(task)
    hold(words)


@numba.njit(**STRICT, nogil=True)
def serial(
    kernels: Any,
    arrays: Any,
    moments: Any,
    numbers: Any,
    items: Any,
    listed: bool,
    order: Any,
    ready: Any,
    closing: Any,
    later: Any,
    apart: int,
    l2: bool,
    values: int,
    edges: Any,
) -> None:
    """All blocks of columns, between neighbours of ``edges``, in this thread."""
    for task in range(edges.size - 1):
        left, right = edges[task], edges[task + 1]
        block(
            kernels,
            arrays,
            moments,
            numbers,
            items,
            listed,
            order,
            ready,
            closing,
            later,
            apart,
            l2,
            values,
            left,
            right,
        )


@numba.njit(**STRICT, nogil=True, parallel=True)
def parallel(
    kernels: Any,
    arrays: Any,
    moments: Any,
    numbers: Any,
    items: Any,
    listed: bool,
    order: Any,
    ready: Any,
    closing: Any,
    later: Any,
    apart: int,
    l2: bool,
    values: int,
    edges: Any,
) -> None:
    """All blocks of columns, which the threads share."""
    for task in numba.prange(edges.size - 1):
        left, right = edges[task], edges[task + 1]
        block(
            kernels,
            arrays,
            moments,
            numbers,
            items,
            listed,
            order,
            ready,
            closing,
            later,
            apart,
            l2,
            values,
            left,
            right,
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
