"""Where the active rows of a step live in their sketches, and in what order the buckets meet them.

A bucket first sums its increments in ascending order of the rows, then adds the sum to its content, once; and
lazy decay asks every bucket for the content that it had before. One pass over the rows does both: a bucket
that only one active row falls into takes its increment at once, any other holds a sum aside from its first
row to its last. A row can be stepped when all its buckets have met their last row.

Only rows that share a bucket have an order among them. So they are met soon after one another, before what
the first of them has touched leaves the caches: with 4096 active rows, 40,000 buckets in each of two
sketches and rows in ascending order, 54 % of them would wait for a row that comes more than 50 rows later, in
this order 7 % do.
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
#: Rows of an array of links, each of two rows that are neighbours in a bucket: these, by their places among
#: the active ones; the bucket's column; the link from the later row to the next in that bucket, or -1.
EARLIER, LATER, COLUMN, NEXT = range(4)


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
def link(places: Any, first: int, depth: int, width: int, links: Any) -> int:
    """Pairs of neighbours in a bucket of one sketch; returns how many there are.

    Parameters
    ----------
    places : array of uint32, shape [k, rows of all sketches]
        Those of this sketch are ``depth`` columns from ``first`` on.
    links : array of int32, shape [4, k depth]
        Written; a link comes before the next one of its bucket.
    """
    last, to, n = np.empty(width, np.int32), np.empty(places.shape[0], np.int32), 0
    for column in range(first, first + depth):
        # A plain loop: an assignment to a slice takes long to compile.
        for b in range(width):
            last[b] = -1
        for i in range(places.shape[0]):
            bucket = np.int64(places[i, column] & ~NEGATIVE) - (column - first) * width
            x = last[bucket]
            last[bucket] = i
            to[i] = -1
            if x >= 0:
                links[EARLIER, n], links[LATER, n], links[COLUMN, n], links[NEXT, n] = x, i, column, -1
                if to[x] >= 0:
                    links[NEXT, to[x]] = n
                to[i] = n
                n += 1
    return n


@numba.njit(**STRICT, nogil=True)
def by_row(ends: Any, k: int) -> tuple[Any, Any]:
    """The links at each row.

    Parameters
    ----------
    ends : array of int32, shape [pairs]
        A row of each link.
    k : int
        How many rows there are.

    Returns
    -------
    begin, own : array of int32, shape [k + 1] and [pairs]
        The links of row i are ``own[begin[i] : begin[i + 1]]``.
    """
    begin, own = np.zeros(k + 1, np.int32), np.empty(ends.size, np.int32)
    for n in range(ends.size):
        begin[ends[n] + 1] += 1
    for i in range(k):
        begin[i + 1] += begin[i]
    for n in range(ends.size - 1, -1, -1):
        i = ends[n]
        begin[i + 1] -= 1
        own[begin[i + 1]] = n
    # What was taken down is the beginning of the row itself.
    for i in range(k):
        begin[i] = begin[i + 1]
    begin[k] = ends.size
    return begin, own


@numba.njit(**STRICT, nogil=True)
def arrange(links: Any, before: Any, after: Any, order: Any) -> None:
    """An order in which every bucket meets its rows in ascending order, and partners are near one another.

    Depth first: of a row that has been met the next in each of its buckets is met as soon as it can be, after
    the rows that have to come before it in its other buckets.

    Parameters
    ----------
    links : array of int32, shape [4, pairs]
        See :func:`link`.
    before, after : pair of arrays
        :func:`by_row` of the links to each row and from it.
    order : array of uint32, shape [k]
        Written: places among the active rows.
    """
    k, p = order.size, 0
    # Rows to be met, what must come first on top; rows that were met and may have partners to be met.
    wanted, met = np.empty(1 + 2 * links.shape[1], np.int32), np.empty(k, np.int32)
    done = np.zeros(k, np.bool_)
    for start in range(k):
        wanted[0] = start
        many, partners = 1, 0
        while many > 0:
            i, own = wanted[many - 1], many
            if not done[i]:
                for n in range(before[0][i], before[0][i + 1]):
                    x = links[EARLIER, before[1][n]]
                    wanted[many] = x
                    many += not done[x]
                if many > own:
                    continue
                order[p], done[i], met[partners] = i, True, i
                p, partners = p + 1, partners + 1
            many -= 1
            while many == 0 and partners > 0:
                partners -= 1
                i = met[partners]
                for n in range(after[0][i], after[0][i + 1]):
                    x = links[LATER, after[1][n]]
                    wanted[many] = x
                    many += not done[x]


@numba.njit(**STRICT, nogil=True)
def ends_of(links: Any, at: Any) -> Any:
    """The place in the order of the last row in each link's bucket; ``at``: those of the rows."""
    end = np.empty(links.shape[1], np.int32)
    for n in range(end.size - 1, -1, -1):
        end[n] = at[links[LATER, n]] if links[NEXT, n] < 0 else end[links[NEXT, n]]
    return end


