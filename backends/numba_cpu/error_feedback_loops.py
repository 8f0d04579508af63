"""What error feedback does to a chunk of entries: the compressor's argument, its measure, C, and the step.

Every loop is a C function of the address of a table of words (named below), where the chunk begins, how many
entries it has, and the address of its numbers: the learning rate, the weight decay, 0. What a chunk needs in
between stays in the first two caches.
"""

from __future__ import annotations

import functools
import types as python_types
from typing import Any

import numba
import numpy as np

from memopt_ref.parts import scalar

from .bind import KERNEL, compiled_function
from .memory import as_float32, as_float64, as_int64, as_uint8, as_uint16, as_uint32, as_uint64, call_kernel
from .microadam_blocks import add_error, bounds, kth_key, quantise
from .microadam_numbers import image_of, infinity, number_at
from .options import STRICT
from .scalar import choose

#: Addresses of the chunk's entries: w, the compressed C(x), Adam's m and v, in the order of Adam's table; g,
#: and the error or EF21's d.
W, C, M, V, G, E = range(6)
#: Addresses of space: the compressor's argument x, two more of its length, magnitudes, bytes.
X, Y, Z, KEYS, SPARE = range(6, 11)
#: Addresses of the whole quantised error; bits and entries of a bucket.
CODES, LOW, HIGH, BITS, BUCKET = range(11, 16)
#: What x is, how weight decay enters, and Adam's loop with its numbers.
FORM, DECAY, ADAM, ADAM_NUMBERS = range(16, 20)
#: Compressor: where its block begins, entries of a block and of a chunk; Top-K: entries kept of a block, of a
#: shorter last one, and the tensor's size;
BASE, BLOCK, CHUNK, KEPT, KEPT_LAST, SIZE = range(20, 26)
#: of a large block the counts of magnitudes by their bits from SHIFT on, if those above are PREFIX; the least
#: one kept, and how many equal to it each chunk has, or keeps;
COUNTS, SHIFT, PREFIX, LEAST, TIES = range(26, 31)
#: sums of leaves; the number that each block's signs are multiplied with, or of each column the sums of runs
#: on either side of 0, their members, and the two means.
LEAVES, SCALES, ABOVE, BELOW, MEMBERS, COLUMNS = range(31, 37)
#: For :mod:`.error_feedback_drive`: the loops' addresses, how many, whether they write; the arrays, how many,
#: the word of each, their shape and its length; bytes of a number.
LOOPS, MANY, WRITES, ARRAYS, COUNT, NAMES, SHAPE, RANK, ITEM = range(37, 46)
WORDS = 46
#: The forms: e + lr g; lr g; Q^-1(e) + lr g; g - d; g; e + g.
KEPT_ERROR, NO_ERROR, CODED_ERROR, DIFFERENCE, ALONE, SUM = range(6)
NO_DECAY, L2, FACTOR = range(3)
#: Bits of a magnitude that one pass looks at, entries of a leaf and its lanes, rows of a run: the last three
#: are those of :mod:`memopt_ref.parts.sums`.
DIGIT, LEAF, LANES, RUN = 12, 512, 128, 64

# Bound anew in every copy of the templates.
as_number, as_image, as_kept = as_float32, as_uint32, as_uint16


@numba.njit(**STRICT)
def times(factor: Any, a: Any, out: Any, n: int) -> None:
    """factor a."""
    for i in range(n):
        out[i] = factor * a[i]


@numba.njit(**STRICT)
def plus_times(a: Any, factor: Any, b: Any, out: Any, n: int) -> None:
    """a + factor b."""
    for i in range(n):
        out[i] = a[i] + factor * b[i]


@numba.njit(**STRICT)
def plus(a: Any, b: Any, out: Any, n: int) -> None:
    """a + b."""
    for i in range(n):
        out[i] = a[i] + b[i]


@numba.njit(**STRICT)
def minus(a: Any, b: Any, out: Any, n: int) -> None:
    """a - b."""
    for i in range(n):
        out[i] = a[i] - b[i]


@numba.njit(**STRICT)
def shrunk(out: Any, factor: Any, n: int) -> None:
    """A run times a factor."""
    for i in range(n):
        out[i] = out[i] * factor


@numba.njit(**STRICT)
def lessened(out: Any, b: Any, n: int) -> None:
    """A run less another."""
    for i in range(n):
        out[i] = out[i] - b[i]


@numba.njit(**STRICT)
def magnitudes(a: Any, keys: Any, n: int) -> None:
    """The images of magnitudes, by which Top-K orders."""
    for i in range(n):
        keys[i] = image_of(abs(a[i]))


@numba.njit(**STRICT)
def largest(keys: Any, n: int) -> Any:
    """The largest of some images."""
    most = keys[0]
    for i in range(n):
        most = choose(keys[i] > most, keys[i], most)
    return most


