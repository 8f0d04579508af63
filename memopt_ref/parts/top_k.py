r"""Exact Top-K by magnitude, of a whole vector or block by block: which entries are kept, and where.

One rule for every backend, so that the kept set is a function of the numbers alone:

* entries are ordered by the unsigned integer image of their floating-point bits with the sign bit cleared.
  It orders magnitudes as real numbers do, -0 equals +0, infinity beats every number and NaN beats infinity;
  all NaN are equal, since no processor promises which sign and payload a sum has;
* ties go to the lowest index;
* the kept indices are listed in ascending order.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

IndexArray = NDArray[np.int64]


def magnitude_image(x: Any) -> Any:
    """Unsigned integers that order as the magnitudes of the floats ``x`` do; any NaN is one past infinity.

    Examples
    --------
    >>> image = magnitude_image(np.array([-2.0, 1.0, -0.0, -np.inf, np.nan], np.float32))
    >>> [int(i) for i in np.argsort(image)], int(image[2])
    ([2, 1, 0, 3, 4], 0)
    """
    unsigned = np.dtype(f"u{x.dtype.itemsize}")
    image = np.ascontiguousarray(x).view(unsigned) & unsigned.type((1 << (8 * unsigned.itemsize - 1)) - 1)
    infinity = np.array(np.inf, x.dtype).view(unsigned)
    return np.minimum(image, infinity + unsigned.type(1), out=image)


def top_k(x: Any, k: int) -> IndexArray:
    """Where the ``k`` largest magnitudes along the last axis are.

    Parameters
    ----------
    x : array, shape [..., n]
        Any floating dtype, or objects that have ``abs`` and an order.
    k : int
        0 <= k <= n.

    Returns
    -------
    array of int64, shape [..., k]
        Ascending along the last axis; among equal magnitudes those of lowest index.

    Notes
    -----
    One partition and two comparisons; a second pass over the data only where there are ties.

    Examples
    --------
    >>> top_k(np.array([[1.0, -3.0, 3.0, 2.0], [0.0, 0.0, 0.0, 0.0]]), 2)
    array([[1, 2],
           [0, 1]])
    """
    n = x.shape[-1]
    if k in (0, n):
        return np.broadcast_to(np.arange(k, dtype=np.int64), (*x.shape[:-1], k))
    if x.dtype == object:
        return _by_sorting(x, k)
    keys = magnitude_image(x)
    threshold = np.partition(keys, n - k, axis=-1)[..., n - k, None]
    taken = keys >= threshold
    if np.count_nonzero(taken) > k * (taken.size // n):
        equal = keys == threshold
        quota = k - np.count_nonzero(keys > threshold, axis=-1, keepdims=True)
        taken &= ~equal | (np.cumsum(equal, axis=-1) <= quota)
    return np.asarray(np.flatnonzero(taken) % n).reshape(*x.shape[:-1], k)


def _by_sorting(x: Any, k: int) -> IndexArray:
    def kept(row: Any) -> list[int]:
        order = sorted(
            range(len(row)), key=lambda i: (row[i] == row[i], -abs(row[i]) if row[i] == row[i] else 0)
        )
        return sorted(order[:k])

    rows = [kept(row) for row in x.reshape(-1, x.shape[-1])]
    return np.array(rows, dtype=np.int64).reshape(*x.shape[:-1], k)


@dataclasses.dataclass(frozen=True)
class Blocks:
    """A vector cut into blocks of equal length (the last may be shorter); of each, k_j entries are kept.

    Parameters
    ----------
    size : int
        Length d of the vector.
    block : int
        Length of a block.
    density : float
        k_j = ceil(density * len_j), computed in float64 as the authors' code does; at least 1.
    k : int, optional
        k_j = min(k, len_j) instead.

    Notes
    -----
    What is kept in ``rows`` ring rows is stored flat in the order [block, ring row, kept entry]: all that a
    block ever needs is contiguous, a short last block takes no padding, and the total is exactly rows *
    ``kept`` entries.

    Examples
    --------
    >>> blocks = Blocks(10, 4, density=0.5)
    >>> blocks.full, blocks.tail, blocks.kept
    (2, 2, 5)
    >>> blocks.offsets
    array([0, 0, 4, 4, 8])
    >>> blocks.select(np.arange(10.0))
    array([2, 3, 2, 3, 1])
    """

    size: int
    block: int
    density: float = 1.0
    k: int | None = None

    def count(self, length: int) -> int:
        """How many entries of a block of this length are kept."""
        return min(math.ceil(self.density * length) if self.k is None else self.k, length)

    @property
    def full(self) -> int:
        """Number of blocks of full length."""
        return self.size // self.block

    @property
    def tail(self) -> int:
        """Length of the short last block; 0 if there is none."""
        return self.size % self.block

    @property
    def kept(self) -> int:
        """K, the number of kept entries of all blocks."""
        return self.full * self.count(self.block) + self.count(self.tail)

    @property
    def offsets(self) -> IndexArray:
        """Start of the block of each kept entry, shape [kept]."""
        starts = np.arange(self.full + (self.tail > 0), dtype=np.int64) * self.block
        return np.repeat(
            starts, [self.count(self.block)] * self.full + [self.count(self.tail)] * (self.tail > 0)
        )

    @property
    def smallest_fraction(self) -> float:
        """min_j k_j / len_j, the contraction of block-wise Top-K; 1 for an empty vector."""
        lengths = [n for n, there in ((self.block, self.full), (self.tail, self.tail)) if there]
        return min((self.count(n) / n for n in lengths), default=1.0)

    def select(self, x: Any) -> IndexArray:
        """Top-K of every block of the flat vector ``x``: indices relative to their block, shape [kept]."""
        cut = self.full * self.block
        full = top_k(x[:cut].reshape(self.full, self.block), self.count(self.block)).reshape(-1)
        return np.concatenate([full, top_k(x[cut:], self.count(self.tail))])

    def _ring(self, stored: Any, rows: int) -> tuple[Any, Any]:
        cut = self.full * rows * self.count(self.block)
        full = stored[:cut].reshape(self.full, rows, self.count(self.block))
        return full, stored[cut:].reshape(1, rows, self.count(self.tail))

    def row(self, stored: Any, rows: int, i: int) -> Any:
        """Ring row ``i`` of what is stored in the order [block, ring row, kept entry], shape [kept]."""
        return np.concatenate([part[:, i].reshape(-1) for part in self._ring(stored, rows)])

    def with_row(self, stored: Any, rows: int, i: int, values: Any) -> Any:
        """A copy of ``stored`` with ``values``, shape [kept], cast to its dtype, as ring row ``i``."""
        stored = stored.copy()
        full, tail = self._ring(stored, rows)
        cut = self.full * self.count(self.block)
        full[:, i] = values[:cut].reshape(self.full, -1) if self.full else full[:, i]
        tail[:, i] = values[cut:]
        return stored
