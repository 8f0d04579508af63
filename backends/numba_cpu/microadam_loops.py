"""MicroAdam's step of a run of Top-K blocks, and the way over arrays of every layout.

A core is one compiled function of a table of addresses and sizes, so that its type does not depend on where
an array lies. A block of an array that the core cannot walk (another dtype, or not in one piece in C order)
comes through a buffer of one block.
"""

from __future__ import annotations

import functools
import types as python_types
from typing import Any

import numba
import numpy as np

from .bind import KERNEL, compiled_function
from .cache import KernelCache
from .drive import ADDRESS, GATHER, GRADIENT, ITEMSIZE, NATIVE, SCATTER, STEPS
from .memory import (
    as_float32,
    as_float64,
    as_int64,
    as_uint8,
    as_uint16,
    as_uint32,
    as_uint64,
    call_kernel,
    call_mover,
    hold,
)
from .microadam_blocks import (
    add_error,
    add_window,
    bounds,
    descend,
    least_kept,
    quantise,
    select,
)
from .microadam_numbers import keep_at, number_at
from .options import STRICT

#: A core's table: arrays as the driver has them (the exact error last), the slots, sizes, places to work in.
W, G, E, INDICES, RING, CODES, LOW, HIGH = range(8)
SIZE, BLOCK, BUCKET, KEPT, KEPT_LAST, WINDOW, ROW, FILLED, BITS, DECAY = range(8, 18)
A, KEYS, PICKED, MASK, CANDIDATES, SUMS = range(18, 24)
#: A byte for each block, where a core says that it leaves the block as it is.
LEFT = 24
WIDTH = 25
#: And its numbers: learning rate, the two corrections, eps, the decay; beta1's powers by ring row, beta2's.
RATE, FIRST, SECOND, EPS, FADE, POWERS = range(6)
#: What takes the place of a number of bits: the error itself, or none.
EXACT, NOTHING = -1, 0
#: How weight decay enters.
NO_DECAY, L2, FACTOR = range(3)

# Bound anew in every copy of the template.
as_number, as_image, as_kept, number_size, kept_size = as_float32, as_uint32, as_uint16, 4, 2


def plain(table: int, start: int, stop: int, numbers: int) -> None:
    """Step the blocks ``start`` to ``stop``."""
    t, values = as_int64(table), as_float64(numbers)
    w, g, e = as_number(t[W]), as_number(t[G]), as_number(t[E])
    indices, ring, codes = as_uint16(t[INDICES]), as_kept(t[RING]), as_uint8(t[CODES])
    low, high = as_kept(t[LOW]), as_kept(t[HIGH])
    a, keys, picked = as_number(t[A]), as_image(t[KEYS]), as_image(t[PICKED])
    mask, words, candidates = as_uint8(t[MASK]), as_uint64(t[MASK]), as_uint16(t[CANDIDATES])
    sums = as_number(t[SUMS])
    block, bucket, bits, decay, row = t[BLOCK], t[BUCKET], t[BITS], t[DECAY], t[ROW]
    window, filled = t[WINDOW], t[FILLED]
    powers = as_float64(numbers + 8 * POWERS)
    fade = number_at(a, values[FADE])
    for b in range(start, stop):
        begin = b * block
        length = min(block, t[SIZE] - begin)
        kept = t[KEPT] if length == block else t[KEPT_LAST]
        at = b * window * t[KEPT]
        here = at + row * kept
        source, origin = g, begin
        if decay == L2:
            source, origin = a, 0
            for j in range(length):
                a[j] = g[begin + j] + fade * w[begin + j]
        if decay == FACTOR:
            for j in range(begin, begin + length):
                w[j] *= fade
        if bits == EXACT:
            for j in range(length):
                a[j] = source[origin + j] + e[begin + j]
        elif bits == NOTHING:
            for j in range(length):
                a[j] = source[origin + j] + number_at(a, 0)
        else:
            add_error(source, origin, codes, low, high, a, mask, begin, length, bucket, bits)
        guess = number_at(a, 0)
        if filled > 1 or window == 1:
            guess = least_kept(ring, at + (row + window - 1) % window * kept, kept, a)
        nan = select(a, keys, picked, mask, words, candidates, length, kept, guess, indices, here)
        for k in range(here, here + kept):
            place = np.int64(indices[k])
            keep_at(ring, k, a[place])
            a[place] = number_at(a, 0)
        if bits == EXACT:
            for j in range(length):
                e[begin + j] = a[j]
        elif bits != NOTHING:
            bounds(a, keys, low, high, begin, length, bucket, nan)
            quantise(a, low, high, codes, mask, begin, length, bucket, bits)
        add_window(indices, ring, at, kept, filled, length, powers, window, sums)
        descend(w, begin, indices, at, kept * filled, length, values, sums)


_KEPT = {"uint16": (as_uint16, 2), "float32": (as_float32, 4), "float64": (as_float64, 8)}


