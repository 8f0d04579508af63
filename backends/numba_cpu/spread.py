"""Many tensors in one launch: the threads share all their entries evenly, however small the tensors are.

Row k of a table of rows says how tensor k is stepped, in the columns below. What a task owns is a range of
all entries laid end to end; a boundary inside a tensor falls on a multiple of ``EVEN``, so that no two tasks
write to one cache line of an aligned array.
"""

from __future__ import annotations

from collections.abc import Sequence

import numba
import numpy as np

from ..addresses import address_of
from . import runtime
from .cache import KernelCache
from .memory import as_int64, call_kernel
from .options import STRICT

#: Columns: the loop's address, that of its table, that of its numbers, and how many entries end here.
LOOP, TABLE, NUMBERS, END, COLUMNS = range(5)
EVEN = 64
#: Tasks a thread, so that one which was held up does not hold up all.
TASKS_A_THREAD = 4


@numba.njit(**STRICT)
def step_range(rows: int, tensors: int, first: int, last: int) -> None:
    """Step the entries ``first`` to ``last`` of all tensors."""
    row = as_int64(rows)
    low, high = 0, tensors
    while low < high:
        middle = (low + high) // 2
        if row[middle * COLUMNS + END] > first:
            high = middle
        else:
            low = middle + 1
    start = row[(low - 1) * COLUMNS + END] if low > 0 else 0
    while start < last and low < tensors:
        here = low * COLUMNS
        end = row[here + END]
        begin = max(first - start, 0) // EVEN * EVEN
        stop = end - start if last >= end else (last - start) // EVEN * EVEN
        if stop > begin:
            call_kernel(row[here + LOOP], row[here + TABLE], begin, stop, row[here + NUMBERS])
        start = end
        low += 1


@numba.njit(**STRICT, nogil=True)
def alone(loop: int, table: int, entries: int, numbers: int) -> None:
    """One tensor in this thread."""
    call_kernel(loop, table, 0, entries, numbers)


@numba.njit(**STRICT, nogil=True)
def serial(rows: int, tensors: int, entries: int, tasks: int) -> None:
    """All tensors in this thread."""
    step_range(rows, tensors, 0, entries)


@numba.njit(**STRICT, nogil=True, parallel=True)
def parallel(rows: int, tensors: int, entries: int, tasks: int) -> None:
    """All tensors in ``tasks`` equal ranges, which the threads share."""
    for task in numba.prange(tasks):
        # prange counts in uint64, for which the ranges' function would be compiled again.
        own = np.int64(task)
        step_range(rows, tensors, own * entries // tasks, (own + 1) * entries // tasks)


alone._cache, serial._cache = KernelCache("spread-alone"), KernelCache("spread-serial")
parallel._cache = KernelCache("spread-parallel")


def launch(rows: Sequence[tuple[int, int, int, int]], threads: int | None = None) -> None:
    """Step all tensors, in this thread or several.

    Parameters
    ----------
    rows : sequence of (loop, table, numbers, entries)
        Addresses, and the length of each tensor; whoever calls keeps alive what they point to.
    threads : int, optional
        Instead of the rule of thumb. It never changes a bit.
    """
    if len(rows) == 1:
        loop, table, numbers, entries = rows[0]
        if entries < runtime.SERIAL_BELOW and threads is None:
            alone(loop, table, entries, numbers)
            return
    listed = np.array(rows, np.int64).reshape(-1, COLUMNS)
    np.cumsum(listed[:, END], out=listed[:, END])
    total = int(listed[-1, END]) if len(rows) else 0
    number = runtime.threads(total, threads)
    arguments = (address_of(listed), len(rows), total, TASKS_A_THREAD * number)
    if number > 1:
        runtime.launch(parallel, arguments, number)
    else:
        serial(*arguments)
