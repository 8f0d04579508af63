"""SM3-II on a matrix, in one pass: the rule's expressions bound into loops, and the way through the matrix.

The loops step entries and leave what the new accumulators are made of:

    pairs   long rows, two distant ones at once, the maxima of rows and columns in the same loop: two streams
            of each array keep the memory busy, and a column's accumulator is loaded once for both
    runs    short rows, several as one run of entries; maxima of rows follow while it is in the first cache
    single  a vector, whose accumulators are its own entries'

A maximum of non-negative numbers is that of their images as unsigned integers. So it is exact, a NaN of
either sign wins, and it is vectorised. Every task owns a block of rows and columns, and its own maxima.
"""

from __future__ import annotations

import functools
from typing import Any

import numba
import numpy as np

from memopt_ref.parts import scalar as reference
from memopt_ref.rules.sm3 import accumulated, descended, descended_along_mean

from .bind import DECAY, KERNEL, compiled_function
from .cache import KernelCache
from .drive import ADDRESS, GATHER, GRADIENT, ITEMSIZE, NATIVE, SCATTER
from .layout import BUFFER
from .memory import as_float32, as_float64, as_int64, as_uint32, as_uint64, call_kernel, call_mover, hold
from .options import STRICT
from .scalar import choose

#: Rows shorter than this are stepped as runs of several, of so many entries.
SHORT, RUN = 64, 1024

NUMBERS = {
    False: ("learning_rate", "kept", "fresh", "eps_root", "eps"),
    True: ("learning_rate", "momentum", "share", "kept", "fresh", "eps_root", "eps"),
}
#: Those that change nothing in the paper's rule, as constants whose arithmetic the compiler drops: it is a
#: sixth of the time. x + 0 it would keep, for the sake of -0; as denominators both zeros are alike.
NEUTRAL = {"kept": "1", "fresh": "1", "eps_root": "-0.0", "eps": "-0.0"}


def _entry(names: dict[str, str], mean: bool, decay: str) -> list[str]:
    """Lines that step one entry; ``names`` says what w, g, m, the least accumulator and nu are called."""
    w, g = (text.replace("w[i]", names["w"]).replace("g[i]", names["g"]) for text in DECAY[decay])
    m, along = (f"{names['m']}, ", "momentum, share, ") if mean else ("", "")
    nu = names["nu"]
    return [
        f"        entering = {g}",
        f"        ({nu},) = accumulated({names['least']}, entering, kept, fresh)",
        f"        out = descended({w}, entering, {nu}, {m}learning_rate, {along}eps_root, eps)",
        f"        {names['w']} = out[0]",
        *([f"        {names['m']} = out[1]"] if mean else []),
    ]


def _head(words: list[str], pointers: list[str], images: list[str], mean: bool, neutral: bool) -> list[str]:
    """The loop's first lines: plain integers of the table, addresses of numbers, of their images; numbers."""
    given = NEUTRAL if neutral else {}
    table = [
        *(f"{name} = addresses[{{}}]" for name in words),
        *(f"{name} = pointer(addresses[{{}}])" for name in pointers),
        *(f"{name} = image(addresses[{{}}])" for name in images),
    ]
    return [
        "def loop(table, start, stop, numbers):",
        "    addresses, values = as_int64(table), as_float64(numbers)",
        *("    " + line.format(k) for k, line in enumerate(table)),
        *(
            f"    {name} = number({given.get(name, f'values[{k}]')})"
            for k, name in enumerate([*NUMBERS[mean], "decay"])
        ),
    ]


#: The tables of the loops: integers, arrays of numbers, arrays of images.
PAIRS = ("width", "listed", "apart", "down_w", "down_g", "down_m"), ("column", "row"), ("tops", "high")
RUNS = ("width", "rows"), ("row", "spread", "across"), ("high", "peaks", "nu_images")