@numba.njit(**STRICT, nogil=True)
def step_later(links: Any, at: Any, end: Any, ready: Any, closing: Any, later: Any) -> None:
    """When each row can be stepped: as soon as the last row in each of its buckets is met.

    Parameters
    ----------
    links, at, end : array of int32
        See :func:`link` and :func:`ends_of`.
    ready : array of bool, shape [k]
        Gets which rows, by their place among the active ones, wait for no other.
    closing, later : array of uint32, shape [k]
        Get how many rows wait for the one at each place of the order and for no later one; and all that wait,
        by their places among the active rows, in the order in which that happens.
    """
    k, when = at.size, at.copy()
    for n in range(end.size):
        when[links[EARLIER, n]] = max(when[links[EARLIER, n]], end[n])
    begin, total = np.zeros(k, np.int32), 0
    for i in range(k):
        ready[i] = when[i] == at[i]
        begin[when[i]] += not ready[i]
    for p in range(k):
        closing[p], begin[p] = begin[p], total
        total += closing[p]
    for i in range(k):
        if not ready[i]:
            later[begin[when[i]]] = i
            begin[when[i]] += 1


@numba.njit(**STRICT, nogil=True)
def keep_aside(links: Any, at: Any, end: Any, held: Any) -> int:
    """What each row finds in its buckets; returns how many sums are held at a time, at most.

    Parameters
    ----------
    links, at, end : array of int32
        See :func:`link` and :func:`ends_of`.
    held : array of uint32, shape [k, rows of all sketches]
        ALONE everywhere; where a row is not, 4 * (place of the bucket's sum) + FIRST, MIDDLE or LAST.
    """
    many, k = links.shape[1], at.size
    first = np.ones(many, np.bool_)
    for n in range(many):
        if links[NEXT, n] >= 0:
            first[links[NEXT, n]] = False
    # Sums that begin and that end, by the place in the order: a row's own begin before others end.
    begin = np.zeros(2 * k + 1, np.int32)
    for n in range(many):
        begin[2 * at[links[EARLIER, n]] + 1] += first[n]
        begin[2 * end[n] + 2] += first[n]
    for p in range(2 * k):
        begin[p + 1] += begin[p]
    events = np.empty(begin[2 * k] + 1, np.int32)
    for n in range(many):
        if first[n]:
            one, two = 2 * at[links[EARLIER, n]], 2 * end[n] + 1
            events[begin[one]], events[begin[two]] = 2 * n, 2 * n + 1
            begin[one] += 1
            begin[two] += 1
    # The place of the sum that both rows of a link add to; a stack of those that are free, the least on top.
    place, free = np.empty(many, np.uint32), np.empty(many + 1, np.uint32)
    for n in range(many + 1):
        free[n] = many - n
    top, least = many, many
    for e in range(events.size - 1):
        n, over = events[e] // 2, events[e] % 2
        # No branch: it would be a guess.
        top -= 1 - over
        place[n] = place[n] if over else free[top + 1]
        free[top + 1] = place[n]
        top += over
        least = min(least, top)
    for n in range(many):
        if links[NEXT, n] >= 0:
            place[links[NEXT, n]] = place[n]
        held[links[EARLIER, n], links[COLUMN, n]] = np.uint32(4) * place[n] + np.uint32(
            FIRST if first[n] else MIDDLE
        )
        if links[NEXT, n] < 0:
            held[links[LATER, n], links[COLUMN, n]] = np.uint32(4) * place[n] + np.uint32(LAST)
    most: int = many - least
    return most


