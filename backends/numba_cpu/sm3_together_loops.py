"""Many matrices and vectors of SM3-II in one launch: the threads share all their entries evenly.

Row k of a table of rows says how tensor k is stepped, in the columns below. What a task owns is a range of
all entries laid end to end, as in :mod:`.spread`. A boundary inside a matrix falls between two rows, an even
number from the first: each task steps the rows that it has, and what is largest in its columns waits in a
slot of the task, until all are through and those who have a part of the matrix can be joined. A matrix that a
task has alone is finished by it.

A matrix is what a tensor of any rank becomes when its axes are split in two groups, the one down and the
other across. The least of a group's accumulators is made by whoever steps a part; maxima are exact in any
order, so that nobody can tell how the work was shared.
"""

from __future__ import annotations

import functools
import types as python_types
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .bind import KERNEL, compiled_function
from .drive import ADDRESS, ITEMSIZE, STEPS
from .layout import BUFFER
from .memory import as_float64, as_int64, call_kernel
from .options import STRICT
from .sm3_drive import long_rows, short_rows
from .sm3_loops import larger, minimum
from .spread import EVEN

#: Columns: the loop's address, those of the tensor's table and of its numbers, how many entries end here, the
#: address of the matrix's words or 0 for a vector, and whether accumulators may not fall.
LOOP, TABLE, NUMBERS, END, BODY, RATCHET, COLUMNS = range(7)

#: A matrix's words: its shape, whether its rows are short, how many arrays it has (parameter, gradient and
#: perhaps m), how many axes go down and across; then what :mod:`.drive` says of each array but its address,
#: and the length of each axis. The tensor's table has the arrays' addresses and then the accumulators'.
HEIGHT, WIDTH, SHORT, ARRAYS, DOWN, ACROSS, WORDS = range(7)
#: Columns of an array's description, and how many of them are among the words.
DESCRIBED = STEPS + 2
TOLD = DESCRIBED - 1

#: The words of a launch: the address of what steps a part of a matrix; address and number of the rows, how
#: many entries they have, in how many tasks; where the tasks' slots are, and how many images from one to the
#: next; then a 1 from each task that is through.
PART, ROWS, TENSORS, ENTRIES, TASKS, SLOTS_AT, PITCH, DONE = range(8)

#: Slots of a task: one for a matrix that begins in an earlier task, one for all others.
FOREIGN, OWN, SLOTS = range(3)


@intrinsic
def as_void(typing_context: Any, address: Any) -> Any:
    """The memory at an address, of no type yet."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], ir.IntType(8).as_pointer())

    return types.voidptr(types.int64), generate


@numba.njit(**STRICT)
def least_of(addresses: int, lengths: int, axes: int, size: int, like: Any) -> Any:
    """The least accumulator of ``axes`` axes at each of their ``size`` places, as numbers of ``like``'s."""
    address, length = as_int64(addresses), as_int64(lengths)
    if axes == 1:
        return numba.carray(as_void(address[0]), (size,), like.dtype)
    least = np.empty(size, like.dtype)
    least[0] = np.inf
    filled = 1
    for axis in range(axes):
        many = length[axis]
        mu = numba.carray(as_void(address[axis]), (many,), like.dtype)
        # From the last place to the first, so that none is overwritten before it was read.
        for place in range(filled - 1, -1, -1):
            before = least[place]
            for k in range(many - 1, -1, -1):
                least[place * many + k] = minimum(before, mu[k])
        filled *= many
    return least


@numba.njit(**STRICT)
def settle(addresses: int, lengths: int, axes: int, tops: Any, ratchet: bool) -> None:
    """Bring the largest images of a group's places to the accumulators of its ``axes`` axes."""
    address, length = as_int64(addresses), as_int64(lengths)
    inner = tops.size
    for axis in range(axes):
        many = length[axis]
        outer = tops.size // inner
        inner //= many
        mu = numba.carray(as_void(address[axis]), (many,), tops.dtype)
        for k in range(many):
            best = mu[k] if ratchet else tops.dtype.type(0)
            for place in range(outer):
                begin = (place * many + k) * inner
                for i in range(begin, begin + inner):
                    best = larger(best, tops[i])
            mu[k] = best


@numba.njit(**STRICT)
def finish(row: int, tops: Any) -> None:
    """Overwrite a matrix's accumulators by its maxima: those of all rows, and then those of all columns."""
    columns = as_int64(row)
    body, ratchet = as_int64(columns[BODY]), columns[RATCHET] != 0
    height, width, down = body[HEIGHT], body[WIDTH], body[DOWN]
    mu = columns[TABLE] + 8 * body[ARRAYS]
    lengths = columns[BODY] + 8 * (WORDS + TOLD * body[ARRAYS])
    settle(mu, lengths, down, tops[:height], ratchet)
    settle(mu + 8 * down, lengths + 8 * down, body[ACROSS], tops[height : height + width], ratchet)


@numba.njit(**STRICT)
def of_rows_and_columns(row: int) -> Any:
    """How many maxima a matrix has."""
    body = as_int64(as_int64(row)[BODY])
    return body[HEIGHT] + body[WIDTH]


@numba.njit(**STRICT)
def first_row(row: int, offset: int, entries: int) -> Any:
    """The first row of a matrix behind so many of its entries; an even one unless it ends there."""
    body = as_int64(as_int64(row)[BODY])
    if offset >= entries:
        return body[HEIGHT]
    return max(offset, 0) // (2 * body[WIDTH]) * 2


@numba.njit(**STRICT)
def tensor_at(rows: int, tensors: int, entry: int) -> int:
    """The tensor that has this one of all entries."""
    row = as_int64(rows)
    low, high = 0, tensors
    while low < high:
        middle = (low + high) // 2
        if row[middle * COLUMNS + END] > entry:
            high = middle
        else:
            low = middle + 1
    return low


