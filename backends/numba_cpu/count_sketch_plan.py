"""Where the active rows of a step live in their sketches, and in what order a bucket meets them.

A bucket first sums its increments in ascending order of the rows, then adds the sum to its content, once; and
lazy decay asks every bucket for the content that it had before. One pass over the rows does both: a bucket
that only one active row falls into takes its increment at once, any other holds a sum aside from its first
row to its last. A row whose buckets have all met their last row can be stepped in the same pass.
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


@numba.njit(**STRICT, nogil=True)
def arrange(places: Any, width: int, held: Any, ready: Any, bases: Any) -> int:
    """What each row finds, into ``held``; takes ``ready`` from rows that must wait for a later one.

    ``bases`` gets where the sums of each row of a sketch begin; returns how many are held at a time, at most.
    """
    last, place = np.empty(width, np.int32), np.empty(width, np.int32)
    free = np.empty(min(width, places.shape[0]), np.int32)
    depth = places.shape[1]
    total = 0
    for column in range(depth):
        bases[column] = total
        # A plain loop: an assignment to a slice takes long to compile.
        for b in range(width):
            place[b] = -1
        spare = most = 0
        # The places of a row of a sketch are a multiple of the width, and a bucket.
        begin = np.int64(0)
        if places.shape[0] > 0:
            begin = np.int64(places[0, column] & ~NEGATIVE) // width * width
        for i in range(places.shape[0]):
            last[np.int64(places[i, column] & ~NEGATIVE) - begin] = i
        for i in range(places.shape[0]):
            bucket = np.int64(places[i, column] & ~NEGATIVE) - begin
            if place[bucket] < 0:
                if last[bucket] == i:
                    held[i, column] = ALONE
                    continue
                if spare > 0:
                    spare -= 1
                    place[bucket] = free[spare]
                else:
                    place[bucket] = most
                    most += 1
                held[i, column] = np.uint32(4 * place[bucket] + FIRST)
                ready[i] = False
            elif last[bucket] > i:
                held[i, column] = np.uint32(4 * place[bucket] + MIDDLE)
                ready[i] = False
            else:
                held[i, column] = np.uint32(4 * place[bucket] + LAST)
                free[spare] = place[bucket]
                spare += 1
        total += most
    return total


locate._cache, arrange._cache = KernelCache("sketch-locate"), KernelCache("sketch-arrange")