@functools.cache
def core(wide: bool, kept: str) -> Any:
    """The compiled core: float64 or float32, and the ring's and the bounds' format as stored."""
    bound = {
        "as_number": as_float64 if wide else as_float32,
        "as_image": as_uint64 if wide else as_uint32,
        "as_kept": _KEPT[kept][0],
    }
    copy = python_types.FunctionType(plain.__code__, {**globals(), **bound}, plain.__name__)
    return compiled_function(copy, KERNEL, f"microadam-plain-float{64 if wide else 32}-{kept}")


@numba.njit(**STRICT)
def move_block(
    array: Any, shape: Any, inwards: bool, begin: int, length: int, buffer: int, size: int
) -> None:
    """Entries ``begin`` to ``begin + length`` of an array, counted in C order, into a buffer or back."""
    width, height = shape[-1], shape[-2]
    done = 0
    while done < length:
        place = begin + done
        column, row, batch = place % width, place // width % height, place // width // height
        here = array[STEPS + shape.size - 1] * column + array[STEPS + shape.size - 2] * row
        for axis in range(shape.size - 3, -1, -1):
            here += batch % shape[axis] * array[STEPS + axis]
            batch //= shape[axis]
        rows, columns = 1, min(width - column, length - done)
        if columns == width:
            rows = min(height - row, (length - done) // width)
        call_mover(
            array[GATHER if inwards else SCATTER],
            array[ADDRESS] + here * array[ITEMSIZE],
            array[STEPS + shape.size - 2],
            array[STEPS + shape.size - 1],
            rows,
            columns,
            0,
            buffer + done * size,
        )
        done += rows * columns


@numba.njit(**STRICT)
def run(
    kernel: int,
    arrays: Any,
    shape: Any,
    table: Any,
    numbers: Any,
    size: int,
    listed: Any,
    first: int,
    last: int,
) -> None:
    """Step the blocks ``first`` to ``last``, or those listed there; ``size``: bytes of a core's number."""
    block, count = table[BLOCK], arrays.shape[0]
    own, room = table.copy(), ((block + 64) * size + 63) // 64 * 64
    whole = True
    for k in range(count):
        whole = whole and arrays[k, NATIVE] != 0
    rooms = 3 if whole else 3 + count
    codes = (block + 127) // 64 * 64
    # A pair for each entry of the block or of the window.
    most = (2 * (max(block, table[WINDOW] * table[KEPT]) + 64) * size + 63) // 64 * 64
    work = np.empty((rooms * room + most + 3 * codes + 128) // 8, np.float64)
    place = (work.ctypes.data + 63) // 64 * 64
    for name in (A, KEYS, PICKED, SUMS):
        own[name] = place
        place += room
    # The sums are zero between blocks.
    place = own[SUMS] + most
    for i in range((own[SUMS] - work.ctypes.data) // 8, (place - work.ctypes.data) // 8):
        work[i] = 0
    own[MASK], own[CANDIDATES] = place, place + codes
    place += 3 * codes
    if whole and listed.size == 0:
        call_kernel(kernel, own.ctypes.data, first, last, numbers.ctypes.data)
        hold(own)
        hold(work)
        return
    for turn in range(first, last):
        b = listed[turn] if listed.size else turn
        begin = b * block
        length = min(block, table[SIZE] - begin)
        for k in range(count):
            if arrays[k, NATIVE] == 0:
                # The core counts from the start of the array.
                own[k] = place + k * room - begin * size
                move_block(arrays[k], shape, True, begin, length, place + k * room, size)
        call_kernel(kernel, own.ctypes.data, b, b + 1, numbers.ctypes.data)
        for k in range(count):
            if arrays[k, NATIVE] == 0 and k != GRADIENT:
                move_block(arrays[k], shape, False, begin, length, place + k * room, size)
    hold(own)
    hold(work)


@numba.njit(**STRICT, nogil=True)
def serial(
    kernel: int,
    arrays: Any,
    shape: Any,
    table: Any,
    numbers: Any,
    size: int,
    listed: Any,
    blocks: int,
    tasks: int,
) -> None:
    """All blocks in this thread."""
    run(kernel, arrays, shape, table, numbers, size, listed, 0, blocks)


@numba.njit(**STRICT, nogil=True, parallel=True)
def parallel(
    kernel: int,
    arrays: Any,
    shape: Any,
    table: Any,
    numbers: Any,
    size: int,
    listed: Any,
    blocks: int,
    tasks: int,
) -> None:
    """All blocks in ``tasks`` runs of neighbours, which the threads share."""
    for task in numba.prange(tasks):
        # prange counts in uint64, for which the run would be compiled again.
        own = np.int64(task)
        first, last = own * blocks // tasks, (own + 1) * blocks // tasks
        run(kernel, arrays, shape, table, numbers, size, listed, first, last)


serial._cache, parallel._cache = KernelCache("microadam-serial"), KernelCache("microadam-parallel")