@numba.njit(**STRICT)
def step_range(part: int, rows: int, tensors: int, first: int, last: int, slots: Any) -> bool:
    """Step the entries ``first`` to ``last`` of all tensors; finish the matrices that lie in between.

    ``part`` is the address of what steps some rows of one. Returns whether it came through each time.
    """
    row = as_int64(rows)
    k = tensor_at(rows, tensors, first)
    start = row[(k - 1) * COLUMNS + END] if k > 0 else 0
    while start < last and k < tensors:
        here = rows + 8 * k * COLUMNS
        end = row[k * COLUMNS + END]
        if row[k * COLUMNS + BODY] == 0:
            begin = max(first - start, 0) // EVEN * EVEN
            stop = end - start if last >= end else (last - start) // EVEN * EVEN
            if stop > begin:
                table, numbers = row[k * COLUMNS + TABLE], row[k * COLUMNS + NUMBERS]
                call_kernel(row[k * COLUMNS + LOOP], table, begin, stop, numbers)
        else:
            top = first_row(here, first - start, end - start)
            bottom = first_row(here, last - start, end - start)
            tops = slots[FOREIGN if start < first else OWN]
            size = of_rows_and_columns(here)
            for i in range(size + 1):
                tops[i] = 0
            call_kernel(part, here, top, bottom, tops.ctypes.data)
            if tops[size] == 0:
                return False
            if start >= first and end <= last:
                finish(here, tops)
        start = end
        k += 1
    return True


# Bound anew in every copy of the templates.
number, image = np.float32, np.uint32


def part(row: int, top: int, bottom: int, maxima: int) -> None:
    """Step a matrix's rows ``top`` to ``bottom``; leave its maxima as far as these know them, and then a 1.

    Compiled once as a C function, so that neither this nor its loops are compiled again into each caller.
    """
    columns = as_int64(row)
    table, body = as_int64(columns[TABLE]), as_int64(columns[BODY])
    height, width, count, down = body[HEIGHT], body[WIDTH], body[ARRAYS], body[DOWN]
    mu = columns[TABLE] + 8 * count
    lengths = columns[BODY] + 8 * (WORDS + TOLD * count)
    tops = numba.carray(as_void(maxima), (height + width + 1,), image)
    high, peaks = tops[top:bottom], tops[height : height + width]
    none = numba.carray(as_void(maxima), (0,), number)
    least = least_of(mu, lengths, down, height, none)[top:bottom]
    column = least_of(mu + 8 * down, lengths + 8 * down, body[ACROSS], width, none)
    arrays, everywhere = np.empty((count, DESCRIBED), np.int64), np.empty(0, np.int64)
    for k in range(count):
        for word in range(1, DESCRIBED):
            arrays[k, word] = body[WORDS + k * TOLD + word - 1]
        arrays[k, ADDRESS] = table[k] + top * arrays[k, STEPS] * arrays[k, ITEMSIZE]
    numbers = numba.carray(as_float64(columns[NUMBERS]), (1,))
    if body[SHORT] != 0:
        short_rows(columns[LOOP], arrays, everywhere, least, column, high, peaks, numbers)
    else:
        buffers = np.empty((count, 2 * BUFFER), number)
        long_rows(columns[LOOP], arrays, everywhere, least, column, high, peaks, numbers, 0, width, buffers)
    tops[height + width] = 1


def run(table: int, start: int, stop: int, numbers: int) -> None:
    """Step the tasks ``start`` to ``stop``, each of which counts for ``EVEN`` entries."""
    t = as_int64(table)
    tasks, entries = t[TASKS], t[ENTRIES]
    slots = numba.carray(as_void(t[SLOTS_AT]), (tasks, SLOTS, t[PITCH]), image)
    for task in range(start // EVEN, stop // EVEN):
        first, last = task * entries // tasks, (task + 1) * entries // tasks
        if step_range(t[PART], t[ROWS], t[TENSORS], first, last, slots[task]):
            t[DONE + task] = 1


def join(table: int, start: int, stop: int, numbers: int) -> None:
    """Finish the matrices that were shared, from the maxima of those who had a part."""
    t = as_int64(table)
    rows, tensors, tasks, entries = t[ROWS], t[TENSORS], t[TASKS], t[ENTRIES]
    row = as_int64(rows)
    slots = numba.carray(as_void(t[SLOTS_AT]), (tasks, SLOTS, t[PITCH]), image)
    for task in range(1, tasks):
        border = task * entries // tasks
        k = tensor_at(rows, tensors, border)
        start = row[(k - 1) * COLUMNS + END] if k > 0 else 0
        end = row[k * COLUMNS + END]
        # A matrix is met at the first border in it.
        if start >= border or (task - 1) * entries // tasks > start or row[k * COLUMNS + BODY] == 0:
            continue
        here = rows + 8 * k * COLUMNS
        size = of_rows_and_columns(here)
        best = slots[task - 1, OWN, :size]
        other = task
        while other < tasks and other * entries // tasks < end:
            # Who has no entry has not made a slot either.
            if (other + 1) * entries // tasks > other * entries // tasks:
                for i in range(size):
                    best[i] = larger(best[i], slots[other, FOREIGN, i])
            other += 1
        finish(here, best)


@functools.cache
def compiled(template: Any, wide: bool) -> Any:
    """``part``, ``run`` or ``join`` in float64 or float32, compiled or found on disk, with an ``address``."""
    bound = {"number": np.float64, "image": np.uint64} if wide else {}
    copy = python_types.FunctionType(template.__code__, {**globals(), **bound}, template.__name__)
    name = f"sm3-together-{template.__name__}-float{64 if wide else 32}"
    return compiled_function(copy, KERNEL, name)
