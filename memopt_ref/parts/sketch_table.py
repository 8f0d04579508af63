r"""The table behind a sketch: where items live in it, and the two ways to add to it, in place.

Conservative update (C. Estan and G. Varghese, "New directions in traffic measurement and accounting", SIGCOMM
2002), for increments x >= 0 and no signs, item by item:

    e = min_j S[j, h_j(i), :] + x;   S[j, h_j(i), :] <- max(S[j, h_j(i), :], e)

Every order of addition is fixed, since backends have to meet it: within one UPDATE a bucket first sums its
increments in the order of the items (the first alone, then one by one), and this sum is added to S once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .hashing import Buckets, Signs

COMBINATIONS = ("median", "min", "mean")


@dataclass(frozen=True, eq=False)
class Places:
    """Where some items live: ``buckets`` [depth, k], and ``signs`` [depth, k] or None for count-min."""

    buckets: Buckets
    signs: Signs | None

    def __len__(self) -> int:
        return int(self.buckets.shape[1])

    def __getitem__(self, which: slice) -> Places:
        return Places(self.buckets[:, which], None if self.signs is None else self.signs[:, which])

    def load(self, width: int) -> int:
        """The largest number of these items in one bucket."""
        counts = [np.bincount(row, minlength=width).max(initial=0) for row in self.buckets]
        return int(max(counts, default=0))


def signed(x: Any, signs: Any) -> Any:
    """``s x`` for signs -1 and +1 along the first axis: a copy, never a product, so no dtype can leak."""
    x = x.copy()
    if signs is not None:
        negative = signs < 0
        x[negative] = -x[negative]
    return x


def bucket_sums(buckets: Buckets, x: Any) -> tuple[Buckets, Any]:
    """The occupied buckets in ascending order, and each one's sum over ``x`` in the order of the items.

    Examples
    --------
    >>> bucket_sums(np.array([4, 0, 4]), np.array([1.0, 2.0, 3.0]))
    (array([0, 4]), array([2., 4.]))
    """
    order = np.argsort(buckets, kind="stable")
    occupied, first, load = np.unique(buckets[order], return_index=True, return_counts=True)
    sums = x[order[first]]
    for nth in range(1, load.max(initial=0)):
        more = load > nth
        sums[more] = sums[more] + x[order[first[more] + nth]]
    return occupied, sums


def add_into(table: Any, places: Places, x: Any) -> None:
    """UPDATE in place; ``x`` is [k, *columns], or [depth, k, *columns] with increments for each row."""
    own = x.ndim == table.ndim
    for j, buckets in enumerate(places.buckets):
        occupied, sums = bucket_sums(buckets, signed(x[j] if own else x, _row(places.signs, j)))
        table[j, occupied] = table[j, occupied] + sums


def raise_into(table: Any, places: Places, x: Any) -> None:
    """Conservative update in place, item by item in their order; ``x`` is [k, *columns], >= 0."""
    for i in range(len(places)):
        one = places[i : i + 1]
        reached = combine_rows(estimates(table, one), "min") + x[i : i + 1]
        for j, bucket in enumerate(one.buckets):
            table[j, bucket] = np.maximum(table[j, bucket], reached)


def estimates(table: Any, places: Places) -> Any:
    """What each row of the sketch says by itself: s_j(i) S[j, h_j(i), :], shape [depth, k, *columns]."""
    rows = [signed(table[j, buckets], _row(places.signs, j)) for j, buckets in enumerate(places.buckets)]
    return np.stack(rows)


def combine_rows(rows: Any, how: str) -> Any:
    """One estimate out of ``depth``: [depth, ...] becomes [...]. A NaN in any row gives NaN.

    ``"median"`` of three is max(min(a, b), min(max(a, b), c)); of more, odd-even transposition sorts by
    minima and maxima; an even number takes the mean of the two in the middle. ``"mean"`` adds the rows in
    order, then divides.

    Examples
    --------
    >>> rows = np.array([[1.0], [9.0], [2.0], [5.0]])
    >>> [float(combine_rows(rows, how)[0]) for how in ("median", "min", "mean")]
    [3.5, 1.0, 4.25]
    """
    depth = len(rows)
    if how == "min":
        return np.minimum.reduce(rows)
    if how == "mean":
        total = rows[0]
        for row in rows[1:]:
            total = total + row
        return total / depth
    if depth == 3:
        a, b, c = rows
        return np.maximum(np.minimum(a, b), np.minimum(np.maximum(a, b), c))
    return _middle(list(rows))


def _middle(rows: list[Any]) -> Any:
    depth = len(rows)
    for turn in range(depth):
        for j in range(turn % 2, depth - 1, 2):
            rows[j], rows[j + 1] = np.minimum(rows[j], rows[j + 1]), np.maximum(rows[j], rows[j + 1])
    half = depth // 2
    return rows[half] if depth % 2 else (rows[half - 1] + rows[half]) / 2


def _row(signs: Signs | None, j: int) -> Any:
    return None if signs is None else signs[j]