def enter(table: int, begin: int, n: int, numbers: int) -> None:
    """x, the compressor's argument."""
    t, given = as_int64(table), as_number(numbers)
    g, e, x, y, z = as_number(t[G]), as_number(t[E]), as_number(t[X]), as_number(t[Y]), as_number(t[Z])
    form, rate = t[FORM], given[0]
    if t[DECAY] == L2:
        plus_times(g, given[1], as_number(t[W]), y, n)
        g = y
    if form == KEPT_ERROR:
        plus_times(e, rate, g, x, n)
    elif form == SUM:
        plus(e, g, x, n)
    elif form == DIFFERENCE:
        minus(g, e, x, n)
    elif form == ALONE:
        times(number_at(g, 1), g, x, n)
    elif form == NO_ERROR:
        for i in range(n):
            x[i] = given[2] + rate * g[i]
    else:
        times(rate, g, z, n)


def decode(table: int, begin: int, n: int, numbers: int) -> None:
    """Add a quantised error to lr g, which the loop above has left."""
    t = as_int64(table)
    low, high, codes, spare = as_kept(t[LOW]), as_kept(t[HIGH]), as_uint8(t[CODES]), as_uint8(t[SPARE])
    x, z = as_number(t[X]), as_number(t[Z])
    add_error(z, 0, codes, low, high, x, spare, begin, n, t[BUCKET], t[BITS])


def leave(table: int, begin: int, n: int, numbers: int) -> None:
    """The step along C(x), and what C dropped."""
    t, given = as_int64(table), as_number(numbers)
    w, c, e, x, y = as_number(t[W]), as_number(t[C]), as_number(t[E]), as_number(t[X]), as_number(t[Y])
    form = t[FORM]
    if t[DECAY] == FACTOR:
        shrunk(w, given[1], n)
    if form == DIFFERENCE:
        for i in range(n):
            e[i] = e[i] + c[i]
            w[i] = w[i] - given[0] * e[i]
    elif form < DIFFERENCE:
        lessened(w, c, n)
    if form in (KEPT_ERROR, SUM):
        minus(x, c, e, n)
    elif form == CODED_ERROR:
        minus(x, c, y, n)
    if form >= ALONE:
        call_kernel(t[ADAM], table, 0, n, t[ADAM_NUMBERS])


def encode(table: int, begin: int, n: int, numbers: int) -> None:
    """Quantise what C dropped, which the loop above has left."""
    t = as_int64(table)
    y, keys = as_number(t[Y]), as_image(t[KEYS])
    magnitudes(y, keys, n)
    nan = np.int64(largest(keys, n)) > infinity(y)
    low, high = as_kept(t[LOW]), as_kept(t[HIGH])
    bounds(y, keys, low, high, begin, n, t[BUCKET], nan)
    quantise(y, low, high, as_uint8(t[CODES]), as_uint8(t[SPARE]), begin, n, t[BUCKET], t[BITS])


def copy(table: int, begin: int, n: int, numbers: int) -> None:
    """C(x) = x."""
    t = as_int64(table)
    x = as_number(t[X])
    times(number_at(x, 1), x, as_number(t[C]), n)


def keep_largest(table: int, begin: int, n: int, numbers: int) -> None:
    """Top-K of each block of a chunk of whole blocks."""
    t, zero = as_int64(table), as_number(numbers)[2]
    x, c, keys = as_number(t[X]), as_number(t[C]), as_image(t[KEYS])
    for first in range(0, n, t[BLOCK]):
        length = min(t[BLOCK], n - first)
        kept = t[KEPT] if length == t[BLOCK] else t[KEPT_LAST]
        for i in range(length):
            keys[i] = image_of(abs(x[first + i]))
        kth, beat = kth_key(keys, length, kept, 0, np.int64(largest(keys, length)))
        limit, quota = number_at(keys, kth), kept - beat
        equal = np.int64(0)
        for i in range(length):
            c[first + i] = choose(keys[i] >= limit, x[first + i], zero)
            equal += np.int64(keys[i] == limit)
        if equal > quota:
            drop_ties(keys, limit, quota, c, first, length, zero)


@numba.njit(**STRICT)
def drop_ties(keys: Any, limit: Any, quota: int, c: Any, first: int, length: int, zero: Any) -> None:
    """Of the entries equal to the least kept one the first ``quota`` stay."""
    for i in range(length):
        if keys[i] == limit:
            quota -= 1
            if quota < 0:
                c[first + i] = zero


def count_digits(table: int, begin: int, n: int, numbers: int) -> None:
    """Count the magnitudes of a large block by one digit, among those that agree in all digits before."""
    t = as_int64(table)
    x, keys, counts = as_number(t[X]), as_image(t[KEYS]), as_int64(t[COUNTS])
    magnitudes(x, keys, n)
    shift, prefix = t[SHIFT], t[PREFIX]
    for i in range(n):
        digits = np.int64(keys[i]) >> shift
        if digits >> DIGIT == prefix:
            counts[digits & ((1 << DIGIT) - 1)] += 1


