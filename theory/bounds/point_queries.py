r"""What a sketch answers for one item, exactly: by enumeration of all hash functions.

M. Charikar, K. Chen and M. Farach-Colton, "Finding frequent items in data streams", TCS 2004; G. Cormode and
S. Muthukrishnan, "An improved data stream summary: the count-min sketch and its applications", J. Algorithms
2005. For hash functions that are drawn without looking at x, with w buckets a row,

    count-sketch, one row:   E x^_i = x_i,  Var x^_i = (|x|_2^2 - x_i^2) / w
    count-min, one row:      x^_i >= x_i,   E (x^_i - x_i) = (|x|_1 - x_i) / w
    x = e_k, i != k, v rows: P(|err| = 1) = 2 P(Bin(v, 1/(2w)) >= (v + 1)/2) (count-sketch), w^-v (count-min)
    w >= 3 / eps^2:          P(|median err| > eps |x|_2) <= P(Bin(v, 1/3) >= (v + 1)/2) <= exp(-v / 18)

Enumeration pins the constants, where a sample could only say that they are not far off. No rule of play
enters: the sketches are the library's own, with the hash given as a table.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from typing import Any, ClassVar

import numpy as np

from ...parts.fixed_hashes import TableHash
from ...parts.sketches import CountMinSketch, CountSketch
from ...rules.sgd import SGD
from ..chain import Check, Link
from ..geometry import Array
from ..play import Game, Trace
from . import START, Bound


def tables(n: int, width: int, depth: int, signed: bool) -> Iterator[TableHash]:
    """Every choice of buckets (and signs) for n items in each of depth rows.

    Examples
    --------
    >>> len(list(tables(3, 2, 1, True)))
    64
    """
    every = list(itertools.product(range(width), repeat=n * depth))
    signs = list(itertools.product((1, -1), repeat=n * depth)) if signed else [(1,) * (n * depth)]
    for buckets, plus in itertools.product(every, signs):
        yield TableHash(np.reshape(buckets, (depth, n)), np.reshape(plus, (depth, n)))


def tail(v: int, p: Fraction) -> Fraction:
    """P(Bin(v, p) >= (v + 1) / 2).

    Examples
    --------
    >>> tail(3, Fraction(1, 3))
    Fraction(7, 27)
    """
    few = range((v + 1) // 2, v + 1)
    return sum((math.comb(v, k) * p**k * (1 - p) ** (v - k) for k in few), Fraction(0))


@cache
def enumerated(bound: Any, what: str) -> Any:
    """``bound.what()``, once: links and checks both need it."""
    return getattr(bound, what)()


@dataclass(frozen=True, kw_only=True)
class Query(Bound):
    """One row of a count-sketch."""

    id: ClassVar[str] = "point_queries.count_sketch"
    statement: ClassVar[str] = "one row of w buckets: E x^_i = x_i, Var x^_i = (|x|_2^2 - x_i^2) / w"
    source: ClassVar[str] = "Charikar, Chen and Farach-Colton 2004; enumerated here, exact"
    kind: ClassVar[str] = "formula"
    D: ClassVar[str] = START
    x: tuple[int, ...] = (3, 1, 2)
    width: int = 2
    depth: int = 1

    def rule(self, game: Game, T: int) -> Any:
        """No rule enters; something has to be played."""
        return SGD()

    def errors(self) -> list[Any]:
        """x^ - x of all items, for each hash; all equally likely."""
        x, n = np.array(self.x), len(self.x)
        found = []
        for table in tables(n, self.width, self.depth, True):
            empty = CountSketch.zeros(self.depth, self.width, dtype=np.int64, hash=table)
            found.append(empty.update(np.arange(n), x).query(np.arange(n)) - x)
        return found

    def moments(self) -> tuple[list[Fraction], list[Fraction]]:
        """Mean and mean square of the errors, per item."""
        errors = [[Fraction(int(e)) for e in row] for row in enumerated(self, "errors")]
        count = len(errors)
        first = [sum(column, Fraction(0)) / count for column in zip(*errors, strict=True)]
        second = [sum((e * e for e in c), Fraction(0)) / count for c in zip(*errors, strict=True)]
        return first, second

    def formula(self) -> list[Fraction]:
        """(|x|^2 - x_i^2) / w."""
        total = sum(a * a for a in self.x)
        return [Fraction(total - a * a, self.width) for a in self.x]

    def chain(self, trace: Trace, u: Array) -> list[Link]:
        """The largest variance, enumerated and by the formula."""
        _, second = enumerated(self, "moments")
        return [Link("enumerated", float(max(second)), ""), Link("C", float(max(self.formula())), "pairs")]

    def checks(self, trace: Trace) -> list[Check]:
        """Every item, in fractions."""
        first, second = enumerated(self, "moments")
        return [
            same("unbiased", first, [Fraction(0)] * len(first), "signs of two items are independent"),
            same("variance", second, self.formula(), "a pair shares a bucket with probability 1 / w"),
        ]

    def slack(self, trace: Trace) -> Any:
        """Fractions."""
        return 0.0


def same(name: str, found: list[Fraction], wanted: list[Fraction], lemma: str) -> Check:
    """Equality, exactly."""
    off = max(abs(a - b) for a, b in zip(found, wanted, strict=True))
    return Check(name, float(off), 1 if off else None, lemma)


@dataclass(frozen=True, kw_only=True)
class MinQuery(Query):
    """One row of a count-min sketch."""

    id: ClassVar[str] = "point_queries.count_min"
    statement: ClassVar[str] = "x >= 0, one row of w buckets: x^_i >= x_i, E (x^_i - x_i) = (|x|_1 - x_i) / w"
    source: ClassVar[str] = "Cormode and Muthukrishnan 2005; enumerated here, exact"

    def errors(self) -> list[Any]:
        """Without signs."""
        x, n = np.array(self.x), len(self.x)
        found = []
        for table in tables(n, self.width, self.depth, False):
            empty = CountMinSketch.zeros(self.depth, self.width, dtype=np.int64, hash=table)
            found.append(empty.update(np.arange(n), x).query(np.arange(n)) - x)
        return found

    def formula(self) -> list[Fraction]:
        """(|x|_1 - x_i) / w."""
        return [Fraction(sum(self.x) - a, self.width) for a in self.x]

    def chain(self, trace: Trace, u: Array) -> list[Link]:
        """The largest mean excess."""
        first, _ = enumerated(self, "moments")
        return [Link("enumerated", float(max(first)), ""), Link("C", float(max(self.formula())), "pairs")]

    def checks(self, trace: Trace) -> list[Check]:
        """Never below, and every item's mean."""
        lowest = min(int(np.min(row)) for row in enumerated(self, "errors"))
        below = Check("below", float(-lowest), 1 if lowest < 0 else None, "all that is added is >= 0")
        return [
            below,
            same("excess", enumerated(self, "moments")[0], self.formula(), "a pair shares a bucket"),
        ]


