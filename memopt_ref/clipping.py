r"""Clipping by the global norm: g <- g * min(1, max_norm / ||g||), the norm taken over all leaves together.

R. Pascanu, T. Mikolov and Y. Bengio, "On the difficulty of training recurrent neural networks", ICML 2013,
Algorithm 1.

The squares of 16-bit and 32-bit entries are exact in float64 and neither overflow nor vanish there. Entries
of float64 are first multiplied with a power of two, which is exact, when the largest lies outside [2^-480,
2^480]. The squares of a leaf are added in the one order of ``parts/sums.py``, then the totals of the leaves
in the order of their paths.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np

from . import tree
from .backends.largest import PIECE
from .checks import check_gradient
from .nonfinite import prepare
from .parts import fields, sums
from .parts.row_sparse import RowSparse

#: Exponents within which float64 squares keep all their bits, with room for 2^60 terms.
_SAFE = 480
_positive = fields.number(low=0, open_low=True, scheduled=False).metadata["check"]


def norm(leaves: Iterable[Any], change: Callable[[str | int, Any], Any] | None = None) -> float:
    """Euclidean norm of arrays and coalesced RowSparse, taken as one vector; None counts as zero.

    Parameters
    ----------
    leaves : mapping or iterable of arrays, RowSparse and None
    change : function of (key or place, array), optional
        What is done first to a part of an array, entry by entry; not to a RowSparse.

    Returns
    -------
    float
        NaN if any entry is NaN, else infinity if any is infinite. Correct to about (4 + log2 n) / 2 ulp.

    Notes
    -----
    Temporaries of some 2^16 entries. float64 is read twice, other dtypes once.

    Examples
    --------
    >>> norm([np.array([3 * 2.0**600]), np.array([[4 * 2.0**600]])]) == 5 * 2.0**600
    True
    """
    items = leaves.items() if isinstance(leaves, Mapping) else enumerate(leaves)
    parts: list[Callable[[], Iterator[Any]]] = []
    for key, g in items:
        if isinstance(g, RowSparse):
            parts.append(partial(_parts, g.rows, None))
        elif g is not None:
            parts.append(partial(_parts, np.asarray(g), None if change is None else partial(change, key)))
    with np.errstate(all="ignore"):
        exponent = _exponent(parts)
        totals = [total for each in parts if (total := _squares(each(), exponent)) is not None]
        if not totals:
            return 0.0
        return math.ldexp(math.sqrt(float(sums.along_rows(np.array(totals, np.float64)))), exponent)


def _parts(x: Any, change: Callable[[Any], Any] | None) -> Iterator[Any]:
    """An array's rows (along its last axis) in C order, some together, long ones in parts of whole leaves."""
    for part in _rows(x.reshape(1) if x.ndim == 0 else x):
        yield part if change is None else change(part)


def _rows(x: Any) -> Iterator[Any]:
    if x.size == 0:
        return
    if x.size <= 2 * PIECE or x.dtype == object:
        yield x.reshape(-1, x.shape[-1])
    elif x.ndim == 1:
        # The last part is not the shortest: a leaf that stands alone is summed over fewer lanes.
        for begin in range(0, x.size - PIECE, PIECE):
            last = begin + 2 * PIECE >= x.size
            yield x[begin : None if last else begin + PIECE].reshape(1, -1)
    else:
        together = PIECE // (x.size // x.shape[0])
        for begin in range(0, x.shape[0], max(together, 1)):
            if together:
                yield x[begin : begin + together].reshape(-1, x.shape[-1])
            else:
                yield from _rows(x[begin])


def _squares(parts: Iterator[Any], exponent: int) -> Any:
    """``parts/sums.over_tensor`` of the squares."""
    leaves = []
    for x in parts:
        wide = x.astype(np.float64, copy=False)
        if exponent:
            wide = np.ldexp(wide, -exponent)
        leaves.append(sums.leaf_sums(wide * wide).reshape(-1))
    return sums.along_rows(np.concatenate(leaves)) if leaves else None


