r"""Count-sketch and count-min tensors: a table [depth, width, *columns] that answers for many rows with few.

M. Charikar, K. Chen and M. Farach-Colton, "Finding frequent items in data streams", TCS 2004 (count-sketch);
G. Cormode and S. Muthukrishnan, "An improved data stream summary: the count-min sketch and its applications",
J. Algorithms 2005; R. Spring, A. Kyrillidis, V. Mohan and A. Shrivastava, "Compressing gradient optimizers
via count-sketches", ICML 2019, Algorithm 1 (the tensor: only the row number i is hashed, the columns ride
along).

    UPDATE(S, i, x):  S[j, h_j(i), :] += s_j(i) x            for each row j = 1 .. depth
    QUERY(S, i):      F_j( s_j(i) S[j, h_j(i), :] )          F = median with signs, minimum without
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np

from ..errors import DtypeError, HyperparameterError, ShapeError
from .hashing import Avalanche, HashFamily
from .sketch_table import COMBINATIONS, Places, add_into, combine_rows, estimates, raise_into


@dataclass(frozen=True, eq=False)
class Sketch:
    """A table with the hash functions that lead into it; a value: every operation returns a new sketch.

    Parameters
    ----------
    table : array, shape [depth, width, *columns]
        float, integer or object.
    hash : HashFamily
    seed : int
        64-bit; selects the member of the family.
    combine : {"median", "min", "mean"}, optional
        F of QUERY.
    """

    table: Any
    hash: HashFamily = Avalanche()
    seed: int = 0
    combine: str = "median"

    #: Whether UPDATE and QUERY carry signs.
    signs: ClassVar[bool] = True

    def __post_init__(self) -> None:
        where = type(self).__name__
        if np.ndim(self.table) < 2 or min(np.shape(self.table)[:2]) < 1:
            wanted = "[depth, width, *columns] with depth and width at least 1"
            got = f"a table of shape {np.shape(self.table)}"
            raise ShapeError(where, got, wanted, "Start from .zeros(depth, width, columns).")
        if self.combine not in COMBINATIONS:
            wanted = "one of " + ", ".join(map(repr, COMBINATIONS))
            raise HyperparameterError(f"{where}.combine", repr(self.combine), wanted, "Choose one of these.")

    @classmethod
    def zeros(
        cls,
        depth: int,
        width: int,
        columns: tuple[int, ...] = (),
        dtype: Any = np.float64,
        **how: Any,
    ) -> Self:
        """An empty sketch; ``how`` is hash, seed and combine."""
        return cls(np.zeros((depth, width, *columns), dtype), **how)

    @property
    def nbytes(self) -> int:
        """depth * width * columns * itemsize: the hash functions are not stored."""
        return int(self.table.nbytes)

    def locate(self, items: Any) -> Places:
        """Hash the items, shape [k]; UPDATE and QUERY take the answer in place of the items."""
        if isinstance(items, Places):
            return items
        items = np.asarray(items, dtype=np.int64).reshape(-1)
        depth, width = self.table.shape[:2]
        buckets = np.stack([self.hash.buckets(items, j, width, self.seed) for j in range(depth)])
        if not self.signs:
            return Places(buckets, None)
        return Places(buckets, np.stack([self.hash.signs(items, j, width, self.seed) for j in range(depth)]))

    def update(self, items: Any, x: Any) -> Self:
        """UPDATE(S, i, x_i) for each item.

        Parameters
        ----------
        items : array of int, shape [k], or Places
            An item may occur more than once.
        x : array, shape [k, *columns]

        Raises
        ------
        ShapeError, DtypeError
            ``x`` does not fit the items, or would lose more than precision in the table's dtype.
        """
        places = self.locate(items)
        x = self._increments(places, x)
        table = self.table.copy()
        add_into(table, places, x)
        return replace(self, table=table)

    def query(self, items: Any) -> Any:
        """QUERY(S, i) for each item: shape [k, *columns]."""
        return combine_rows(estimates(self.table, self.locate(items)), self.combine)

    def scaled(self, factor: float) -> Self:
        """``factor`` times the sketch: decay of the whole, and the paper's cleaning (0 <= factor <= 1)."""
        dtype = self.table.dtype
        return replace(self, table=self.table * (factor if dtype == object else dtype.type(factor)))

    def merged(self, other: Self) -> Self:
        """The sketch of both streams together: the sum of the tables.

        Raises
        ------
        HyperparameterError
            The hash functions differ; such tables have no sum.
        ShapeError
            The shapes differ.
        """
        where = f"{type(self).__name__}.merged"
        mine, theirs = (type(self), self.hash, self.seed), (type(other), other.hash, other.seed)
        if mine != theirs:
            advice = "Merge sketches that were made with one hash family and one seed."
            raise HyperparameterError(
                where, f"{theirs[1]}, seed {theirs[2]}", f"{mine[1]}, seed {mine[2]}", advice
            )
        if self.table.shape != other.table.shape:
            got, wanted = f"shape {other.table.shape}", f"shape {self.table.shape}"
            raise ShapeError(where, got, wanted, "Merge sketches of one shape.")
        return replace(self, table=self.table + other.table)

    def _increments(self, places: Places, x: Any) -> Any:
        x, columns = np.asarray(x), self.table.shape[2:]
        if x.shape != (len(places), *columns):
            got, wanted = f"increments of shape {x.shape}", f"shape {(len(places), *columns)}"
            raise ShapeError(type(self).__name__, got, wanted, "Pass one row for each item.")
        if not np.can_cast(x.dtype, self.table.dtype, casting="same_kind"):
            got, wanted = f"increments of dtype {x.dtype}", f"a dtype that {self.table.dtype} can hold"
            raise DtypeError(type(self).__name__, got, wanted, "Make the sketch with a floating dtype.")
        return x.astype(self.table.dtype, copy=False)