@dataclass(frozen=True, kw_only=True)
class OneHeavy(Query):
    """One item holds everything; how often another is taken for it."""

    id: ClassVar[str] = "point_queries.heavy"
    statement: ClassVar[str] = (
        "x = e_k, i != k, v rows (odd): P(|x^_i| = 1) = 2 P(Bin(v, 1/(2w)) >= (v + 1)/2) with a median"
    )
    source: ClassVar[str] = "proof above; enumerated here, exact"
    x: tuple[int, ...] = (0, 1)
    width: int = 4
    depth: int = 3

    def hits(self) -> Fraction:
        """The part of the hashes for which item 0 is answered with +-1 (item 1 at +bucket 0, by symmetry)."""
        hit = count = 0
        rows = itertools.product(range(self.width), (1, -1))
        for choice in itertools.product(list(rows), repeat=self.depth):
            table = TableHash([[b, 0] for b, _ in choice], [[s, 1] for _, s in choice])
            sketch = CountSketch.zeros(self.depth, self.width, dtype=np.int64, hash=table)
            hit += abs(int(sketch.update([1], np.array([1])).query([0])[0])) == 1
            count += 1
        return Fraction(hit, count)

    def formula(self) -> list[Fraction]:
        """Of item 0."""
        return [2 * tail(self.depth, Fraction(1, 2 * self.width))]

    def chain(self, trace: Trace, u: Array) -> list[Link]:
        """Both."""
        return [
            Link("enumerated", float(enumerated(self, "hits")), ""),
            Link("C", float(self.formula()[0]), "signs"),
        ]

    def checks(self, trace: Trace) -> list[Check]:
        """Equal."""
        lemma = "a row errs by +1 with probability 1/(2w), and as often by -1"
        return [same("probability", [enumerated(self, "hits")], self.formula(), lemma)]


