r"""Hash families without a seed: given tables, and the functions of the count-sketch paper's public code."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import HyperparameterError
from .hashing import Buckets, HashFamily, Signs, as_signs, checked_items


@dataclass(frozen=True)
class TableHash(HashFamily):
    """Hash functions given as tables, for theory and tests; the seed has no effect.

    Parameters
    ----------
    bucket_table : array-like of int, shape [depth, n]
        h_j(i); stored as nested tuples, so that a rule with this hash can be compared and stored.
    sign_table : array-like of -1 and +1, shape [depth, n], optional
        s_j(i); without it all signs are +1.

    Raises
    ------
    HyperparameterError
        A table is not two-dimensional, the two differ in shape, or a sign is neither -1 nor +1.

    Examples
    --------
    >>> h = TableHash([[0, 1, 0]], [[1, -1, -1]])
    >>> h.buckets([2, 0], 0, width=2, seed=0), h.signs([2, 0], 0, width=2, seed=0)
    (array([0, 0]), array([-1,  1], dtype=int8))
    """

    bucket_table: Any
    sign_table: Any = None

    def __post_init__(self) -> None:
        shapes = set()
        for name in ("bucket_table", "sign_table"):
            table = getattr(self, name)
            if table is None and name == "sign_table":
                continue
            array = np.asarray(table)
            shapes.add(array.shape)
            good = array.ndim == 2 and len(shapes) == 1 and array.dtype.kind in "iu"
            if not good or not (array >= 0 if name == "bucket_table" else abs(array) == 1).all():
                got = f"shape {array.shape}, dtype {array.dtype}"
                wanted = "buckets >= 0 and signs of -1 or +1, integers of one shape [depth, n]"
                raise HyperparameterError(
                    f"TableHash.{name}", got, wanted, "Pass nested lists or 2-d arrays."
                )
            object.__setattr__(self, name, tuple(tuple(line) for line in array.astype(int).tolist()))

    @classmethod
    def identity(cls, n: int, depth: int = 1) -> TableHash:
        """Bucket i for item i, sign +1: a sketch that compresses nothing and must equal the dense state."""
        return cls(np.tile(np.arange(n), (depth, 1)))

    @cached_property
    def _arrays(self) -> tuple[Buckets, Signs]:
        buckets = np.asarray(self.bucket_table, dtype=np.int64)
        plus = np.ones(buckets.shape, np.int8)
        return buckets, plus if self.sign_table is None else np.asarray(self.sign_table, dtype=np.int8)

    def _row(self, items: Any, row: int, which: int) -> Any:
        table = self._arrays[which]
        if row >= len(table):
            advice = "Give the table one row for each row of the sketch, or lower the depth."
            raise HyperparameterError("TableHash", f"row {row}", f"a row below {len(table)}", advice)
        return table[row][checked_items(self, items, table.shape[1]).astype(np.int64)]

    def buckets(self, items: Any, row: int, width: int, seed: int) -> Buckets:
        """The table's buckets; an error if one is not below ``width``."""
        found: Buckets = self._row(items, row, 0)
        if found.size and not (found.min() >= 0 and found.max() < width):
            bad, advice = (
                found[(found < 0) | (found >= width)].ravel()[0],
                "Set the sketch's width to the table's.",
            )
            raise HyperparameterError(
                "TableHash.bucket_table", f"bucket {bad}", f"buckets in [0, {width})", advice
            )
        return found

    def signs(self, items: Any, row: int, width: int, seed: int) -> Signs:
        """The table's signs."""
        found: Signs = self._row(items, row, 1)
        return found


@dataclass(frozen=True)
class LegacyHash(HashFamily):
    """The hash of the public code of Spring et al. (ICML 2019), bit for bit; at most three rows, no seed.

    A 32-bit signed affine map and a Murmur-style finaliser with *arithmetic* right shifts, modulo the width.
    Known defects, kept: the signs are the parity of a bucket number (mean -1/w for odd w, constant for w =
    1), the map is not a bijection, and all layers and both moments collide alike.

    Examples
    --------
    >>> LegacyHash().raw([0, 1], 994443, 609478)
    array([1551950793, 1023706841])
    >>> [int(LegacyHash().buckets([0], row, 52898, seed=0)[0]) for row in range(3)]
    [29269, 43351, 22663]
    """

    constants = ((994443, 609478), (4113759, 2949676), (9171025, 2171464))

    def raw(self, items: Any, a: int, b: int) -> NDArray[np.int64]:
        """The 31-bit value before it is reduced modulo the width (int64; never negative)."""
        with np.errstate(over="ignore"):
            h = np.asarray(items).astype(np.int32) * np.int32(a) + np.int32(b)
            for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
                h = (h ^ (h >> np.int32(shift))) * np.uint32(factor).astype(np.int32)
            return (h ^ (h >> np.int32(16))).astype(np.int64)

    def _row(self, row: int) -> tuple[int, int]:
        if row >= len(self.constants):
            advice = "Use depth 3 or less, or another hash family."
            raise HyperparameterError("LegacyHash", f"row {row}", "rows 0, 1 and 2", advice)
        return self.constants[row]

    def buckets(self, items: Any, row: int, width: int, seed: int) -> Buckets:
        """H mod width."""
        a, b = self._row(row)
        return self.raw(items, a, b) % width

    def signs(self, items: Any, row: int, width: int, seed: int) -> Signs:
        """+1 where the bucket number under (a + 2, b + 3) is odd."""
        a, b = self._row(row)
        return as_signs(self.raw(items, a + 2, b + 3) % width % 2 == 0)
