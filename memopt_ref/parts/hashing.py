r"""Families of hash functions h_j: items -> buckets and s_j: items -> signs, a pair for each row of a sketch.

A family is a frozen dataclass without arrays; its member is fixed by (seed, row), so that a sketch stores one
seed and no tables. The keys of row j are the words 4 j, ..., 4 j + 3 of the SplitMix64 stream that starts at
the seed; the two moments of a rule have seeds of their own (:func:`moment_seed`) and therefore collide
independently.

======================  ==================================  ============================
family                  bucket of item i                    guarantee
======================  ==================================  ============================
:class:`Avalanche`      (lowbias32(a i + b) w) >> 32        none proven; best bit mixing
:class:`MultiplyShift`  (((a i + b) mod 2^64) >> 32) scaled pairwise independent
:class:`CarterWegman`   ((a i + b) mod (2^31 - 1)) mod w    collisions at most about 1/w
======================  ==================================  ============================

Families without a seed (given tables, the count-sketch paper's public code) are in :mod:`.fixed_hashes`.

J. L. Carter and M. N. Wegman, "Universal classes of hash functions", JCSS 1979; M. Dietzfelbinger, "Universal
hashing and k-wise independent random variables via integer arithmetic without primes", STACS 1996. The sign
comes from the top (Carter-Wegman: lowest) bit of a second, independently keyed hash before it is reduced to a
bucket: the parity of a *bucket number* has mean -1/w for odd w, a defect of the public code that the legacy
family keeps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import RowIndexError
from .random import GOLDEN_GAMMA, splitmix64

Buckets = NDArray[np.int64]
Signs = NDArray[np.int8]

LOW32 = np.uint64(0xFFFFFFFF)
MERSENNE31 = 2**31 - 1


def moment_seed(seed: int, moment: int) -> int:
    """The seed of one sketch of a tensor: moment 1 is M, 2 is V.

    >>> moment_seed(0, 1) != moment_seed(0, 2)
    True
    """
    return int(splitmix64(splitmix64(np.uint64(seed)) ^ np.uint64(moment)))


def row_keys(seed: int, row: int) -> NDArray[np.uint64]:
    """The four 64-bit keys of one row of a sketch: two for its buckets, two for its signs.

    >>> row_keys(0, 0).shape
    (4,)
    """
    with np.errstate(over="ignore"):
        return splitmix64(np.uint64(seed) + GOLDEN_GAMMA * np.arange(4 * row, 4 * row + 4, dtype=np.uint64))


def lowbias32(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """A bijection of the 32-bit integers (held in uint64) whose output bits look independent of the input's.

    >>> hex(int(lowbias32(np.array([1], np.uint64))[0]))
    '0x688990c0'
    """
    x = x ^ (x >> np.uint64(16))
    x = (x * np.uint64(0x7FEB352D)) & LOW32
    x = x ^ (x >> np.uint64(15))
    x = (x * np.uint64(0x846CA68B)) & LOW32
    return x ^ (x >> np.uint64(16))


def fast_range(x: NDArray[np.uint64], width: int) -> Buckets:
    """A 32-bit hash scaled to [0, width): no division, and any width up to 2^31."""
    return ((x * np.uint64(width)) >> np.uint64(32)).astype(np.int64)


def as_signs(negative: Any) -> Signs:
    """-1 where the condition holds, else +1."""
    return np.where(negative, np.int8(-1), np.int8(1))


def checked_items(family: HashFamily, items: Any, limit: int) -> NDArray[np.uint64]:
    """The items as uint64, or RowIndexError for one outside [0, limit)."""
    items = np.asarray(items)
    if items.size and not (items.min() >= 0 and items.max() < limit):
        bad = items[(items < 0) | (items >= limit)].ravel()[0]
        advice = "Number the items from 0, or choose a family with a larger range."
        raise RowIndexError(type(family).__name__, f"item {bad}", f"items in [0, {limit})", advice)
    whole: NDArray[np.uint64] = items.astype(np.uint64)
    return whole


@dataclass(frozen=True)
class HashFamily:
    """What a sketch asks of its hash functions. Subclasses are frozen dataclasses."""

    def buckets(self, items: Any, row: int, width: int, seed: int) -> Buckets:
        """h_row(i) for each item.

        Parameters
        ----------
        items : array of int, any shape
        row : int
            Row of the sketch, from 0.
        width : int
            Number of buckets, in [1, 2^31).
        seed : int
            64-bit seed of the sketch.

        Returns
        -------
        array of int64
            In [0, width).
        """
        raise NotImplementedError

    def signs(self, items: Any, row: int, width: int, seed: int) -> Signs:
        """s_row(i) for each item: -1 or +1, int8."""
        raise NotImplementedError


@dataclass(frozen=True)
class Avalanche(HashFamily):
    """lowbias32 of a keyed affine map, scaled to the width: the default. Two multiplications and no division.

    Items of more than 32 bits are folded first, so that any int64 item will do.

    Examples
    --------
    >>> Avalanche().buckets(np.arange(6), 0, 4, seed=1)
    array([3, 0, 1, 2, 1, 0])
    >>> Avalanche().signs(np.arange(6), 1, 4, seed=1)
    array([-1, -1, -1, -1,  1, -1], dtype=int8)
    """

    def _mixed(self, items: Any, a: Any, b: Any) -> NDArray[np.uint64]:
        x = np.asarray(items).astype(np.int64).view(np.uint64)
        x = (x & LOW32) ^ lowbias32(x >> np.uint64(32))
        return lowbias32(((((a & LOW32) | np.uint64(1)) * x) + (b & LOW32)) & LOW32)

    def buckets(self, items: Any, row: int, width: int, seed: int) -> Buckets:
        """(lowbias32(a i + b) * width) >> 32."""
        a, b, _, _ = row_keys(seed, row)
        return fast_range(self._mixed(items, a, b), width)

    def signs(self, items: Any, row: int, width: int, seed: int) -> Signs:
        """-1 where the top bit of lowbias32(a' i + b') is set."""
        _, _, a, b = row_keys(seed, row)
        return as_signs(self._mixed(items, a, b) >> np.uint64(31) != 0)


@dataclass(frozen=True)
class MultiplyShift(HashFamily):
    """The upper 32 of the 64 bits of a i + b, scaled to the width; for w = 2^L that is (a i + b) >> (64 - L).

    Pairwise independent before the scaling, for items below 2^32 (Dietzfelbinger 1996), so two items meet
    with probability at most 1/w + 2^-32.

    Examples
    --------
    >>> MultiplyShift().buckets(np.arange(6), 0, 4, seed=0)
    array([1, 1, 0, 0, 3, 3])
    """

    def _mixed(self, items: Any, a: np.uint64, b: np.uint64) -> NDArray[np.uint64]:
        return (a * checked_items(self, items, 2**32) + b) >> np.uint64(32)

    def buckets(self, items: Any, row: int, width: int, seed: int) -> Buckets:
        """(((a i + b) mod 2^64 >> 32) * width) >> 32."""
        a, b, _, _ = row_keys(seed, row)
        return fast_range(self._mixed(items, a, b), width)

    def signs(self, items: Any, row: int, width: int, seed: int) -> Signs:
        """-1 where the top bit of (a' i + b') mod 2^64 is set."""
        _, _, a, b = row_keys(seed, row)
        return as_signs(self._mixed(items, a, b) >> np.uint64(31) != 0)


@dataclass(frozen=True)
class CarterWegman(HashFamily):
    """((a i + b) mod p) mod w with the prime p = 2^31 - 1, 1 <= a < p, 0 <= b < p, for items below p.

    Universal (Carter and Wegman 1979, proposition 7): two items meet with probability at most 1/w, up to the
    2^-31 by which the 64-bit keys fail to be uniform modulo p. The sign is the lowest bit before ``mod w``.

    Examples
    --------
    >>> CarterWegman().buckets(np.arange(6), 0, 4, seed=0)
    array([2, 3, 3, 3, 3, 3])
    """

    def _affine(self, items: Any, a: np.uint64, b: np.uint64) -> NDArray[np.uint64]:
        p = np.uint64(MERSENNE31)
        return ((a % (p - np.uint64(1)) + np.uint64(1)) * checked_items(self, items, MERSENNE31) + b % p) % p

    def buckets(self, items: Any, row: int, width: int, seed: int) -> Buckets:
        """((a i + b) mod p) mod width."""
        a, b, _, _ = row_keys(seed, row)
        return (self._affine(items, a, b) % np.uint64(width)).astype(np.int64)

    def signs(self, items: Any, row: int, width: int, seed: int) -> Signs:
        """-1 where ((a' i + b') mod p) is odd."""
        _, _, a, b = row_keys(seed, row)
        return as_signs(self._affine(items, a, b) & np.uint64(1) != 0)