@dataclass(frozen=True, kw_only=True)
class OneHeavyMin(OneHeavy):
    """The same for count-min."""

    id: ClassVar[str] = "point_queries.heavy_min"
    statement: ClassVar[str] = "x = e_k, i != k, v rows: P(x^_i = 1) = w^-v with a minimum"

    def hits(self) -> Fraction:
        """Without signs."""
        hit = count = 0
        for choice in itertools.product(range(self.width), repeat=self.depth):
            sketch = CountMinSketch.zeros(
                self.depth, self.width, dtype=np.int64, hash=TableHash([[b, 0] for b in choice])
            )
            hit += int(sketch.update([1], np.array([1])).query([0])[0]) == 1
            count += 1
        return Fraction(hit, count)

    def formula(self) -> list[Fraction]:
        """All rows collide."""
        return [Fraction(1, self.width**self.depth)]


@dataclass(frozen=True, kw_only=True)
class MedianTail(Query):
    """Large errors are rare: Chebyshev in one row, then the median; eps = sqrt(3 / w)."""

    id: ClassVar[str] = "point_queries.median"
    statement: ClassVar[str] = (
        "w >= 3 / eps^2, v rows (odd): P(|x^_i - x_i| > eps |x|_2) <= P(Bin(v, 1/3) >= (v + 1)/2) "
        "<= exp(-v / 18)"
    )
    source: ClassVar[str] = "Charikar, Chen and Farach-Colton 2004 (as recalled); one row enumerated here"
    x: tuple[int, ...] = (0, 3, 1, 2)
    width: int = 3
    depth: int = 5

    def one_row(self) -> Fraction:
        """P(|err_0| > eps |x|) in one row; by symmetry item 0 is at +bucket 0."""
        others = len(self.x) - 1
        bound, bad, count = Fraction(3 * sum(a * a for a in self.x), self.width), 0, 0
        x = np.array(self.x)
        for buckets in itertools.product(range(self.width), repeat=others):
            for signs in itertools.product((1, -1), repeat=others):
                table = TableHash([(0, *buckets)], [(1, *signs)])
                sketch = CountSketch.zeros(1, self.width, dtype=np.int64, hash=table)
                error = int(sketch.update(np.arange(len(x)), x).query([0])[0]) - self.x[0]
                bad += error * error > bound
                count += 1
        return Fraction(bad, count)

    def chain(self, trace: Trace, u: Array) -> list[Link]:
        """Rows are independent, so the median's own tail is binomial in that of a row."""
        third = Fraction(1, 3)
        return [
            Link("enumerated", float(tail(self.depth, enumerated(self, "one_row"))), ""),
            Link("C", float(tail(self.depth, third)), "Chebyshev: one row errs with probability <= 1/3"),
            Link("paper", math.exp(-self.depth / 18), "Hoeffding"),
        ]

    def checks(self, trace: Trace) -> list[Check]:
        """One row."""
        row = enumerated(self, "one_row")
        off = float(row - Fraction(1, 3))
        return [Check("one row", off, 1 if off > 0 else None, "Var = (|x|^2 - x_i^2) / w <= eps^2 |x|^2 / 3")]


BOUNDS: tuple[Bound, ...] = (Query(), MinQuery(), OneHeavy(), OneHeavyMin(), MedianTail())
