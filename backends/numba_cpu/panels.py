"""Takes a loop over matrices of every layout, panel by panel, in one thread or several.

A panel is at most 64 rows, those of one run of column sums, by a number of columns that is a multiple of 512.
Each array is either used where it lies, if its rows are in one piece, or gathered into a buffer, which is
written back for the arrays that the loop writes. So the sums have one order whatever the layout, and no array
is ever copied as a whole. Panels do not overlap: their order and thread cannot matter.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod
from typing import Any, NamedTuple

import numba
import numpy as np

from memopt_ref.parts.sums import LEAF, RUN

from ..addresses import address_of
from . import runtime
from .cache import KernelCache
from .engine import TASKS_A_THREAD
from .kinds import kind_of
from .leaf_sums import COLUMN, COLUMNS, HEAD, JOIN, LANE, LEAVES, PITCH, ROOM, ROW, ROWS, RUNS, SPARE, join
from .memory import call_kernel, call_mover, hold
from .move import mover
from .options import STRICT

#: Columns of a panel, and the sides of one that has buffers.
BROAD = 8192
LOW, NARROW = 16, LEAF
#: A vector is stepped as rows of so many entries, a whole number of leaves, and what is left.
PIECE = 4096
#: Columns of the table of arrays; from STEPS on, elements from one place of each axis to the next.
ADDRESS, ITEMSIZE, NATIVE, GATHER, SCATTER, LISTED, STEPS = range(7)
FIRST = len(HEAD)


class Arrays(NamedTuple):
    """Matrices of one shape [..., m, n], those of them that are written, and the numbers beside them.

    ``leaves`` takes the leaf sums [..., m, ceil(n / 512)], ``runs`` the column sums of runs
    [..., ceil(m / 64), n] and starts at zero; ``row`` [..., m] and ``column`` [..., n] are numbers of rows
    and columns. All are contiguous; None where the loop has no use for them. Of matrices that are ``listed``,
    the rows ``indices`` are meant, int64.
    """

    arrays: Sequence[Any]
    written: Sequence[bool]
    leaves: Any = None
    runs: Any = None
    row: Any = None
    column: Any = None
    listed: Sequence[bool] = ()
    indices: Any = None


@numba.njit(**STRICT)
def offset_of(array: Any, shape: Any, batch: int) -> int:
    """Elements from an array's start to its matrix of this number."""
    offset = 0
    for axis in range(shape.size - 3, -1, -1):
        offset += batch % shape[axis] * array[STEPS + axis]
        batch //= shape[axis]
    return offset


