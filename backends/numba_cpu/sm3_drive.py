"""SM3-II's way through a matrix: pairs of long rows, runs of short ones, blocks that the threads share.

What a loop cannot walk (another dtype, a step between two entries, listed rows) comes through buffers.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from .cache import KernelCache
from .drive import ADDRESS, GATHER, GRADIENT, ITEMSIZE, NATIVE, SCATTER
from .layout import BUFFER
from .memory import call_kernel, call_mover, hold
from .options import STRICT
from .sm3_loops import RUN, WORDS, larger


@numba.njit(**STRICT)
def pass_row_by_row(
    inwards: bool,
    array: Any,
    k: int,
    indices: Any,
    first: int,
    count: int,
    begin: int,
    columns: int,
    buffer: Any,
) -> None:
    """``count`` rows from ``first`` on, columns from ``begin`` on, between an array and a buffer."""
    for half in range(count):
        place = indices[first + half] if indices.size and k != GRADIENT else first + half
        here = array[ADDRESS] + (place * array[-2] + begin * array[-1]) * array[ITEMSIZE]
        there = buffer.ctypes.data + half * columns * buffer.itemsize
        call_mover(array[GATHER if inwards else SCATTER], here, 0, array[-1], 1, columns, 0, there)


@numba.njit(**STRICT)
def long_rows(
    kernel: int,
    arrays: Any,
    indices: Any,
    row: Any,
    column: Any,
    high: Any,
    tops: Any,
    numbers: Any,
    left: int,
    right: int,
    buffers: Any,
) -> None:
    """Step all rows of a block in pairs, columns ``left`` to ``right``; leave nu's largest images.

    ``high`` may be the images of ``row`` itself: a row's accumulator is read before its maximum is written.
    """
    count, height, size = arrays.shape[0], row.size // 2, row.itemsize
    whole = True
    for k in range(count):
        whole = whole and arrays[k, NATIVE] != 0 and arrays[k, -1] == 1
    table = np.zeros(WORDS + 7, np.int64)
    first = 0
    if whole and height > 0:
        first = 2 * height
        table[0], table[1], table[2] = right - left, indices.ctypes.data if indices.size else 0, height
        table[WORDS], table[WORDS + 1] = column.ctypes.data + left * size, row.ctypes.data
        for k in range(count):
            table[3 + k] = arrays[k, -2]
            table[WORDS + 2 + k] = arrays[k, ADDRESS] + left * size
        table[WORDS + 2 + count], table[WORDS + 3 + count] = tops.ctypes.data + left * size, high.ctypes.data
        call_kernel(kernel, table.ctypes.data, 0, height, numbers.ctypes.data)
    # What is left goes through a buffer: the last of an odd number of rows, or all, two by two. A row without
    # a partner is paired with zeros, which change nothing.
    pair, peak, best = np.zeros(2, row.dtype), np.zeros(2, high.dtype), np.zeros(2, high.dtype)
    table[1], table[2] = 0, 1
    table[WORDS + 1], table[WORDS + 3 + count] = pair.ctypes.data, peak.ctypes.data
    for i in range(first, row.size, 2):
        partners = min(2, row.size - i)
        pair[1] = 0
        for half in range(partners):
            pair[half], best[half] = row[i + half], 0
        for begin in range(left, right, BUFFER):
            columns = min(BUFFER, right - begin)
            table[0] = columns
            table[WORDS] = column.ctypes.data + begin * size
            table[WORDS + 2 + count] = tops.ctypes.data + begin * size
            for k in range(count):
                table[3 + k] = columns
                table[WORDS + 2 + k] = buffers[k].ctypes.data
                if partners == 1:
                    for j in range(columns, 2 * columns):
                        buffers[k, j] = 0
                pass_row_by_row(True, arrays[k], k, indices, i, partners, begin, columns, buffers[k])
            call_kernel(kernel, table.ctypes.data, 0, 1, numbers.ctypes.data)
            for half in range(partners):
                best[half] = larger(best[half], peak[half])
            for k in range(count):
                if k != GRADIENT:
                    pass_row_by_row(False, arrays[k], k, indices, i, partners, begin, columns, buffers[k])
        for half in range(partners):
            high[i + half] = best[half]
    hold(table)
    hold(pair)
    hold(peak)


@numba.njit(**STRICT)
def short_rows(
    kernel: int,
    arrays: Any,
    indices: Any,
    row: Any,
    column: Any,
    high: Any,
    tops: Any,
    numbers: Any,
) -> None:
    """The same in runs of several whole rows."""
    count, width, size = arrays.shape[0], column.size, row.itemsize
    tall = max(1, min(RUN // width, row.size))
    buffers = np.empty((count + 2, tall * width), row.dtype)
    peaks = np.zeros(tall * width, tops.dtype)
    # Plain loops: an assignment to a slice takes seconds to compile.
    for i in range(tall):
        for j in range(width):
            buffers[count, i * width + j] = column[j]
    table = np.empty(2 + 6 + count, np.int64)
    table[0] = width
    table[3], table[4] = buffers[count + 1].ctypes.data, buffers[count].ctypes.data
    table[6 + count], table[7 + count] = peaks.ctypes.data, table[3]
    for begin in range(0, row.size, tall):
        rows = min(tall, row.size - begin)
        table[1] = rows
        table[2] = row.ctypes.data + begin * size
        table[5 + count] = high.ctypes.data + begin * size
        for k in range(count):
            array, here, listed = arrays[k], arrays[k, ADDRESS], 0
            if indices.size and k != GRADIENT:
                listed = indices.ctypes.data + 8 * begin
            else:
                here += begin * array[-2] * array[ITEMSIZE]
            table[5 + k] = here
            if array[NATIVE] == 0 or array[-1] != 1 or array[-2] != width or listed != 0:
                table[5 + k] = buffers[k].ctypes.data
                call_mover(array[GATHER], here, array[-2], array[-1], rows, width, listed, table[5 + k])
        call_kernel(kernel, table.ctypes.data, 0, 0, numbers.ctypes.data)
        for k in range(count):
            array, here, listed = arrays[k], arrays[k, ADDRESS], 0
            if indices.size and k != GRADIENT:
                listed = indices.ctypes.data + 8 * begin
            else:
                here += begin * array[-2] * array[ITEMSIZE]
            if k != GRADIENT and table[5 + k] != here:
                call_mover(array[SCATTER], here, array[-2], array[-1], rows, width, listed, table[5 + k])
    for i in range(tall):
        for j in range(width):
            tops[j] = larger(tops[j], peaks[i * width + j])
    hold(table)
    hold(buffers)
    hold(peaks)


@numba.njit(**STRICT)
def block(
    kernel: int,
    short: bool,
    arrays: Any,
    indices: Any,
    row: Any,
    column: Any,
    highs: Any,
    tops: Any,
    numbers: Any,
    down: int,
    across: int,
    task: int,
) -> None:
    """The task's block of ``down`` times ``across`` blocks."""
    a, b = task // across, task % across
    top, bottom = a * row.size // down, (a + 1) * row.size // down
    left, right = b * column.size // across, (b + 1) * column.size // across
    here, mine = arrays.copy(), indices[top:bottom]
    for k in range(arrays.shape[0]):
        if indices.size == 0 or k == GRADIENT:
            here[k, ADDRESS] += top * here[k, -2] * here[k, ITEMSIZE]
    rows, high = row[top:bottom], highs[b, top:bottom]
    if short:
        short_rows(kernel, here, mine, rows, column, high, tops[a], numbers)
    else:
        buffers = np.empty((arrays.shape[0], 2 * BUFFER if rows.size else 0), row.dtype)
        long_rows(kernel, here, mine, rows, column, high, tops[a], numbers, left, right, buffers)


@numba.njit(**STRICT, nogil=True)
def serial(
    kernel: int,
    short: bool,
    arrays: Any,
    indices: Any,
    row: Any,
    column: Any,
    highs: Any,
    tops: Any,
    numbers: Any,
    down: int,
    across: int,
) -> None:
    """All blocks in this thread."""
    for task in range(down * across):
        block(kernel, short, arrays, indices, row, column, highs, tops, numbers, down, across, task)


@numba.njit(**STRICT, nogil=True, parallel=True)
def parallel(
    kernel: int,
    short: bool,
    arrays: Any,
    indices: Any,
    row: Any,
    column: Any,
    highs: Any,
    tops: Any,
    numbers: Any,
    down: int,
    across: int,
) -> None:
    """All blocks, which the threads share."""
    for task in numba.prange(down * across):
        # prange counts in uint64, for which the block would be compiled again.
        own = np.int64(task)
        block(kernel, short, arrays, indices, row, column, highs, tops, numbers, down, across, own)


serial._cache, parallel._cache = KernelCache("sm3-serial"), KernelCache("sm3-parallel")