@numba.njit(**STRICT, nogil=True)
def in_turn(
    places: Any, width: int, batched: bool, held: Any, order: Any, ready: Any, closing: Any, later: Any
) -> int:
    """The plan that keeps the rows in ascending order: those that wait are stepped at the end.

    For more rows than buckets, where most share buckets with far ones in every order; and for rows of which
    each goes through its sketches alone (not ``batched``). It needs no memory but what it writes. The
    arguments and the answer are those of :func:`settle`.
    """
    k, columns = places.shape
    last, place = np.empty(width, np.int32), np.empty(width, np.int32)
    free = np.empty(min(width, k) * columns, np.int32)
    for i in range(k):
        order[i], ready[i], closing[i] = i, True, 0
    spare = most = 0
    for column in range(columns):
        # Plain loops: an assignment to a slice takes long to compile.
        for b in range(width):
            place[b] = -1
        # The places of a row of a sketch are a multiple of the width, and a bucket.
        begin = np.int64(places[0, column] & ~NEGATIVE) // width * width if k > 0 else 0
        for i in range(k):
            last[np.int64(places[i, column] & ~NEGATIVE) - begin] = i
        # A row finds sums of all its buckets at once: what other columns gave back is not this one's.
        own = spare
        for i in range(k):
            bucket = np.int64(places[i, column] & ~NEGATIVE) - begin
            if not batched or (place[bucket] < 0 and last[bucket] == i):
                held[i, column] = ALONE
                continue
            kind = MIDDLE
            if place[bucket] < 0:
                kind = FIRST
                if spare > own:
                    spare -= 1
                    place[bucket] = free[spare]
                else:
                    place[bucket] = most
                    most += 1
            if last[bucket] == i:
                kind = LAST
                free[spare] = place[bucket]
                spare += 1
            else:
                ready[i] = False
            held[i, column] = np.uint32(4 * place[bucket] + kind)
    many = 0
    for i in range(k):
        if not ready[i]:
            later[many] = i
            many += 1
    if k > 0:
        closing[k - 1] = many
    return most


@numba.njit(**STRICT, nogil=True)
def found(
    s: int,
    items: Any,
    keys: Any,
    signed: Any,
    depth: int,
    width: int,
    linked: bool,
    places: Any,
    links: Any,
    counts: Any,
) -> None:
    """Where the rows live in the sketch ``s``, and which are linked there.

    Parameters
    ----------
    items : array of int64, shape [k]
    keys : array of uint64, shape [sketches, depth, 4]
        For :func:`locate`; or without any, where the places are known.
    signed : array of bool, shape [sketches]
    depth, width : int
    linked : bool
        Whether links are wanted.
    places : array of uint32, shape [k, rows of all sketches]
    links : array of int32, shape [sketches, 4, k depth]
        See :func:`link`; ``counts`` gets how many there are.
    """
    if keys.size > 0:
        locate(items, keys[s], signed[s], width, s * depth, places)
    if linked:
        counts[s] = link(places, s * depth, depth, width, links[s])


@numba.njit(**STRICT, nogil=True, parallel=True)
def parallel(
    items: Any,
    keys: Any,
    signed: Any,
    depth: int,
    width: int,
    linked: bool,
    places: Any,
    links: Any,
    counts: Any,
) -> None:
    """All sketches, which the threads share."""
    for s in numba.prange(signed.size):
        found(s, items, keys, signed, depth, width, linked, places, links, counts)


@numba.njit(**STRICT, nogil=True)
def settle(links: Any, counts: Any, order: Any, held: Any, ready: Any, closing: Any, later: Any) -> int:
    """The plan that brings partners near one another: the order of the rows and what follows from it.

    Parameters
    ----------
    links, counts : array of int32 and int64
        Those of all sketches, see :func:`link`.
    order : array of uint32, shape [k]
        See :func:`arrange`.
    held : array of uint32, shape [k, rows of all sketches]
        See :func:`keep_aside`.
    ready, closing, later : array of bool and of uint32, shape [k]
        See :func:`step_later`.

    Returns
    -------
    int
        How many sums are held aside at a time, at most.
    """
    k, total = order.size, 0
    joined = np.empty((4, counts.sum()), np.int32)
    for s in range(counts.size):
        for n in range(counts[s]):
            for part in (EARLIER, LATER, COLUMN):
                joined[part, total + n] = links[s, part, n]
            joined[NEXT, total + n] = links[s, NEXT, n] + (total if links[s, NEXT, n] >= 0 else 0)
        total += counts[s]
    before, after = by_row(joined[LATER], k), by_row(joined[EARLIER], k)
    arrange(joined, before, after, order)
    at = np.empty(k, np.int32)
    for p in range(k):
        at[order[p]] = p
    end = ends_of(joined, at)
    step_later(joined, at, end, ready, closing, later)
    flat = held.reshape(-1)
    for n in range(flat.size):
        flat[n] = ALONE
    most: int = keep_aside(joined, at, end, held)
    return most


found._cache, parallel._cache = KernelCache("sketch-found"), KernelCache("sketch-found-parallel")
settle._cache, in_turn._cache = KernelCache("sketch-settle"), KernelCache("sketch-in-turn")