@dataclass(frozen=True, eq=False)
class CountSketch(Sketch):
    r"""Count-sketch: signs and a median; for content of any sign.

    One row is unbiased, with E (x^_i - x_i)^2 = (\|x\|_2^2 - x_i^2) / width for pairwise independent hash
    functions that know nothing of x; the median makes large errors rare.

    Parameters
    ----------
    table, hash, seed, combine
        See :class:`Sketch`; combine is "median" or, for experiments, "mean".

    References
    ----------
    Charikar, Chen and Farach-Colton 2004, section 3; Spring et al. 2019, Algorithm 1.

    Examples
    --------
    >>> s = CountSketch.zeros(depth=3, width=8, columns=(2,)).update([5, 900], [[1.0, -2.0], [4.0, 0.5]])
    >>> s.query([900]), s.nbytes
    (array([[4. , 0.5]]), 384)
    """


@dataclass(frozen=True, eq=False)
class CountMinSketch(Sketch):
    r"""Count-min: no signs and a minimum; for content >= 0, which it never underestimates.

    With width ceil(e / eps) and depth ceil(ln(1 / delta)), x_i <= x^_i, and x^_i <= x_i + eps \|x\|_1 with
    probability at least 1 - delta.

    Parameters
    ----------
    table, hash, seed, combine
        See :class:`Sketch`; combine is "min".

    References
    ----------
    Cormode and Muthukrishnan 2005, Theorem 1; Estan and Varghese 2002 (:meth:`conservative`).

    Examples
    --------
    >>> s = CountMinSketch.zeros(depth=2, width=4).update([0, 1, 2, 3], [1.0, 2.0, 3.0, 4.0])
    >>> bool((s.query([0, 1, 2, 3]) >= [1, 2, 3, 4]).all())
    True
    """

    combine: str = "min"
    signs: ClassVar[bool] = False

    def conservative(self, items: Any, x: Any) -> Self:
        """Raise each item's buckets only as far as needed; item by item in their order, ``x`` >= 0.

        Never above :meth:`update` and never below the truth, but not linear: a merge of two such sketches is
        an upper bound and not the sketch of both streams.
        """
        places = self.locate(items)
        x = self._increments(places, x)
        table = self.table.copy()
        raise_into(table, places, x)
        return replace(self, table=table)