def _exponent(parts: list[Callable[[], Iterator[Any]]]) -> int:
    """Power of two by which entries are divided first; 0 when the squares are safe or nothing helps."""
    largest = 0.0
    for each in parts:
        for x in each():
            if x.dtype != np.float64 and x.dtype != object:
                break
            top = float(np.max(np.abs(x)))
            largest = top if top > largest or math.isnan(top) else largest
    if largest == 0.0 or not math.isfinite(largest):
        return 0
    exponent = math.frexp(largest)[1]
    return exponent if abs(exponent) > _SAFE else 0


def factor(total: float, max_norm: float) -> float:
    """What the gradients are multiplied with: 1 up to ``max_norm``, then ``max_norm / total``.

    A NaN norm gives NaN and an infinite one 0, so that bad gradients show instead of hiding.

    Examples
    --------
    >>> factor(4.0, 2.0), factor(1.0, 2.0)
    (0.5, 1.0)
    """
    return 1.0 if total <= max_norm else max_norm / total


def check_max_norm(max_norm: Any) -> float:
    """``max_norm`` as a Python float; raises HyperparameterError unless it is finite and positive."""
    return float(_positive("max_norm", max_norm))


def times(g: Any, number: float) -> Any:
    """A gradient times a number, in its own dtype; the same object if the number is 1."""
    if number == 1.0 or g is None:
        return g
    if isinstance(g, RowSparse):
        return RowSparse(g.indices, times(g.rows, number), g.shape)
    with np.errstate(all="ignore"):
        return np.asarray(g * (number if g.dtype == object else g.dtype.type(number)))


def global_norm(gradients: Any) -> float:
    """Euclidean norm of a whole tree of gradients, in float64.

    Parameters
    ----------
    gradients : tree of arrays, RowSparse and None
        None counts as zero. Duplicate rows of a RowSparse are summed first, in at least float32.

    Returns
    -------
    float

    Examples
    --------
    >>> global_norm({"a": np.array([3.0]), "b": np.array([[4.0]]), "c": None})
    5.0
    """
    return norm(_prepared(gradients).leaves.values())


def clip_by_global_norm(gradients: Any, max_norm: float) -> tuple[Any, float]:
    """Gradients of global norm at most ``max_norm`` (up to one rounding an entry), in the same direction.

    Parameters
    ----------
    gradients : tree of arrays, RowSparse and None
        Never written.
    max_norm : float
        > 0.

    Returns
    -------
    gradients : tree
        The same structure and dtypes; 16-bit leaves are multiplied in float32 and rounded once. RowSparse
        leaves come coalesced. Nothing is copied when the norm is small enough.
    norm : float
        The norm before clipping.

    Raises
    ------
    HyperparameterError
        ``max_norm`` is not a positive number.

    Notes
    -----
    torch divides by the norm plus 1e-6 instead, so its clipped norm is a little below ``max_norm``. A NaN
    norm makes every entry NaN, an infinite one makes them 0 and NaN, here as there.

    Examples
    --------
    >>> clip_by_global_norm([np.array([3.0]), None, np.array([4.0])], 1.0)
    ([array([0.6]), None, array([0.8])], 5.0)
    """
    flat, limit = _prepared(gradients), check_max_norm(max_norm)
    total = norm(flat.leaves.values())
    number = factor(total, limit)
    if number == 1.0:
        return gradients, total
    before = tree.flatten(gradients).leaves
    return flat.rebuild({p: _as(times(g, number), before[p]) for p, g in flat.leaves.items()}), total


def _as(g: Any, other: Any) -> Any:
    """``g`` in the dtype of ``other``."""
    if g is None or g.dtype == other.dtype:
        return g
    return g.astype(other.dtype)


def _prepared(gradients: Any) -> tree.Flat:
    flat = tree.flatten(gradients, where="gradients")
    for path, g in flat.leaves.items():
        check_gradient(path, g, g)
    ready = {p: g if g is None else prepare(g, g.dtype, 1.0, "propagate") for p, g in flat.leaves.items()}
    return tree.Flat(ready, flat.structure)
