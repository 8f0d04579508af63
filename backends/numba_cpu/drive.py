"""Takes a kernel over arrays of every layout, tile by tile, in one thread or several.

A tile is a run of entries that every array either has in one piece, as numbers of the kernel's type, or has
gathered and converted into a buffer that stays in the first cache. So a kernel sees contiguous numbers of one
type only, and no array is ever copied as a whole. Tiles do not overlap: their order and thread cannot matter.

Row k of ``arrays`` describes the parameter (k = 0), the gradient (1, only read) or a slot by the columns
below. ``indices`` lists the rows of parameter and slots that the gradient's rows stand for; empty means all.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from .cache import KernelCache
from .layout import BUFFER
from .memory import as_int64, call_kernel, call_mover, hold  # noqa: F401
from .options import STRICT

#: Columns: address, bytes a number, whether numbers are the kernel's, addresses of gather and scatter (0
#: where every tile lies in one piece); from STEPS on, elements from one place of each axis to the next.
ADDRESS, ITEMSIZE, NATIVE, GATHER, SCATTER, STEPS = range(6)
GRADIENT = 1
NOWHERE = np.empty(0, np.int64)


@numba.njit(**STRICT)
def batch_offset(array: Any, shape: Any, indices: Any, batch: int) -> int:
    """Elements from an array's start to where its two last axes start, at a place of all axes before them."""
    offset = 0
    for axis in range(shape.size - 3, -1, -1):
        place = batch % shape[axis]
        batch //= shape[axis]
        if axis == 0 and indices.size:
            place = indices[place]
        offset += place * array[STEPS + axis]
    return offset


@numba.njit(**STRICT)
def step_tiles(
    kernel: int,
    arrays: Any,
    shape: Any,
    indices: Any,
    numbers: Any,
    tall: int,
    broad: int,
    first: int,
    last: int,
) -> None:
    """Step the tiles ``first`` to ``last``, numbered along columns, then rows, then the other axes."""
    count = arrays.shape[0]
    height, width = shape[-2], shape[-1]
    across = (width + broad - 1) // broad
    down = (height + tall - 1) // tall
    buffers = np.empty(count * BUFFER, np.float64)
    table, origins, lists = np.empty(count, np.int64), np.empty(count, np.int64), np.empty(count, np.int64)
    for tile in range(first, last):
        column = tile % across * broad
        row = tile // across % down * tall
        batch = tile // across // down
        rows, columns = min(tall, height - row), min(broad, width - column)
        for k in range(count):
            array = arrays[k]
            mine = NOWHERE if k == GRADIENT else indices
            offset = batch_offset(array, shape, mine, batch) + column * array[-1]
            lists[k] = 0
            if mine.size == 0 or shape.size > 2:
                offset += row * array[-2]
            elif rows == 1:
                offset += mine[row] * array[-2]
            else:
                lists[k] = mine.ctypes.data + 8 * row
            origins[k] = array[ADDRESS] + offset * array[ITEMSIZE]
            whole = rows == 1 or (array[-2] == columns and lists[k] == 0)
            if array[NATIVE] != 0 and whole and (array[-1] == 1 or columns == 1):
                table[k] = origins[k]
            else:
                table[k] = buffers.ctypes.data + k * BUFFER * 8
                call_mover(array[GATHER], origins[k], array[-2], array[-1], rows, columns, lists[k], table[k])
        call_kernel(kernel, table.ctypes.data, 0, rows * columns, numbers.ctypes.data)
        for k in range(count):
            array = arrays[k]
            if k != GRADIENT and table[k] != origins[k]:
                call_mover(
                    array[SCATTER], origins[k], array[-2], array[-1], rows, columns, lists[k], table[k]
                )
    hold(buffers)
    hold(table)


@numba.njit(**STRICT, nogil=True)
def serial(
    kernel: int,
    arrays: Any,
    shape: Any,
    indices: Any,
    numbers: Any,
    tall: int,
    broad: int,
    tiles: int,
    tasks: int,
) -> None:
    """All tiles in this thread."""
    step_tiles(kernel, arrays, shape, indices, numbers, tall, broad, 0, tiles)


@numba.njit(**STRICT, nogil=True, parallel=True)
def parallel(
    kernel: int,
    arrays: Any,
    shape: Any,
    indices: Any,
    numbers: Any,
    tall: int,
    broad: int,
    tiles: int,
    tasks: int,
) -> None:
    """All tiles in ``tasks`` runs of neighbours, which the threads share."""
    for task in numba.prange(tasks):
        # prange counts in uint64, for which the tiles' function would be compiled again.
        own = np.int64(task)
        first, last = own * tiles // tasks, (own + 1) * tiles // tasks
        step_tiles(kernel, arrays, shape, indices, numbers, tall, broad, first, last)


serial._cache, parallel._cache = KernelCache("serial"), KernelCache("parallel")
