r"""Compressors: maps C with ||C(x) - x||^2 <= (1 - delta) ||x||^2, the ingredient of error feedback.

S. Stich, J.-B. Cordonnier and M. Jaggi, "Sparsified SGD with memory", NeurIPS 2018 (Top-K, delta = k/d);
S. P. Karimireddy, Q. Rebjock, S. Stich and M. Jaggi, "Error feedback fixes signSGD and other gradient
compression schemes", ICML 2019 (scaled sign, delta = ||x||_1^2 / (d ||x||_2^2) >= 1/d); F. Seide, H. Fu, J.
Droppo, G. Li and D. Yu, "1-bit stochastic gradient descent", Interspeech 2014 (one bit an entry, two means
a column).

A compressor is a frozen dataclass, so that a rule that holds one can be compared and stored.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from . import fields, sums
from .scalar import ratio, select, sign
from .slots import zeros_like
from .top_k import Blocks

Shape = int | tuple[int, ...]


def _entries(shape: Shape) -> int:
    return math.prod(shape) if isinstance(shape, tuple) else shape


@dataclasses.dataclass(frozen=True)
class Compressor:
    """Base of all compressors: ``c(x)`` is C(x), a new array of the shape and dtype of ``x``."""

    def __call__(self, x: Any) -> Any:
        """C(x)."""
        raise NotImplementedError

    def contraction(self, shape: Shape) -> float:
        """A delta in (0, 1] that holds for every tensor of this shape (or vector of this length)."""
        raise NotImplementedError

    def __post_init__(self) -> None:
        fields.check_fields(self)


@dataclasses.dataclass(frozen=True)
class Identity(Compressor):
    """C(x) = x, delta = 1.

    Examples
    --------
    >>> Identity()(np.ones(2)), Identity().contraction(2)
    (array([1., 1.]), 1.0)
    """

    def __call__(self, x: Any) -> Any:
        """A copy of x."""
        return x.copy()

    def contraction(self, shape: Shape) -> float:
        """1."""
        return 1.0


@dataclasses.dataclass(frozen=True)
class TopK(Compressor):
    """Keep the entries of largest magnitude, of the flattened tensor or of each block of it; zero the others.

    Parameters
    ----------
    density : float
        In (0, 1]: k_j = ceil(density * len_j) of a block of len_j entries.
    k : int, optional
        Keep min(k, len_j) entries instead, >= 1.
    block : int, optional
        Length of a block, >= 1; None: the whole tensor is one block.

    Notes
    -----
    delta = min_j k_j / len_j. Ties go to the lowest index, NaN counts as largest. Numerics: bitwise.

    Examples
    --------
    >>> TopK(k=1)(np.array([1.0, -3.0, 2.0]))
    array([ 0., -3.,  0.])
    >>> TopK(density=0.5, block=2)(np.array([1.0, -3.0, 2.0])), TopK(density=0.5, block=2).contraction(3)
    (array([ 0., -3.,  2.]), 0.5)
    """

    density: float = fields.number(0.01, 0, 1, open_low=True, scheduled=False)
    k: int | None = fields.integer(None, 1, optional=True)
    block: int | None = fields.integer(None, 1, optional=True)

    def blocks(self, size: int) -> Blocks:
        """The blocks of a vector of this size."""
        return Blocks(size, self.block or max(size, 1), self.density, self.k)

    def __call__(self, x: Any) -> Any:
        """The kept entries in their places."""
        flat = x.reshape(-1)
        blocks = self.blocks(flat.size)
        kept = blocks.offsets + blocks.select(flat)
        sent = zeros_like(flat)
        sent[kept] = flat[kept]
        return sent.reshape(x.shape)

    def contraction(self, shape: Shape) -> float:
        """min_j k_j / len_j."""
        return self.blocks(_entries(shape)).smallest_fraction


@dataclasses.dataclass(frozen=True)
class ScaledSign(Compressor):
    """C(x) = (||x||_1 / d) sign(x), of the flattened tensor or of each block of it; sign(0) = 0.

    Parameters
    ----------
    block : int, optional
        Length d of a block, >= 1; None: the whole tensor.

    Notes
    -----
    delta = ||x||_1^2 / (d ||x||_2^2), at least 1/d. Sums in the order of :mod:`~memopt_ref.parts.sums`
    along the flattened block. Numerics: bitwise.

    Examples
    --------
    >>> ScaledSign()(np.array([1.0, -3.0, 2.0, 0.0]))
    array([ 1.5, -1.5,  1.5,  0. ])
    """

    block: int | None = fields.integer(None, 1, optional=True)

    def __call__(self, x: Any) -> Any:
        """Mean magnitude of the block, with the signs of x."""
        flat = x.reshape(-1)
        length = self.block or max(flat.size, 1)
        cut = flat.size // length * length
        parts = [_scaled_sign(flat[:cut].reshape(-1, length)), _scaled_sign(flat[cut:].reshape(1, -1))]
        return np.concatenate([part.reshape(-1) for part in parts]).reshape(x.shape)

    def contraction(self, shape: Shape) -> float:
        """1 / d, the worst case: all weight on one entry."""
        size = max(_entries(shape), 1)
        return 1.0 / min(self.block or size, size)


def _scaled_sign(rows: Any) -> Any:
    if rows.size == 0:
        return rows
    total = sums.along_rows(np.abs(rows))[..., None]
    length = rows.shape[-1]
    return total / (length if rows.dtype == object else rows.dtype.type(length)) * sign(rows)


@dataclasses.dataclass(frozen=True)
class OneBit(Compressor):
    """One bit an entry and two numbers a column: the means of its entries >= 0 and of those < 0.

    A column is what has one last index: the other axes are its entries. A vector is one column.

    Notes
    -----
    The means minimise the squared error, so C is a projection: ||C(x) - x||^2 = ||x||^2 - ||C(x)||^2, and
    delta >= 1 / (length of a column). The threshold is 0; the paper's other choices are not offered.

    Examples
    --------
    >>> OneBit()(np.array([[1.0, -1.0], [3.0, -3.0], [-4.0, 0.0]]))
    array([[ 2., -2.],
           [ 2., -2.],
           [-4.,  0.]])
    """

    def __call__(self, x: Any) -> Any:
        """Each entry replaced by its side's mean in its column."""
        if x.size == 0:
            return x.copy()
        columns = x.reshape(-1, x.shape[-1] if x.ndim > 1 else 1)
        negative, zero = columns < 0, zeros_like(columns)
        above = _mean(select(negative, zero, columns), ~negative)
        below = _mean(select(negative, columns, zero), negative)
        return select(negative, below, above).reshape(x.shape)

    def contraction(self, shape: Shape) -> float:
        """1 / (length of a column)."""
        columns = shape[-1] if isinstance(shape, tuple) and len(shape) > 1 else 1
        return 1.0 / max(_entries(shape) // max(columns, 1), 1)


def _mean(x: Any, members: Any) -> Any:
    return ratio(sums.down_columns(x), np.count_nonzero(members, axis=0).astype(x.dtype))
