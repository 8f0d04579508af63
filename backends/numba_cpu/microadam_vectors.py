"""MicroAdam's step of a Top-K block in vectors of sixteen: float32, bfloat16 ring, 4 bits, nearest rounding.

The same numbers in the same operations as :mod:`.microadam_blocks`, in fewer passes: candidates of Top-K are
listed while the error is decoded, the block's weights and the next block's gradient are fetched meanwhile. A
block with NaN or infinity, or whose last bucket is short, is left as it is, for the plain core.
"""

from __future__ import annotations

import functools
from typing import Any

import numba
import numpy as np

from . import microadam_loops as loops
from .bind import KERNEL, compiled_function
from .halves import from_bfloat16, to_bfloat16
from .memory import as_float32, as_float64, as_int64, as_uint8, as_uint16, as_uint32
from .microadam_blocks import LOWER, take
from .options import STRICT
from .scalar import choose
from .vectors import (
    LANES,
    add_pair,
    bfloat16_at,
    count,
    evens,
    everywhere,
    extremes_of,
    fetch,
    floats_at,
    integer_everywhere,
    integers_at,
    is_from,
    larger,
    nibbles_at,
    odds,
    places_from,
    put_chosen,
    put_floats,
    put_nibbles,
    put_pairs,
    reaches,
    root,
    smaller,
)

#: Entries that the loops take at once: a bucket is a whole number of these.
STRIDE = 32
#: A row of the ring holds at least one vector, and the places in a window are 16-bit integers.
FEWEST, PLACES = LANES, 2**16
INFINITY = np.int64(0x7F800000)
ZERO, ONE, HALF, LEVELS = np.float32(0), np.float32(1), np.float32(0.5), np.float32(15)


def serves(length: int, kept: int, bucket: int, window: int) -> bool:
    """Whether a block is served: whole buckets, rows of a vector, and pairs that fit into the place of a."""
    return length % bucket == 0 and FEWEST <= kept <= length // 2 and window * kept <= PLACES


#: The same in compiled code.
block_is_served = numba.njit(**STRICT)(serves)


@numba.njit(**STRICT)
def units(low: Any, high: Any, begin: int, buckets: int, lows: Any, steps: Any) -> None:
    """delta and u of each bucket, as floats."""
    for q in range(buckets):
        least = from_bfloat16(low[begin + q])
        lows[q] = least
        steps[q] = (from_bfloat16(high[begin + q]) - least) / LEVELS