def pairs_text(mean: bool, decay: str, neutral: bool) -> str:
    """The loop over pairs of rows: ``start`` to ``stop``, each with the one ``apart`` further down.

    ``listed`` is the address of the row numbers of w and m, or 0; ``down`` are steps from row to row.
    """
    words, numbers, images = PAIRS
    lines = [
        *_head([*words], [*numbers, *("wgm" if mean else "wg")], [*images], mean, neutral),
        "    picked, nothing = as_int64(listed), bits(number(0))",
        "    for k in range(start, stop):",
        "        k2 = k + apart",
        "        i1, i2 = (picked[k], picked[k2]) if listed != 0 else (k, k2)",
        *(f"        w{r}, m{r} = i{r} * down_w, i{r} * down_m" for r in "12"),
        "        g1, g2 = k * down_g, k2 * down_g",
        "        row1, row2, high1, high2 = row[k], row[k2], nothing, nothing",
        "        for j in range(width):",
    ]
    for r in "12":
        names = {name: f"{name}[{name}{r} + j]" for name in "wgm"}
        entry = _entry({**names, "least": f"minimum(row{r}, column[j])", "nu": f"nu{r}"}, mean, decay)
        lines += ["    " + line for line in entry]
        lines += [f"            bits{r} = bits(nu{r})", f"            high{r} = larger(high{r}, bits{r})"]
    lines += ["            tops[j] = larger(tops[j], larger(bits1, bits2))"]
    lines += ["        high[k], high[k2] = high1, high2"]
    return "\n".join(lines) + "\n"


def runs_text(mean: bool, decay: str, neutral: bool) -> str:
    """The loop over a run of whole rows; ``across`` has the columns' accumulators again for each row.

    nu is left in ``spread``, of which ``nu_images`` is another view; ``peaks`` are maxima at each place of a
    run.
    """
    words, numbers, images = RUNS
    names = {name: f"{name}[i]" for name in "wgm"} | {"least": "minimum(spread[i], across[i])", "nu": "nu"}
    lines = [
        *_head([*words], [*numbers, *("wgm" if mean else "wg")], [*images], mean, neutral),
        "    nothing = bits(number(0))",
        "    for k in range(rows):",
        "        value, begin = row[k], k * width",
        "        for j in range(width):",
        "            spread[begin + j] = value",
        "    for i in range(rows * width):",
        *_entry(names, mean, decay),
        "        spread[i] = nu",
        "        peaks[i] = larger(peaks[i], bits(nu))",
        "    for k in range(rows):",
        "        begin = k * width",
        # From 0 on: of a row of 16, 15 would be a remainder to the vectoriser.
        "        best = nothing",
        "        for j in range(width):",
        "            best = larger(best, nu_images[begin + j])",
        "        high[k] = best",
    ]
    return "\n".join(lines) + "\n"


def single_text(mean: bool, decay: str, neutral: bool) -> str:
    """The loop over a vector. Its table: w, g (and m), and the accumulators, in whose place nu is left."""
    names = {name: f"{name}[i]" for name in "wgm"} | {"least": "nu[i]", "nu": "new"}
    lines = [
        *_head([], [*("wgm" if mean else "wg"), "nu"], [], mean, neutral),
        "    for i in range(start, stop):",
        *_entry(names, mean, decay),
        "        nu[i] = new",
    ]
    return "\n".join(lines) + "\n"


#: Integers in the table of pairs.
WORDS = len(PAIRS[0])


@numba.njit(**STRICT)
def _minimum(x: Any, y: Any) -> Any:
    return reference.minimum(x, y)


@numba.njit(**STRICT)
def _larger(x: Any, y: Any) -> Any:
    return choose(x > y, x, y)


@numba.njit(**STRICT)
def _bits32(x: Any) -> Any:
    return np.float32(x).view(np.uint32)


@numba.njit(**STRICT)
def _bits64(x: Any) -> Any:
    return np.float64(x).view(np.uint64)


_TEXTS = {"pairs": pairs_text, "runs": runs_text, "single": single_text}


@functools.cache
def loop(shape: str, mean: bool, decay: str, wide: bool, neutral: bool = False) -> Any:
    """A compiled loop: its shape, with momentum or without, in float64 or float32; see :data:`NEUTRAL`."""
    namespace = {
        "__name__": __name__,
        "as_int64": as_int64,
        "as_float64": as_float64,
        "pointer": as_float64 if wide else as_float32,
        "image": as_uint64 if wide else as_uint32,
        "number": np.float64 if wide else np.float32,
        "bits": _bits64 if wide else _bits32,
        "minimum": _minimum,
        "larger": _larger,
        "accumulated": numba.njit(**STRICT)(accumulated),
        "descended": numba.njit(**STRICT)(descended_along_mean if mean else descended),
    }
    exec(compile(_TEXTS[shape](mean, decay, neutral), f"<{shape} of sm3>", "exec"), namespace)  # noqa: S102
    form = "mean" if mean else "plain"
    form += "-neutral" if neutral else ""
    return compiled_function(
        namespace["loop"], KERNEL, f"sm3-{shape}-{form}-{decay}-float{64 if wide else 32}"
    )


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
                best[half] = _larger(best[half], peak[half])
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
            tops[j] = _larger(tops[j], peaks[i * width + j])
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
