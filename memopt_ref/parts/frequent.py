r"""The k most frequent items of a stream, with a count-sketch and a heap.

M. Charikar, K. Chen and M. Farach-Colton, "Finding frequent items in data streams", TCS 2004, section 3.2.
For each item q of the stream:

    ADD(C, q)
    if q is in the heap: increment its count
    else if ESTIMATE(C, q) > the smallest count in the heap: evict that one and put q in with its estimate
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from typing import Any

import numpy as np

from ..errors import HyperparameterError
from .hashing import HashFamily
from .sketch_table import Places, combine_rows
from .sketches import CountSketch


class FrequentItems:
    """The most frequent items of a stream in one pass, with depth * width counters and k candidates.

    A count-sketch of width b returns, with high probability over its hash functions, only items whose count
    is within a factor 1 - eps of the k-th largest, if b >= 8 k and the tail beyond the k-th item is small
    enough beside it.

    Parameters
    ----------
    k : int
        Number of candidates kept, >= 1.
    depth, width : int
        Shape of the sketch, >= 1.
    hash : HashFamily, optional
    seed : int

    Raises
    ------
    HyperparameterError
        k, depth or width is below 1.

    Notes
    -----
    Counts are exact integers (int64). An item inside the heap is counted exactly from the moment it came in;
    one that was evicted and comes back starts from its estimate. Among equal counts the candidate already in
    the heap stays.

    References
    ----------
    Charikar, Chen and Farach-Colton 2004, section 3.2 and Theorem 1.

    Examples
    --------
    >>> search = FrequentItems(k=2, depth=3, width=16)
    >>> for item in [7, 7, 1, 7, 2, 2, 3]:
    ...     search.offer(item)
    >>> search.top()
    [(7, 3), (2, 2)]
    """

    def __init__(
        self,
        k: int,
        depth: int = 5,
        width: int = 1024,
        hash: HashFamily | None = None,  # noqa: A002, the word that rules and sketches use
        seed: int = 0,
    ) -> None:
        for name, value in (("k", k), ("depth", depth), ("width", width)):
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
                advice = "Choose a positive size."
                raise HyperparameterError(f"FrequentItems.{name}", repr(value), "an integer >= 1", advice)
        self.k = int(k)
        how: dict[str, Any] = {"seed": seed} | ({} if hash is None else {"hash": hash})
        self.sketch = CountSketch.zeros(depth, width, dtype=np.int64, **how)
        self._counts: dict[int, int] = {}
        self._heap: list[tuple[int, int]] = []

    def offer(self, item: int, count: int = 1) -> None:
        """``count`` more occurrences of ``item``; count >= 1."""
        if isinstance(count, bool) or not isinstance(count, int | np.integer) or count < 1:
            advice = "Items cannot be taken back."
            raise HyperparameterError("FrequentItems.offer", repr(count), "an integer >= 1", advice)
        self._count(int(item), int(count), self.sketch.locate([item]))

    def offer_all(self, items: Iterable[int]) -> None:
        """One occurrence of each item, in order."""
        stream = [int(item) for item in items]
        places = self.sketch.locate(stream)
        for i, item in enumerate(stream):
            self._count(item, 1, places[i : i + 1])

    def _count(self, item: int, count: int, place: Places) -> None:
        # One item has one bucket a row, so that a single indexed addition reaches all rows.
        assert place.signs is not None
        rows, buckets, signs = (
            np.arange(len(place.buckets)),
            place.buckets[:, 0],
            place.signs[:, 0].astype(np.int64),
        )
        table = self.sketch.table
        table[rows, buckets] += signs * count
        if item in self._counts:
            self._put(item, self._counts[item] + count)
            return
        estimate = int(np.floor(combine_rows(signs * table[rows, buckets], "median")))
        if len(self._counts) < self.k:
            self._put(item, estimate)
            return
        least, loser = self._least()
        if estimate > least:
            del self._counts[loser]
            self._put(item, estimate)

    def estimate(self, item: int) -> float:
        """The sketch's own estimate of how often ``item`` occurred."""
        return float(self.sketch.query([int(item)])[0])

    def top(self) -> list[tuple[int, int]]:
        """The candidates with their counts, most frequent first; equal counts by ascending item."""
        return sorted(self._counts.items(), key=lambda pair: (-pair[1], pair[0]))

    def _put(self, item: int, count: int) -> None:
        self._counts[item] = count
        heapq.heappush(self._heap, (count, item))
        if len(self._heap) > 4 * self.k + 16:
            self._heap = [(count, item) for item, count in self._counts.items()]
            heapq.heapify(self._heap)

    def _least(self) -> tuple[int, int]:
        # Entries whose count has moved on since they were pushed are dropped when they surface.
        while self._counts.get(self._heap[0][1]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0]