@numba.njit(**STRICT)
def decode(
    source: int,
    codes: int,
    a: int,
    lows: Any,
    steps: Any,
    buckets: int,
    bucket: int,
    limit: Any,
    candidates: int,
    later: int,
) -> int:
    """a = source + Q^{-1}(e); list where a reaches the limit; the number of these places."""
    least = everywhere(limit)
    found, j = 0, 0
    for q in range(buckets):
        low, step = everywhere(lows[q]), everywhere(steps[q])
        for _ in range(0, bucket, 16):
            x = floats_at(source + 4 * j) + (nibbles_at(codes + j // 2) * step + low)
            put_floats(a + 4 * j, x)
            where = reaches(x, least)
            put_chosen(candidates + 4 * found, places_from(j), where)
            found += count(where)
            fetch(later + 4 * j)
            j += 16
    return found


@numba.njit(**STRICT)
def look_again(a: int, length: int, limit: Any, candidates: int) -> int:
    """List where a reaches another limit."""
    least = everywhere(limit)
    found = 0
    for j in range(0, length, 16):
        where = reaches(floats_at(a + 4 * j), least)
        put_chosen(candidates + 4 * found, places_from(j), where)
        found += count(where)
    return found


@numba.njit(**STRICT)
def count_from(keys: int, padded: int, least: int) -> int:
    """How many keys are at least ``least``, which is above 0; keys are padded with 0."""
    limit = integer_everywhere(least)
    found = 0
    for i in range(0, padded, 16):
        found += count(is_from(integers_at(keys + 4 * i), limit))
    return found


@numba.njit(**STRICT)
def kth_key(keys: int, padded: int, reached: int, kept: int, least: int, most: int) -> tuple[int, int]:
    """See :func:`.microadam_blocks.kth_key`."""
    low, high, beat, tries = least, most + 1, 0, 0
    step: Any
    while reached != kept and high - low > 1:
        step = (high - low) // 2
        if tries < 6:
            part = (np.float64(reached - kept) + 0.5) / np.float64(reached - beat)
            step = min(max(np.int64(np.float64(high - low) * part), 1), high - low - 1)
        tries += 1
        n = count_from(keys, padded, low + step)
        if n >= kept:
            low, reached = low + step, n
        else:
            high, beat = low + step, n
    return low, (0 if reached == kept else beat)


@numba.njit(**STRICT)
def least_kept(ring: Any, at: int, kept: int) -> Any:
    """The least magnitude in a row of the ring."""
    least = np.uint16(0x7FFF)
    for i in range(at, at + kept):
        x = np.uint16(ring[i] & np.uint16(0x7FFF))
        least = choose(x < least, x, least)
    return from_bfloat16(least)


@numba.njit(**STRICT)
def extremes(a: int, buckets: int, bucket: int, lows: Any, highs: Any) -> None:
    """The least and the greatest of each bucket."""
    for q in range(buckets):
        here = a + 4 * q * bucket
        small = large = floats_at(here)
        for j in range(16, bucket, 16):
            x = floats_at(here + 4 * j)
            small, large = smaller(x, small), larger(x, large)
        lows[q], highs[q] = extremes_of(small, large)


@numba.njit(**STRICT)
def keep_bounds(low: Any, high: Any, begin: int, buckets: int, lows: Any, highs: Any) -> None:
    """Round delta and Delta and keep them; leave delta and the reciprocal of u."""
    for q in range(buckets):
        least, most = to_bfloat16(lows[q] + ZERO), to_bfloat16(highs[q] + ZERO)
        low[begin + q], high[begin + q] = least, most
        lows[q] = from_bfloat16(least)
        span = from_bfloat16(most) - from_bfloat16(least)
        highs[q] = choose(span == ZERO, ZERO, LEVELS / choose(span == ZERO, ONE, span))


@numba.njit(**STRICT)
def quantise(
    a: int, codes: int, buckets: int, bucket: int, lows: Any, inverses: Any, later: int, later_codes: int
) -> None:
    """e = Q(a)."""
    zero, half, levels = everywhere(ZERO), everywhere(HALF), everywhere(LEVELS)
    j = 0
    for q in range(buckets):
        low, inverse = everywhere(lows[q]), everywhere(inverses[q])
        for _ in range(0, bucket, 32):
            x = (floats_at(a + 4 * j) - low) * inverse
            y = (floats_at(a + 4 * j + 64) - low) * inverse
            x = smaller(larger(x, zero), levels) + half
            y = smaller(larger(y, zero), levels) + half
            put_nibbles(codes + j // 2, x, y)
            fetch(later + 4 * j)
            fetch(later + 4 * j + 64)
            fetch(later_codes + j // 2)
            j += 32


@numba.njit(**STRICT)
def farthest(indices: Any, at: int, stop: int) -> Any:
    """The largest index in the window."""
    most = np.uint16(0)
    for k in range(at, stop):
        most = choose(indices[k] > most, indices[k], most)
    return np.int64(most)


@numba.njit(**STRICT)
def add_window(
    indices: Any,
    ring: int,
    at: int,
    kept: int,
    filled: int,
    powers: Any,
    window: int,
    sums: int,
    pairs: int,
    owners: Any,
) -> None:
    """m and v of each index in the window, in the place of its last one there; zeros in its other places.

    See :func:`.microadam_blocks.add_window`: here the sums are as many as the window has indices, and not as
    the block has entries, so that they stay in the first cache. ``owners`` is where an index stands last. A
    row's products are made at once, then added pair by pair.
    """
    for k in range(filled * kept):
        owners[indices[at + k]] = np.uint16(k)
    nothing = everywhere(ZERO)
    for k in range(0, filled * kept, LANES // 2):
        put_floats(sums + 8 * k, nothing)
    for i in range(filled):
        one, two = everywhere(np.float32(powers[i])), everywhere(np.float32(powers[window + i]))
        row = at + i * kept
        for k in range(0, kept, LANES):
            # The last sixteen end with the row: what follows it may not be there.
            here = min(k, kept - LANES)
            x = bfloat16_at(ring + 2 * (row + here))
            put_pairs(pairs + 8 * here, one * x, two * (x * x))
        for k in range(kept):
            add_pair(sums + 8 * np.int64(owners[indices[row + k]]), pairs + 8 * k)


@numba.njit(**STRICT)
def descend(w: Any, start: int, indices: Any, at: int, stop: int, numbers: Any, sums: int) -> None:
    """See :func:`.microadam_blocks.descend`; eps is above 0, so that zeros are no step."""
    rate, eps = everywhere(np.float32(numbers[loops.RATE])), everywhere(np.float32(numbers[loops.EPS]))
    first, second = (
        everywhere(np.float32(numbers[loops.FIRST])),
        everywhere(np.float32(numbers[loops.SECOND])),
    )
    for k in range(0, stop - at, LANES):
        x, y = floats_at(sums + 8 * k), floats_at(sums + 8 * k + 64)
        m, v = first * evens(x, y), second * odds(x, y)
        put_floats(sums + 4 * k, rate * (m / (root(v) + eps)))
    steps = as_float32(sums)
    for k in range(stop - at):
        w[start + np.int64(indices[at + k])] -= steps[k]


def fused(table: int, start: int, stop: int, numbers: int) -> None:
    """Step the blocks ``start`` to ``stop``."""
    t, values = as_int64(table), as_float64(numbers)
    w, ring, indices = as_float32(t[loops.W]), as_uint16(t[loops.RING]), as_uint16(t[loops.INDICES])
    low, high = as_uint16(t[loops.LOW]), as_uint16(t[loops.HIGH])
    g, a, left = as_float32(t[loops.G]), as_float32(t[loops.A]), as_uint8(t[loops.LEFT])
    picked, candidates, images = as_uint32(t[loops.PICKED]), as_uint32(t[loops.KEYS]), as_uint32(t[loops.A])
    lows, highs = as_float32(t[loops.MASK]), as_float32(t[loops.CANDIDATES])
    block, bucket, decay, row = t[loops.BLOCK], t[loops.BUCKET], t[loops.DECAY], t[loops.ROW]
    window, filled = t[loops.WINDOW], t[loops.FILLED]
    powers, owners = as_float64(numbers + 8 * loops.POWERS), as_uint16(t[loops.KEYS])
    fade = np.float32(values[loops.FADE])
    for b in range(start, stop):
        begin = b * block
        length = min(block, t[loops.SIZE] - begin)
        kept = t[loops.KEPT] if length == block else t[loops.KEPT_LAST]
        at = b * window * t[loops.KEPT]
        here, end = at + row * kept, at + filled * kept
        if not block_is_served(length, kept, bucket, window) or farthest(indices, at, end) >= length:
            left[b] = np.uint8(1)
            continue
        buckets, first = length // bucket, begin // bucket
        source, codes = t[loops.G] + 4 * begin, t[loops.CODES] + begin // 2
        if decay == loops.L2:
            source = t[loops.A]
            for j in range(length):
                a[j] = g[begin + j] + fade * w[begin + j]
        guess = ZERO
        if filled > 1 or window == 1:
            guess = least_kept(ring, at + (row + window - 1) % window * kept, kept)
        units(low, high, first, buckets, lows, highs)
        limit = guess * np.float32(LOWER[0])
        found = decode(
            source,
            codes,
            t[loops.A],
            lows,
            highs,
            buckets,
            bucket,
            limit,
            t[loops.KEYS],
            t[loops.W] + 4 * begin,
        )
        for factor in LOWER[1:]:
            if found >= kept:
                break
            limit = guess * np.float32(factor)
            found = look_again(t[loops.A], length, limit, t[loops.KEYS])
        if found < kept:
            limit = ZERO
            found = look_again(t[loops.A], length, limit, t[loops.KEYS])
        most = np.uint32(0)
        for i in range(found):
            key = np.uint32(images[candidates[i]] & np.uint32(0x7FFFFFFF))
            picked[i] = key
            most = choose(key > most, key, most)
        if np.int64(most) >= INFINITY:
            left[b] = np.uint8(1)
            continue
        padded = (found + 15) // 16 * 16
        for i in range(found, padded):
            picked[i] = 0
        least = np.int64(np.float32(limit).view(np.uint32))
        kth, beat = kth_key(t[loops.PICKED], padded, found, kept, least, np.int64(most))
        take(picked, candidates, kept, kth, beat, indices, here)
        for k in range(here, here + kept):
            place = np.int64(indices[k])
            ring[k] = to_bfloat16(a[place])
            a[place] = ZERO
        if decay == loops.FACTOR:
            for j in range(begin, begin + length):
                w[j] *= fade
        extremes(t[loops.A], buckets, bucket, lows, highs)
        keep_bounds(low, high, first, buckets, lows, highs)
        quantise(t[loops.A], codes, buckets, bucket, lows, highs, source + 4 * length, codes + length // 2)
        add_window(
            indices, t[loops.RING], at, kept, filled, powers, window, t[loops.SUMS], t[loops.A], owners
        )
        descend(w, begin, indices, at, end, values, t[loops.SUMS])


@functools.cache
def core() -> Any:
    """The compiled core."""
    return compiled_function(fused, KERNEL, "microadam-fused")