@numba.njit(**STRICT)
def step_panels(
    kernel: int,
    prepare: int,
    arrays: Any,
    shape: Any,
    beside: Any,
    numbers: Any,
    size: int,
    first: int,
    last: int,
) -> None:
    """Step the panels ``first`` to ``last``, numbered along columns, then rows, then matrices."""
    count, height, width = arrays.shape[0], shape[-2], shape[-1]
    across, down, pitch = (width + BROAD - 1) // BROAD, (height + RUN - 1) // RUN, (width + LEAF - 1) // LEAF
    tall, broad = RUN, BROAD
    for k in range(count):
        if arrays[k, NATIVE] == 0:
            tall, broad = LOW, NARROW
    buffers = np.empty((count if tall == LOW else 0, LOW * NARROW), np.float64)
    lanes, spare = np.empty(ROOM, np.float64), np.empty(ROOM, np.float64)
    table = np.zeros(FIRST + 2 * count, np.int64)
    origins, lists = np.zeros(count, np.int64), np.zeros(count, np.int64)
    table[LANE], table[SPARE], table[PITCH] = lanes.ctypes.data, spare.ctypes.data, pitch
    table[JOIN] = beside[4]
    for panel in range(first, last):
        batch = panel // across // down
        run = panel // across % down
        left, right = panel % across * BROAD, min(width, panel % across * BROAD + BROAD)
        for i in range(run * RUN, min(height, run * RUN + RUN), tall):
            rows = min(tall, min(height, run * RUN + RUN) - i)
            for j in range(left, right, broad):
                columns = min(broad, right - j)
                table[ROWS], table[COLUMNS] = rows, columns
                table[LEAVES] = beside[0] + ((batch * height + i) * pitch + j // LEAF) * size
                table[RUNS] = beside[1] + ((batch * down + run) * width + j) * size
                table[ROW] = beside[2] + (batch * height + i) * size
                table[COLUMN] = beside[3] + (batch * width + j) * size
                for k in range(count):
                    array = arrays[k]
                    place = offset_of(array, shape, batch) + j * array[-1]
                    lists[k] = beside[5] + 8 * i if array[LISTED] != 0 else 0
                    if array[LISTED] == 0:
                        place += i * array[-2]
                    origins[k] = array[ADDRESS] + place * array[ITEMSIZE]
                    table[FIRST + 2 * k], table[FIRST + 2 * k + 1] = origins[k], array[-2]
                    if array[NATIVE] == 0:
                        table[FIRST + 2 * k], table[FIRST + 2 * k + 1] = buffers[k].ctypes.data, columns
                        call_mover(
                            array[GATHER],
                            origins[k],
                            array[-2],
                            array[-1],
                            rows,
                            columns,
                            lists[k],
                            table[FIRST + 2 * k],
                        )
                if prepare != 0:
                    call_kernel(prepare, table.ctypes.data, 0, 0, numbers.ctypes.data)
                call_kernel(kernel, table.ctypes.data, 0, 0, numbers.ctypes.data)
                for k in range(count):
                    array = arrays[k]
                    if array[NATIVE] == 0 and array[SCATTER] != 0:
                        call_mover(
                            array[SCATTER],
                            origins[k],
                            array[-2],
                            array[-1],
                            rows,
                            columns,
                            lists[k],
                            table[FIRST + 2 * k],
                        )
    hold(buffers)
    hold(lanes)
    hold(spare)
    hold(table)


@numba.njit(**STRICT, nogil=True)
def serial(
    kernel: int,
    prepare: int,
    arrays: Any,
    shape: Any,
    beside: Any,
    numbers: Any,
    size: int,
    backwards: bool,
    panels: int,
    tasks: int,
) -> None:
    """All panels in this thread."""
    for k in range(tasks):
        task = tasks - 1 - k if backwards else k
        first, last = task * panels // tasks, (task + 1) * panels // tasks
        step_panels(kernel, prepare, arrays, shape, beside, numbers, size, first, last)


@numba.njit(**STRICT, nogil=True, parallel=True)
def parallel(
    kernel: int,
    prepare: int,
    arrays: Any,
    shape: Any,
    beside: Any,
    numbers: Any,
    size: int,
    backwards: bool,
    panels: int,
    tasks: int,
) -> None:
    """All panels in ``tasks`` runs of neighbours, which the threads share."""
    for k in numba.prange(tasks):
        # prange counts in uint64, for which the panels' function would be compiled again.
        own = np.int64(k)
        task = tasks - 1 - own if backwards else own
        first, last = task * panels // tasks, (task + 1) * panels // tasks
        step_panels(kernel, prepare, arrays, shape, beside, numbers, size, first, last)


serial._cache, parallel._cache = KernelCache("panels-serial"), KernelCache("panels-parallel")


def describe(x: Any, own: int, written: bool, listed: bool, in_place: bool) -> tuple[int, ...]:
    """An array's row in the table; movers are made unless it is used where it lies."""
    kind = kind_of(x.dtype)
    assert kind is not None
    steps = [s // x.itemsize for s in x.strides]
    lies = in_place and not listed and kind == own and (steps[-1] == 1 or x.shape[-1] == 1)
    inwards = 0 if lies else mover(True, kind, own).address
    outwards = 0 if lies or not written else mover(False, kind, own).address
    return (address_of(x), x.itemsize, int(lies), inwards, outwards, int(listed), *steps)


def pieces(arrays: Sequence[Any], joined: bool = True) -> Iterator[list[Any]]:
    """Arrays of one shape as matrices, one set after the other, whose leaves in this order are the whole's.

    Leading axes become one only if ``joined``, and if all arrays are contiguous.

    Examples
    --------
    >>> x = np.zeros(5000)
    >>> [part[0].shape for part in pieces([x])], [part[0].shape for part in pieces([x.reshape(2, 50, 50)])]
    ([(1, 4096), (1, 904)], [(100, 50)])
    """
    shape = arrays[0].shape
    if len(shape) == 0:
        yield [x.reshape(1, 1) for x in arrays]
    elif len(shape) == 1:
        even = shape[0] // PIECE * PIECE
        if even:
            yield [x[:even].reshape(-1, PIECE) for x in arrays]
        if even < shape[0]:
            yield [x[even:].reshape(1, -1) for x in arrays]
    elif joined and all(x.flags.c_contiguous for x in arrays):
        yield [x.reshape(-1, shape[-1]) for x in arrays]
    else:
        yield list(arrays)


def count(shape: Sequence[int]) -> int:
    """How many panels there are in matrices of this shape [..., m, n]."""
    *many, m, n = shape
    return prod(many) * -(-m // RUN) * -(-n // BROAD)


def run(
    kernel: int,
    given: Arrays,
    numbers: Sequence[float],
    native: Any,
    threads: int | None = None,
    backwards: bool = False,
    prepare: int = 0,
) -> None:
    """Take a loop over all panels, in this thread or several.

    Parameters
    ----------
    kernel : int
        Address of a loop made of :func:`.leaf_sums.leaf_text` or :func:`.leaf_sums.each_text`.
    given : Arrays
        Of at least two axes, none of length 0.
    numbers : sequence of float
        The loop's.
    native : dtype
        The compute dtype.
    threads : int, optional
        Instead of the rule of thumb. It never changes a bit.
    backwards : bool
        From the last panel: what the loop before this one left in the caches is met first.
    prepare : int
        Address of a loop that changes the first array's entries before, in its buffer; or 0.
    """
    own = kind_of(np.dtype(native))
    assert own is not None
    listed = given.listed or [False] * len(given.arrays)
    described = [
        describe(x, own, writes, rows, in_place=not (prepare and k == 0))
        for k, (x, writes, rows) in enumerate(zip(given.arrays, given.written, listed, strict=True))
    ]
    shape = given.arrays[0].shape
    panels = count(shape)
    number = min(runtime.threads(given.arrays[0].size, threads), panels)
    beside = [0 if x is None else address_of(x) for x in (given.leaves, given.runs, given.row, given.column)]
    beside.append(0 if given.leaves is None else join(bool(np.dtype(native) == np.float64)))
    beside.append(0 if given.indices is None else address_of(given.indices))
    arguments = (
        kernel,
        prepare,
        np.array(described, np.int64),
        np.array(shape, np.int64),
        np.array(beside, np.int64),
        np.array(numbers, np.float64),
        np.dtype(native).itemsize,
        backwards,
        panels,
        min(TASKS_A_THREAD * number, panels),
    )
    if number > 1:
        runtime.launch(parallel, arguments, number)
    else:
        serial(*arguments)
