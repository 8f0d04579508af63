"""Takes the loops of error feedback over the chunks of a tensor, in one thread or several.

A chunk is a run of entries in C order. Of an array of another dtype, or not in one piece, it comes through a
buffer. Row k of ``arrays`` describes w, g, and the slots with a number for each entry, as in :mod:`.drive`.
"""

from __future__ import annotations

import functools
from typing import Any

import numba
import numpy as np

from .bind import KERNEL, compiled_function
from .cache import KernelCache
from .drive import ADDRESS, GRADIENT, NATIVE, STEPS
from .error_feedback_loops import (
    ARRAYS,
    CHUNK,
    COUNT,
    COUNTS,
    ITEM,
    KEYS,
    LOOPS,
    MANY,
    MEMBERS,
    NAMES,
    RANK,
    SHAPE,
    SPARE,
    WORDS,
    WRITES,
    C,
    X,
    Y,
    Z,
)
from .memory import as_int64, call_kernel, hold
from .microadam_loops import move_block
from .options import STRICT


def run(table: int, first: int, last: int, numbers: int) -> None:
    """Take all loops over each chunk of the entries ``first`` to ``last``.

    If they write, arrays that came through a buffer go back, but for the gradient.
    """
    t = as_int64(table)
    count, chunk, size = t[COUNT], t[CHUNK], t[ITEM]
    arrays = numba.carray(as_int64(t[ARRAYS]), (count, STEPS + t[RANK]))
    shape = numba.carray(as_int64(t[SHAPE]), t[RANK])
    loops, names, room = as_int64(t[LOOPS]), as_int64(t[NAMES]), (chunk + 128) * 8
    own, space = np.empty(WORDS, np.int64), np.empty((6 + count) * (chunk + 128), np.int64)
    for k in range(WORDS):
        own[k] = t[k]
    place = space.ctypes.data
    for name in (X, Y, Z, KEYS, C, SPARE):
        own[name] = place
        place += room
    for begin in range(first, last, chunk):
        n = min(chunk, last - begin)
        for k in range(count):
            if arrays[k, NATIVE] != 0:
                own[names[k]] = arrays[k, ADDRESS] + begin * size
            else:
                own[names[k]] = place + k * room
                move_block(arrays[k], shape, True, begin, n, place + k * room, size)
        for k in range(t[MANY]):
            call_kernel(loops[k], own.ctypes.data, begin, n, numbers)
        if t[WRITES] != 0:
            for k in range(count):
                if arrays[k, NATIVE] == 0 and k != GRADIENT:
                    move_block(arrays[k], shape, False, begin, n, place + k * room, size)
    hold(own)
    hold(space)


@functools.cache
def runner() -> Any:
    """The function above, compiled or found on disk, with an ``address``."""
    return compiled_function(run, KERNEL, "feedback-run")


@numba.njit(**STRICT)
def task(run: int, table: Any, numbers: int, first: int, last: int, counts: int) -> None:
    """One task, with counts of its own."""
    own = table.copy()
    own[COUNTS] = own[MEMBERS] = counts
    call_kernel(run, own.ctypes.data, first, last, numbers)
    hold(own)


@numba.njit(**STRICT, nogil=True)
def serial(run: int, table: Any, numbers: int, edges: Any, counts: int, apart: int) -> None:
    """All tasks in this thread: the entries between neighbours of ``edges``, counts ``apart`` bytes apart."""
    for k in range(edges.size - 1):
        task(run, table, numbers, edges[k], edges[k + 1], counts + k * apart)


@numba.njit(**STRICT, nogil=True, parallel=True)
def parallel(run: int, table: Any, numbers: int, edges: Any, counts: int, apart: int) -> None:
    """All tasks, which the threads share."""
    for k in numba.prange(edges.size - 1):
        # prange counts in uint64, for which the task would be compiled again.
        own = np.int64(k)
        task(run, table, numbers, edges[own], edges[own + 1], counts + own * apart)


serial._cache, parallel._cache = KernelCache("feedback-serial"), KernelCache("feedback-parallel")
