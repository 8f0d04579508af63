r"""Covers for SM3: by axes (the paper's), by any index sets, by hash buckets.

Each says how its accumulators are laid out (``slots``), and how minima over sets and maxima over members are
taken from that layout; :class:`~memopt_ref.parts.cover.Cover` says what these mean.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

import numpy as np

from ..errors import HyperparameterError, ShapeError
from . import fields
from .cover import Cover, Indices, Shape
from .hashing import Avalanche, HashFamily
from .slots import Slot, accumulator_dtype

__all__ = ["AxisCover", "Cover", "HashCover", "IndexCover"]


@dataclass(frozen=True)
class AxisCover(Cover):
    """The paper's cover of a tensor: one set for each index of each axis, all entries with this index there.

    A tensor of shape [n_1, ..., n_p] keeps n_1 + ... + n_p accumulators, ``mu_0`` of shape [n_1], ``mu_1`` of
    shape [n_2], and so on. For a vector the sets are its entries, so SM3 is diagonal AdaGrad; so it is for a
    scalar, and for a matrix with one row or one column.

    Examples
    --------
    >>> cover = AxisCover()
    >>> [slot.shape for slot in cover.slots((4, 3), "float32").values()]
    [(4,), (3,)]
    >>> cover.reduce(np.array([[1.0, 5.0], [2.0, 0.0]]))
    {'mu_0': array([5., 2.]), 'mu_1': array([2., 5.])}
    >>> cover.gather({"mu_0": np.array([5.0, 2.0]), "mu_1": np.array([3.0, 9.0])}, (2, 2))
    array([[3., 5.],
           [2., 2.]])
    """

    def slots(self, shape: Shape, dtype: Any, merge: str | None = "max") -> dict[str, Slot]:
        """One accumulator vector an axis; a scalar has one 0-d accumulator."""
        return {
            f"mu_{a}": Slot(tuple(shape[b] for b in kept), accumulator_dtype(dtype), axes=kept, merge=merge)
            for a, kept in enumerate(_kept_axes(len(shape)))
        }

    def gather(self, mu: Mapping[str, Any], shape: Shape) -> Any:
        """The least of the p accumulators of an entry."""
        beside = [[n if b in kept else 1 for b, n in enumerate(shape)] for kept in _kept_axes(len(shape))]
        spread = [np.reshape(mu[f"mu_{a}"], lengths) for a, lengths in enumerate(beside)]
        return functools.reduce(np.minimum, spread)

    def reduce(self, x: Any) -> dict[str, Any]:
        """Maxima over all axes but one."""
        return {
            f"mu_{a}": np.max(x, axis=tuple(b for b in range(x.ndim) if b not in kept), initial=0)
            for a, kept in enumerate(_kept_axes(x.ndim))
        }

    def members(self, shape: Shape) -> list[Indices]:
        """Axis by axis, index by index."""
        entries = np.arange(prod(shape), dtype=np.int64).reshape(shape)
        slices = [np.moveaxis(entries, a, 0) for a in range(len(shape))] or [entries[None]]
        return [members.ravel() for axis in slices for members in axis if members.size]


def _kept_axes(rank: int) -> list[tuple[int, ...]]:
    return [(a,) for a in range(rank)] or [()]


@dataclass(frozen=True)
class IndexCover(Cover):
    """Any cover, by its sets: one accumulator a set, ``mu`` of shape [k].

    Parameters
    ----------
    sets : sequence of sequences of int
        The members of each set, numbered in C order from 0. Sets may overlap; a set must not be empty, and
        every entry of the parameter must be in one. Checked against a shape by :meth:`slots`.

    Raises
    ------
    HyperparameterError
        A member is not an integer.
    ShapeError
        From :meth:`slots`: an empty set, a member outside the tensor, or an entry in no set.

    Examples
    --------
    >>> cover = IndexCover(((0, 1), (1, 2)))
    >>> cover.reduce(np.array([4.0, 1.0, 3.0]))
    {'mu': array([4., 3.])}
    >>> cover.gather({"mu": np.array([4.0, 3.0])}, (3,))
    array([4., 3., 3.])
    """

    sets: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        try:
            sets = tuple(tuple(operator.index(i) for i in members) for members in self.sets)
        except TypeError as error:
            wanted = "a sequence of sequences of integers"
            raise HyperparameterError("IndexCover.sets", str(error), wanted, "Number the entries.") from None
        object.__setattr__(self, "sets", sets)

    def slots(self, shape: Shape, dtype: Any, merge: str | None = "max") -> dict[str, Slot]:
        """One accumulator a set."""
        n = prod(shape)
        # As many members as there are cannot hold more entries: a shape costs no more than the cover.
        held = np.zeros(min(n, 1 + sum(map(len, self.sets))), bool)
        for r, members in enumerate(self.sets):
            outside = [i for i in members if not 0 <= i < n]
            if not members or outside:
                got = f"entry {outside[0]}" if outside else "no entry"
                wanted = f"entries in [0, {n})" if outside else "at least one entry"
                raise ShapeError(
                    f"IndexCover.sets[{r}]", got, wanted, f"The parameter has the shape {shape}."
                )
            held[[i for i in members if i < held.size]] = True
        if not held.all():
            got = f"no set with entry {int(np.argmin(held))}"
            raise ShapeError(
                "IndexCover.sets", got, f"all entries of the shape {shape}", "Add a set that holds it."
            )
        return {"mu": Slot((len(self.sets),), accumulator_dtype(dtype), merge=merge)}

    def gather(self, mu: Mapping[str, Any], shape: Shape) -> Any:
        """Minima over the sets of each entry."""
        owners, starts = self._by_entry
        return np.minimum.reduceat(mu["mu"][owners], starts).reshape(shape)

    def reduce(self, x: Any) -> dict[str, Any]:
        """Maxima over the members of each set."""
        members, starts = self._by_set
        return {"mu": np.maximum(np.maximum.reduceat(x.reshape(-1)[members], starts), 0)}

    def members(self, shape: Shape) -> list[Indices]:
        """The sets as given."""
        return [np.array(members, np.int64) for members in self.sets]

    @cached_property
    def _by_set(self) -> tuple[Indices, Indices]:
        """The members of all sets in a row, and where each set starts."""
        lengths = [len(members) for members in self.sets]
        starts = np.cumsum([0, *lengths], dtype=np.int64)[:-1]
        return np.array([i for members in self.sets for i in members], np.int64), starts

    @cached_property
    def _by_entry(self) -> tuple[Indices, Indices]:
        """The sets of all entries in a row, and where each entry starts."""
        members, starts = self._by_set
        owner = np.repeat(np.arange(starts.size), [len(members) for members in self.sets])
        order = np.argsort(members, kind="stable")
        return owner[order], np.unique(members[order], return_index=True)[1]


@dataclass(frozen=True)
class HashCover(Cover):
    """Hash buckets as sets: set (j, b) holds the items i with h_j(i) = b, so every item is in ``depth`` sets.

    This is a count-min sketch with maxima in place of sums: for one hash, SM3's accumulators are never above
    those of count-min AdaGrad. The hash depends on ``seed`` alone, not on the parameter's place in a tree.

    Parameters
    ----------
    depth : int
        Number of hash functions, >= 1.
    width : int
        Buckets of each, in [1, 2^31). An empty bucket is no set; its accumulator stays 0.
    seed : int
        In [0, 2^64).
    of : {"entries", "rows"}
        What is hashed. ``"entries"``: each entry, numbered in C order; ``mu`` has the shape [depth, width].
        ``"rows"``: the index of the first axis, each column on its own, as in the sketches of embedding
        tables; ``mu`` has the shape [depth, width, *shape[1:]].
    hash : HashFamily
        h_0, ..., h_{depth-1}, from :mod:`memopt_ref.parts.hashing`.

    Examples
    --------
    >>> cover = HashCover(depth=2, width=8)
    >>> cover.slots((100, 4), "float32")["mu"].shape
    (2, 8)
    >>> HashCover(depth=2, width=8, of="rows").slots((100, 4), "float32")["mu"].shape
    (2, 8, 4)
    """

    depth: int = fields.integer(low=1)
    width: int = fields.integer(low=1, high=2**31 - 1)
    seed: int = fields.integer(0, 0, 2**64 - 1)
    of: str = fields.choice("entries", "rows")
    hash: HashFamily = fields.instance(Avalanche(), HashFamily)

    def __post_init__(self) -> None:
        fields.check_fields(self)

    def slots(self, shape: Shape, dtype: Any, merge: str | None = "max") -> dict[str, Slot]:
        """One accumulator a bucket (and column)."""
        lengths = (self.depth, self.width, *self._hashed(shape)[1])
        return {"mu": Slot(lengths, accumulator_dtype(dtype), merge=merge)}

    def gather(self, mu: Mapping[str, Any], shape: Shape) -> Any:
        """Minima over the ``depth`` buckets of each item."""
        buckets = self.buckets(self._hashed(shape)[0])
        found = [row[bucket] for row, bucket in zip(mu["mu"], buckets, strict=True)]
        return np.min(found, axis=0).reshape(shape)

    def reduce(self, x: Any) -> dict[str, Any]:
        """Maxima over the members of each bucket."""
        n, columns = self._hashed(x.shape)
        top = np.zeros((self.depth, self.width, *columns), x.dtype)
        for row, bucket in zip(top, self.buckets(n), strict=True):
            np.maximum.at(row, bucket, x.reshape(n, *columns))
        return {"mu": top}

    def members(self, shape: Shape) -> list[Indices]:
        """The buckets that are not empty, in the order of ``mu``."""
        n, columns = self._hashed(shape)
        entries = np.arange(prod(shape), dtype=np.int64).reshape(n, prod(columns))
        where = [bucket == b for bucket in self.buckets(n) for b in range(self.width)]
        return [column[held] for held in where for column in entries.T if held.any()]

    def buckets(self, n: int) -> Indices:
        """h_j(i) for the items 0, ..., n - 1: shape [depth, n], entries in [0, width)."""
        items = np.arange(n)
        return np.stack([self.hash.buckets(items, j, self.width, self.seed) for j in range(self.depth)])

    def _hashed(self, shape: Shape) -> tuple[int, Shape]:
        """How many items are hashed, and the shape that rides along."""
        return (shape[0], shape[1:]) if self.of == "rows" and shape else (prod(shape), ())
