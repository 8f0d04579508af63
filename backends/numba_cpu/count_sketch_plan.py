"""Where the active rows of a step live in their sketches, and in what order a bucket meets them.

A bucket first sums its increments in ascending order of the rows, then adds the sum to its content, once; and
lazy decay asks every bucket for the content that it had before. One pass over the rows does both: a bucket
that only one active row falls into takes its increment at once, any other holds a sum aside from its first
row to its last. A row whose buckets have all met their last row can be asked for in the same pass.

Rows that share no bucket, not even through others that they share buckets with, may go in any order. So those
that do go together, in ascending order: what one of them leaves is still near when the next wants it. Where
there are several times as many buckets as active rows they are few at a time: 3.4 on average, seen from a
row, if each row of the sketch has 3.3 buckets an active row.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from memopt_ref.parts import hashing

from .cache import KernelCache
from .options import STRICT

lowbias32 = numba.njit(**STRICT)(hashing.lowbias32)
LOW32, TOP, WORD = hashing.LOW32, np.uint64(31), np.uint64(32)

#: The sign -1 of a row in a sketch, beside the place in the table.
NEGATIVE = np.uint32(1 << 31)
#: What a row finds its bucket to be; others are 4 * (place of the held sum) + FIRST, MIDDLE or LAST.
ALONE = np.uint32(0xFFFFFFFF)
FIRST, MIDDLE, LAST = range(3)


@numba.njit(**STRICT, nogil=True)
def locate(items: Any, keys: Any, signed: bool, width: int, first: int, places: Any) -> None:
    """Where :class:`Avalanche` sends items below 2^32 in a table of depth times width rows.

    Parameters
    ----------
    items : array of int64, shape [k]
    keys : array of uint64, shape [depth, 4]
        Of the rows of the sketch.
    places : array of uint32, shape [k, rows of all sketches]
        Written from column ``first`` on.
    """
    buckets = np.uint64(width)
    for j in range(keys.shape[0]):
        a, b = (keys[j, 0] & LOW32) | np.uint64(1), keys[j, 1] & LOW32
        c, d = (keys[j, 2] & LOW32) | np.uint64(1), keys[j, 3] & LOW32
        begin, column = np.uint64(j * width), first + j
        for i in range(items.size):
            item = np.uint64(items[i])
            x = lowbias32((a * item + b) & LOW32)
            place = begin + ((x * buckets) >> WORD)
            if signed:
                place |= (lowbias32((c * item + d) & LOW32) >> TOP) << TOP
            places[i, column] = np.uint32(place)


@numba.njit(**STRICT)
def root(parent: Any, i: int) -> int:
    """The first row of all that are joined with row ``i``; the way to it is made shorter."""
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i


@numba.njit(**STRICT)
def join(parent: Any, i: int, j: int) -> None:
    """Two rows share a bucket."""
    i, j = root(parent, i), root(parent, j)
    parent[max(i, j)] = min(i, j)


@numba.njit(**STRICT, nogil=True)
def arrange(
    places: Any, first: int, depth: int, width: int, held: Any, order: Any, ready: Any, closing: Any
) -> int:
    """In what order the rows go through one sketch, and what each of them finds there.

    Parameters
    ----------
    places, held : array of uint32, shape [k, rows of all sketches]
        Those of this sketch are ``depth`` columns from ``first`` on; ``held`` is written.
    order : array of int64, shape [k]
        Gets the places of the rows among the active ones, in the order in which they are met.
    ready : array of bool, shape [k]
        Gets which rows, by their place among the active ones, wait for no later one.
    closing : array of int64, shape [k]
        At the last of some rows that share buckets among them, how many they are; otherwise 0.

    Returns
    -------
    int
        How many sums are held at a time, at most.
    """
    k = places.shape[0]
    parent, after = np.arange(k), np.empty((depth, k), np.int32)
    shared, count = np.empty((k * depth // 2, 2), np.int32), 0
    last, known = np.empty(width, np.int32), np.empty(width, np.bool_)
    # Plain loops: an assignment to a slice takes long to compile.
    for i in range(k):
        ready[i], closing[i] = True, 0
    for j in range(depth):
        for b in range(width):
            last[b], known[b] = -1, False
        for i in range(k):
            bucket = np.int64(places[i, first + j] & ~NEGATIVE) - j * width
            x = last[bucket]
            last[bucket], after[j, i], held[i, first + j] = i, -1, ALONE
            if x >= 0:
                after[j, x], ready[x] = i, False
                join(parent, x, i)
                if not known[bucket]:
                    known[bucket] = True
                    shared[count, 0], shared[count, 1] = j, x
                    count += 1
    # The first of those that belong together has no parent, and comes before them.
    size, sums = np.zeros((2, k), np.int64)
    for i in range(k):
        parent[i] = parent[parent[i]]
        size[parent[i]] += 1
    total, begin = 0, size
    for i in range(k):
        many, begin[i] = size[i], total
        total += many
        if many > 1:
            closing[total - 1] = many
    for i in range(k):
        order[begin[parent[i]]] = i
        begin[parent[i]] += 1
    most = 0
    for n in range(count):
        j, x = shared[n, 0], shared[n, 1]
        place, kind = sums[parent[x]], FIRST
        sums[parent[x]] += 1
        most = max(most, place + 1)
        while after[j, x] >= 0:
            held[x, first + j] = np.uint32(4 * place + kind)
            x, kind = after[j, x], MIDDLE
        held[x, first + j] = np.uint32(4 * place + LAST)
    return most


@numba.njit(**STRICT, nogil=True)
def one(
    s: int,
    items: Any,
    keys: Any,
    signed: Any,
    depth: int,
    width: int,
    batched: bool,
    places: Any,
    held: Any,
    order: Any,
    ready: Any,
    closing: Any,
    most: Any,
) -> None:
    """The sketch ``s`` of a step: where its rows live, if there are keys for that, and their order."""
    if keys.size > 0:
        locate(items, keys[s], signed[s], width, s * depth, places)
    if batched:
        most[s] = arrange(places, s * depth, depth, width, held, order[s], ready[s], closing[s])
        return
    most[s] = 0
    for i in range(items.size):
        order[s, i], ready[s, i], closing[s, i] = i, True, 0
        for j in range(depth):
            held[i, s * depth + j] = ALONE


@numba.njit(**STRICT, nogil=True)
def serial(
    items: Any,
    keys: Any,
    signed: Any,
    depth: int,
    width: int,
    batched: bool,
    places: Any,
    held: Any,
    order: Any,
    ready: Any,
    closing: Any,
    most: Any,
) -> None:
    """All sketches, in this thread.

    Parameters
    ----------
    items : array of int64, shape [k]
    keys : array of uint64, shape [sketches, depth, 4]
        For :func:`locate`; or without any, where the places are known.
    signed : array of bool, shape [sketches]
    depth, width : int
    batched : bool
        All rows query before any updates; else one does all after the other, and shares no bucket with it.
    places, held, order, ready, closing
        As for :func:`arrange`; the last three have a row for each sketch.
    most : array of int64, shape [sketches]
        Gets how many sums are held at a time.
    """
    for s in range(most.size):
        one(
            s, items, keys, signed, depth, width, batched, places, held, order, ready, closing, most
        )  # fmt: skip


@numba.njit(**STRICT, nogil=True, parallel=True)
def parallel(
    items: Any,
    keys: Any,
    signed: Any,
    depth: int,
    width: int,
    batched: bool,
    places: Any,
    held: Any,
    order: Any,
    ready: Any,
    closing: Any,
    most: Any,
) -> None:
    """All sketches, which the threads share."""
    for s in numba.prange(most.size):
        one(
            s, items, keys, signed, depth, width, batched, places, held, order, ready, closing, most
        )  # fmt: skip


serial._cache, parallel._cache = KernelCache("sketch-plan-serial"), KernelCache("sketch-plan-parallel")
