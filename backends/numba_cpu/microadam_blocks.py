"""MicroAdam's step of one Top-K block, in plain loops that any processor runs: the paper's lines in order.

Every function takes pointers to whole arrays and where the block starts in them; what it holds in between
(``a``, the images of its magnitudes, the candidates of Top-K, the window's sums) fits the first two caches.
The sums are zero between blocks.
"""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np

from memopt_ref.parts import scalar

from .microadam_numbers import image_of, infinity, keep_at, kept_at, magnitude, number_at, of_image, sign_of
from .options import STRICT
from .scalar import choose

#: Lower bounds for the K-th magnitude, as multiples of the least kept one step ago, tried in turn; then 0.
#: Error feedback piles entries up just below that one, so that the first factors are near 1.
LOWER = (0.97, 0.94, 0.88, 0.6, 0.35, 0.1)


@numba.njit(**STRICT)
def add_error(
    source: Any,
    begin: int,
    codes: Any,
    low: Any,
    high: Any,
    a: Any,
    spare: Any,
    start: int,
    length: int,
    bucket: int,
    bits: int,
) -> None:
    """a = source + Q^{-1}(e): the error's numbers are made bucket by bucket."""
    if bits <= 4:
        first = start // 2
        for i in range((length + 1) // 2):
            byte = codes[first + i]
            spare[2 * i] = np.uint8(byte >> np.uint8(4))
            spare[2 * i + 1] = np.uint8(byte & np.uint8(15))
    else:
        for j in range(length):
            spare[j] = codes[start + j]
    levels = number_at(a, (1 << bits) - 1)
    for q in range((length + bucket - 1) // bucket):
        least = kept_at(low, start // bucket + q, a)
        unit = (kept_at(high, start // bucket + q, a) - least) / levels
        for j in range(q * bucket, min(length, (q + 1) * bucket)):
            a[j] = source[begin + j] + (number_at(a, np.int32(spare[j])) * unit + least)


@numba.njit(**STRICT)
def find_candidates(keys: Any, mask: Any, words: Any, length: int, least: int, candidates: Any) -> Any:
    """List where ``keys`` are at least ``least``, in ascending order; their number."""
    limit = number_at(keys, least)
    for j in range(length):
        mask[j] = np.uint8(keys[j] >= limit)
    for j in range(length, (length + 7) // 8 * 8):
        mask[j] = np.uint8(0)
    found = np.int64(0)
    for word in range((length + 7) // 8):
        if words[word] != 0:
            for j in range(8 * word, 8 * word + 8):
                # No branch: it would be foreseen wrongly at every candidate.
                candidates[found] = j
                found += np.int64(mask[j])
    return found


@numba.njit(**STRICT)
def count_from(keys: Any, count: int, least: int) -> Any:
    """How many of the first ``count`` keys are at least ``least``."""
    limit = number_at(keys, least)
    found = np.int32(0)
    for i in range(count):
        found = np.int32(found + np.int32(keys[i] >= limit))
    return np.int64(found)


@numba.njit(**STRICT)
def kth_key(keys: Any, count: int, kept: int, least: int, most: int) -> tuple[int, int]:
    """The largest key that ``kept`` of the keys reach, or one that exactly so many do; and how many beat it.

    ``least`` is reached by all, ``most`` is the largest. Interpolates a few times, then bisects.
    """
    low, high, reached, beat = least, most + 1, count, 0
    tries = 0
    step: Any
    while reached != kept and high - low > 1:
        step = (high - low) // 2
        if tries < 6:
            part = (np.float64(reached - kept) + 0.5) / np.float64(reached - beat)
            step = min(max(np.int64(np.float64(high - low) * part), 1), high - low - 1)
        tries += 1
        middle = low + step
        n = count_from(keys, count, middle)
        if n >= kept:
            low, reached = middle, n
        else:
            high, beat = middle, n
    return low, (0 if reached == kept else beat)


@numba.njit(**STRICT)
def take(keys: Any, candidates: Any, kept: int, kth: int, beat: int, indices: Any, at: int) -> None:
    """Write the kept candidates' places: all above the K-th key, and of those equal to it the first ones."""
    limit = number_at(keys, kth)
    quota, taken, i = np.int64(kept - beat), np.int64(0), 0
    while taken < kept:
        key = keys[i]
        equal = np.int64(key == limit) & np.int64(quota > 0)
        indices[at + taken] = np.uint16(candidates[i])
        taken += np.int64(key > limit) | equal
        quota -= equal
        i += 1


@numba.njit(**STRICT)
def least_kept(ring: Any, at: int, kept: int, like: Any) -> Any:
    """The least magnitude in a row of the ring, any NaN left out."""
    least = number_at(like, math.inf)
    for i in range(kept):
        x = abs(kept_at(ring, at + i, like))
        least = x if x < least else least
    return least


@numba.njit(**STRICT)
def select(
    a: Any,
    keys: Any,
    picked: Any,
    mask: Any,
    words: Any,
    candidates: Any,
    length: int,
    kept: int,
    guess: Any,
    indices: Any,
    at: int,
) -> Any:
    """I = Top-K(|a|), ascending, into ``indices``; whether the block holds a NaN. ``guess`` >= 0."""
    most = number_at(keys, 0)
    for j in range(length):
        key = magnitude(keys, a, a[j])
        keys[j] = key
        most = key if key > most else most
    found = 0
    least = np.int64(0)
    for factor in LOWER:
        least = np.int64(image_of(number_at(a, guess * number_at(a, factor))))
        found = find_candidates(keys, mask, words, length, least, candidates)
        if found >= kept:
            break
    if found < kept:
        least = np.int64(0)
        found = find_candidates(keys, mask, words, length, least, candidates)
    for i in range(found):
        picked[i] = keys[candidates[i]]
    kth, beat = kth_key(picked, found, kept, least, np.int64(most))
    take(picked, candidates, kept, kth, beat, indices, at)
    return np.int64(most) > np.int64(infinity(a))


@numba.njit(**STRICT)
def bounds(
    a: Any,
    keys: Any,
    low: Any,
    high: Any,
    start: int,
    length: int,
    bucket: int,
    nan: bool,
) -> None:
    """delta and Delta of each bucket, a zero without its sign; a NaN makes both NaN.

    Without NaN, images order as numbers do once the negative ones are turned round.
    """
    sign, zero = sign_of(a), number_at(a, 0)
    for j in range(length):
        image = image_of(a[j])
        keys[j] = choose(image >= sign, number_at(keys, ~image), number_at(keys, image | sign))
    for q in range((length + bucket - 1) // bucket):
        begin, end = q * bucket, min(length, (q + 1) * bucket)
        if nan:
            least = most = a[begin]
            for j in range(begin + 1, end):
                least, most = scalar.minimum(least, a[j]), scalar.maximum(most, a[j])
        else:
            small = large = keys[begin]
            for j in range(begin, end):
                small = choose(keys[j] < small, keys[j], small)
            for j in range(begin, end):
                large = choose(keys[j] > large, keys[j], large)
            least, most = turned_back(a, small, sign), turned_back(a, large, sign)
        keep_at(low, start // bucket + q, least + zero)
        keep_at(high, start // bucket + q, most + zero)


@numba.njit(**STRICT)
def turned_back(a: Any, key: Any, sign: Any) -> Any:
    """The number that orders as ``key``."""
    return of_image(a, key ^ sign if key >= sign else ~key)


@numba.njit(**STRICT)
def quantise(
    a: Any,
    low: Any,
    high: Any,
    codes: Any,
    spare: Any,
    start: int,
    length: int,
    bucket: int,
    bits: int,
) -> None:
    """e = Q(a), two codes a byte up to 4 bits."""
    levels, zero, half = number_at(a, (1 << bits) - 1), number_at(a, 0), number_at(a, 0.5)
    for q in range((length + bucket - 1) // bucket):
        least = kept_at(low, start // bucket + q, a)
        span = kept_at(high, start // bucket + q, a) - least
        inverse = zero if span == zero else levels / span
        for j in range(q * bucket, min(length, (q + 1) * bucket)):
            y = (a[j] - least) * inverse
            y = choose(y > zero, y, zero)
            y = choose(y < levels, y, levels)
            spare[j] = np.uint8(np.int32(y + half))
    if bits <= 4:
        first = start // 2
        spare[length] = np.uint8(0)
        for i in range((length + 1) // 2):
            codes[first + i] = np.uint8(np.uint8(spare[2 * i] << np.uint8(4)) | spare[2 * i + 1])
    else:
        for j in range(length):
            codes[start + j] = spare[j]


@numba.njit(**STRICT)
def add_window(
    indices: Any,
    ring: Any,
    at: int,
    kept: int,
    filled: int,
    length: int,
    powers: Any,
    window: int,
    sums: Any,
) -> None:
    """m and v, interleaved in ``sums``, rows in storage order.

    A ring that was damaged outside this library leads to wrong sums, never out of the block.
    """
    last = np.uint16(length - 1)
    for i in range(filled):
        one, two = number_at(sums, powers[i]), number_at(sums, powers[window + i])
        for k in range(at + i * kept, at + (i + 1) * kept):
            j = np.int64(min(indices[k], last))
            x = kept_at(ring, k, sums)
            sums[2 * j] += one * x
            sums[2 * j + 1] += two * (x * x)


@numba.njit(**STRICT)
def descend(
    w: Any,
    start: int,
    indices: Any,
    at: int,
    count: int,
    length: int,
    numbers: Any,
    sums: Any,
) -> None:
    """Step the entries that the window names, leaving their sums zero: a second visit changes nothing."""
    zero = number_at(w, 0)
    rate, first, second = number_at(w, numbers[0]), number_at(w, numbers[1]), number_at(w, numbers[2])
    eps = number_at(w, numbers[3])
    last = np.uint16(length - 1)
    for k in range(at, at + count):
        j = np.int64(min(indices[k], last))
        m, v = first * sums[2 * j], second * sums[2 * j + 1]
        sums[2 * j] = sums[2 * j + 1] = zero
        w[start + j] -= rate * scalar.ratio(m, scalar.sqrt(v) + eps)