def count_ties(table: int, begin: int, n: int, numbers: int) -> None:
    """How many entries of the chunk are equal to the least kept one."""
    t = as_int64(table)
    x, keys = as_number(t[X]), as_image(t[KEYS])
    magnitudes(x, keys, n)
    limit, found = number_at(keys, t[LEAST]), np.int64(0)
    for i in range(n):
        found += np.int64(keys[i] == limit)
    as_int64(t[TIES])[(begin - t[BASE]) // t[CHUNK]] = found


def keep_from(table: int, begin: int, n: int, numbers: int) -> None:
    """Top-K of a large block, once its least kept magnitude is known."""
    t, zero = as_int64(table), as_number(numbers)[2]
    x, c, keys = as_number(t[X]), as_number(t[C]), as_image(t[KEYS])
    magnitudes(x, keys, n)
    limit = number_at(keys, t[LEAST])
    for i in range(n):
        c[i] = choose(keys[i] >= limit, x[i], zero)
    if t[TIES] != 0:
        drop_ties(keys, limit, as_int64(t[TIES])[(begin - t[BASE]) // t[CHUNK]], c, 0, n, zero)


def sum_leaves(table: int, begin: int, n: int, numbers: int) -> None:
    """The sums of |x| over the leaves of each block."""
    t, zero = as_int64(table), as_number(numbers)[2]
    x, y, leaves = as_number(t[X]), as_number(t[Y]), as_number(t[LEAVES])
    block = t[BLOCK]
    apart = (block + LEAF - 1) // LEAF
    done = 0
    while done < n:
        place = begin + done - t[BASE]
        inside = place % block
        length = min(LEAF, block - inside, n - done)
        for lane in range(LANES):
            y[lane] = zero
        for down in range(0, length, LANES):
            for lane in range(min(LANES, length - down)):
                y[lane] = y[lane] + abs(x[done + down + lane])
        wide = LANES
        while wide > 1:
            wide //= 2
            for lane in range(wide):
                y[lane] = y[2 * lane] + y[2 * lane + 1]
        leaves[place // block * apart + inside // LEAF] = y[0]
        done += length


def scale_signs(table: int, begin: int, n: int, numbers: int) -> None:
    """The number of its block times the sign of each entry."""
    t = as_int64(table)
    x, c, scales, block = as_number(t[X]), as_number(t[C]), as_number(t[SCALES]), t[BLOCK]
    done = 0
    while done < n:
        place = begin + done - t[BASE]
        stop = min(n, done + block - place % block)
        scale = scales[place // block]
        for i in range(done, stop):
            c[i] = scale * scalar.sign(x[i])
        done = stop


def sum_sides(table: int, begin: int, n: int, numbers: int) -> None:
    """Add each column's entries below 0, and the others, to the sums of their run of rows."""
    t, zero = as_int64(table), as_number(numbers)[2]
    x, columns, members = as_number(t[X]), t[COLUMNS], as_int64(t[MEMBERS])
    done = 0
    while done < n:
        row, first = (begin + done) // columns, (begin + done) % columns
        stop = min(columns, first + n - done)
        above = as_number(t[ABOVE])
        below = as_number(t[BELOW])
        run = row // RUN * columns
        for c in range(first, stop):
            entry = x[done + c - first]
            negative = entry < zero
            above[run + c] = above[run + c] + choose(negative, zero, entry)
            below[run + c] = below[run + c] + choose(negative, entry, zero)
            members[c] += np.int64(negative)
        done += stop - first


def take_sides(table: int, begin: int, n: int, numbers: int) -> None:
    """Each entry replaced by its side's mean in its column."""
    t, zero = as_int64(table), as_number(numbers)[2]
    x, out, columns = as_number(t[X]), as_number(t[C]), t[COLUMNS]
    above, below = as_number(t[ABOVE]), as_number(t[BELOW])
    done = 0
    while done < n:
        first = (begin + done) % columns
        stop = min(columns, first + n - done)
        for c in range(first, stop):
            out[done + c - first] = choose(x[done + c - first] < zero, below[c], above[c])
        done += stop - first


_KEPT = {"uint16": as_uint16, "float32": as_float32, "float64": as_float64}


@functools.cache
def loop(template: Any, wide: bool, kept: str = "float32") -> int:
    """The address of one of the loops above, compiled or found on disk, for float64 or float32.

    ``kept``: the format of the bounds of a quantised error, of those loops that read or write it.
    """
    bound = {
        "as_number": as_float64 if wide else as_float32,
        "as_image": as_uint64 if wide else as_uint32,
        "as_kept": _KEPT[kept],
    }
    name = template.__name__
    own = python_types.FunctionType(template.__code__, {**globals(), **bound}, name)
    marks = f"-{kept}" if template in (encode, decode) else ""
    compiled = compiled_function(
        own, KERNEL, f"feedback-{name.replace('_', '-')}-float{64 if wide else 32}{marks}"
    )
    _loaded.append(compiled)
    return int(compiled.address)


#: Compiled loops stay where they are as long as someone knows them.
_loaded: list[Any] = []
