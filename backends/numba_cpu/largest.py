"""The largest magnitude in arrays, in one read: what decides whether all their numbers are finite.

The sign taken away, a floating-point number orders as the unsigned integer of its bits, NaN above infinity.
So the search is exact in any order, and four distant streams of one array keep the memory busy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numba
import numpy as np

from ..addresses import address_of
from . import runtime
from .cache import KernelCache
from .memory import as_int64, as_uint16, as_uint32, as_uint64
from .options import STRICT
from .scalar import choose

#: Columns of a row: an array's address, and how many entries end here.
ADDRESS, END, COLUMNS = range(3)
#: Entries between two tasks' results, so that they share no cache line.
APART = 8
STREAMS = 4
TASKS_A_THREAD = 4


@numba.njit(**STRICT)
def _larger(x: Any, y: Any) -> Any:
    return choose(x > y, x, y)


# One text for three widths would be a closure, or a loop that is not vectorised: so it is written thrice.
@numba.njit(**STRICT)
def top16(address: int, begin: int, stop: int) -> Any:
    """Image of the largest magnitude among 16-bit numbers."""
    x, mask = as_uint16(address), np.uint16(0x7FFF)
    a = b = c = d = np.uint16(0)
    step = (stop - begin) // STREAMS
    q, r, s = begin + step, begin + 2 * step, begin + 3 * step
    for i in range(step):
        a = _larger(a, np.uint16(x[begin + i] & mask))
        b = _larger(b, np.uint16(x[q + i] & mask))
        c = _larger(c, np.uint16(x[r + i] & mask))
        d = _larger(d, np.uint16(x[s + i] & mask))
    for i in range(begin + STREAMS * step, stop):
        a = _larger(a, np.uint16(x[i] & mask))
    return np.int64(_larger(_larger(a, b), _larger(c, d)))


@numba.njit(**STRICT)
def top32(address: int, begin: int, stop: int) -> Any:
    """Image of the largest magnitude among 32-bit numbers."""
    x, mask = as_uint32(address), np.uint32(0x7FFFFFFF)
    a = b = c = d = np.uint32(0)
    step = (stop - begin) // STREAMS
    q, r, s = begin + step, begin + 2 * step, begin + 3 * step
    for i in range(step):
        a = _larger(a, np.uint32(x[begin + i] & mask))
        b = _larger(b, np.uint32(x[q + i] & mask))
        c = _larger(c, np.uint32(x[r + i] & mask))
        d = _larger(d, np.uint32(x[s + i] & mask))
    for i in range(begin + STREAMS * step, stop):
        a = _larger(a, np.uint32(x[i] & mask))
    return np.int64(_larger(_larger(a, b), _larger(c, d)))


@numba.njit(**STRICT)
def top64(address: int, begin: int, stop: int) -> Any:
    """Image of the largest magnitude among 64-bit numbers."""
    x, mask = as_uint64(address), np.uint64(0x7FFFFFFFFFFFFFFF)
    a = b = c = d = np.uint64(0)
    step = (stop - begin) // STREAMS
    q, r, s = begin + step, begin + 2 * step, begin + 3 * step
    for i in range(step):
        a = _larger(a, x[begin + i] & mask)
        b = _larger(b, x[q + i] & mask)
        c = _larger(c, x[r + i] & mask)
        d = _larger(d, x[s + i] & mask)
    for i in range(begin + STREAMS * step, stop):
        a = _larger(a, x[i] & mask)
    return np.int64(_larger(_larger(a, b), _larger(c, d)))


@numba.njit(**STRICT)
def search(width: int, rows: int, arrays: int, first: int, last: int, result: int) -> None:
    """Leave the largest image among the entries ``first`` to ``last`` of all arrays laid end to end.

    The result is written here: where it is parallel, Numba drops what a loop itself writes by its address.
    """
    row, best, start = as_int64(rows), 0, 0
    for k in range(arrays):
        address, end = row[k * COLUMNS + ADDRESS], row[k * COLUMNS + END]
        begin, stop = max(first - start, 0), min(last, end) - start
        if stop > begin:
            if width == 2:
                top = top16(address, begin, stop)
            elif width == 4:
                top = top32(address, begin, stop)
            else:
                top = top64(address, begin, stop)
            best = max(best, top)
        start = end
    as_int64(result)[0] = best


@numba.njit(**STRICT, nogil=True)
def alone(width: int, address: int, entries: int) -> Any:
    """Of one array, in this thread."""
    if width == 2:
        return top16(address, 0, entries)
    return top32(address, 0, entries) if width == 4 else top64(address, 0, entries)


@numba.njit(**STRICT, nogil=True)
def serial(width: int, rows: int, arrays: int, entries: int, tasks: int, tops: int) -> None:
    """In this thread."""
    search(width, rows, arrays, 0, entries, tops)


@numba.njit(**STRICT, nogil=True, parallel=True)
def parallel(width: int, rows: int, arrays: int, entries: int, tasks: int, tops: int) -> None:
    """In ``tasks`` equal ranges, which the threads share."""
    for task in numba.prange(tasks):
        own = np.int64(task)
        first, last = own * entries // tasks, (own + 1) * entries // tasks
        search(width, rows, arrays, first, last, tops + 8 * APART * own)


alone._cache = KernelCache("largest-alone")
serial._cache, parallel._cache = KernelCache("largest-serial"), KernelCache("largest-parallel")


def largest(arrays: Sequence[Any], threads: int | None = None) -> int:
    """The largest magnitude in arrays of one dtype, as the integer of its bits; 0 if there is nothing.

    Parameters
    ----------
    arrays : sequence of ndarray
        Each in one piece, aligned, in the machine's byte order.
    threads : int, optional
        Instead of the rule of thumb.

    Notes
    -----
    One read, no temporary. Exact, whatever the number of threads.
    """
    width = arrays[0].dtype.itemsize
    if len(arrays) == 1 and arrays[0].size < runtime.SERIAL_BELOW and threads is None:
        return int(alone(width, address_of(arrays[0]), arrays[0].size))
    rows = np.array([(address_of(x), x.size) for x in arrays], np.int64)
    np.cumsum(rows[:, END], out=rows[:, END])
    total = int(rows[-1, END])
    number = runtime.threads(total, threads)
    tops = np.zeros(TASKS_A_THREAD * number * APART, np.int64)
    arguments = (width, address_of(rows), len(arrays), total, TASKS_A_THREAD * number, address_of(tops))
    if number > 1:
        runtime.launch(parallel, arguments, number)
    else:
        serial(*arguments)
    return int(tops.max())
