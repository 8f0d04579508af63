"""Gradients that touch few rows of a table."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import tree
from ..errors import BackendError, RowIndexError, ShapeError, StructureError

#: DLPack's codes of memory that the host can read: plain and pinned.
_HOST = (1, 3)


def _is_cupys(x: Any) -> bool:
    """Whether ``x`` is an array of CuPy, which is loaded if there is one."""
    return isinstance(x, getattr(sys.modules.get("cupy"), "ndarray", ()))


def _taken(name: str, x: Any) -> Any:
    """An array of CuPy's as it is, any other as NumPy's."""
    return x if _is_cupys(x) else _on_host(name, x)


def _on_host(name: str, x: Any) -> NDArray[Any]:
    device = getattr(x, "__dlpack_device__", None)
    if device is not None and not isinstance(x, np.ndarray) and device()[0] not in _HOST:
        advice = (
            "Copy them yourself, or pass cupy.from_dlpack(x) for parameters of CuPy's: "
            "nothing is copied from a device silently."
        )
        raise BackendError("RowSparse", f"{name} on a device", f"{name} in host memory", advice)
    arrays = tree.elsewhere((x,))
    return np.asarray(x) if arrays is None else np.asarray(arrays.as_numpy(x, where=f"RowSparse {name}"))


@dataclass(frozen=True, eq=False)
class RowSparse:
    """A gradient of ``shape`` that is zero outside the rows ``indices``.

    Parameters
    ----------
    indices : array of int, shape [k]
        Row numbers in [0, shape[0]). An index may occur more than once: its rows are summed before anything
        else happens to them (first summed, then squared).
    rows : array, shape [k, *shape[1:]]
        The gradient's rows.
    shape : tuple of int
        Shape of the parameter; at least one axis.

    Raises
    ------
    RowIndexError
        An index is negative or not below ``shape[0]``.
    ShapeError
        ``rows`` does not have the shape [k, *shape[1:]].
    BackendError
        ``indices`` or ``rows`` lie on a device and are not CuPy's, or one does and the other not.

    Notes
    -----
    Two arrays of CuPy's on one device stay there, for an optimizer of parameters on that device; the host
    reads back whether an index is out of range. What else this class does is for the host's memory.

    Examples
    --------
    >>> g = RowSparse(np.array([2, 0, 2]), np.array([[1.0], [2.0], [3.0]]), (4, 1))
    >>> g.coalesced().indices, g.coalesced().rows.ravel()
    (array([0, 2]), array([2., 4.]))
    >>> g.to_dense().ravel()
    array([2., 0., 4., 0.])
    """

    indices: NDArray[Any]
    rows: NDArray[Any]
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        indices, rows = _taken("indices", self.indices), _taken("rows", self.rows)
        there = _is_cupys(indices)
        if there != _is_cupys(rows) or (there and indices.device != rows.device):
            got = "indices and rows in two places"
            raise BackendError("RowSparse", got, "both on one device", "Copy one of them yourself.")
        shape = tuple(int(n) for n in self.shape)
        where = "RowSparse"
        if len(shape) == 0:
            raise ShapeError(where, "shape ()", "at least one axis", "Pass a 0-d gradient as a plain array.")
        if indices.ndim != 1 or (indices.size and indices.dtype.kind not in "iu"):
            got = f"indices of shape {indices.shape} and dtype {indices.dtype}"
            raise RowIndexError(where, got, "a 1-d integer array", "Pass row numbers.")
        if rows.shape != (indices.size, *shape[1:]):
            wanted = f"rows of shape {(indices.size, *shape[1:])}"
            raise ShapeError(where, f"rows of shape {rows.shape}", wanted, "Pass one row for each index.")
        # On a device the host waits for one answer only.
        if indices.size and (there or not (indices.min() >= 0 and indices.max() < shape[0])):
            bad = indices[(indices < 0) | (indices >= shape[0])]
            if bad.size:
                got, wanted = f"row {int(bad[0])}", f"rows in [0, {shape[0]})"
                raise RowIndexError(where, got, wanted, "Check the vocabulary size.")
        object.__setattr__(self, "indices", indices.astype(np.int64, copy=False))
        object.__setattr__(self, "rows", rows)
        object.__setattr__(self, "shape", shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of the rows."""
        return self.rows.dtype

    @property
    def is_coalesced(self) -> bool:
        """Whether the indices ascend strictly; on a device the host waits for the answer."""
        return "_ascends" in self.__dict__ or bool((self.indices[1:] > self.indices[:-1]).all())

    @classmethod
    def _of(cls, indices: Any, rows: Any, shape: tuple[int, ...]) -> RowSparse:
        """Ascending indices and their rows, which have been checked."""
        made = object.__new__(cls)
        made.__dict__.update(indices=indices, rows=rows, shape=shape, _ascends=True)
        return made

    @classmethod
    def _again(cls, indices: Any, rows: Any, shape: tuple[int, ...]) -> RowSparse:
        """Coalesced, and checked as if it was new: who made the indices may have written into them since.

        Indices that ascend, as most do, are within their range if the first and the last are.
        """
        if (
            isinstance(indices, np.ndarray)
            and indices.size > 0
            and rows.shape == (indices.size, *shape[1:])
            and indices[0] >= 0
            and indices[-1] < shape[0]
            and (indices[1:] > indices[:-1]).all()
        ):
            return cls._of(indices, rows, shape)
        return cls(indices, rows, shape).coalesced()

    def astype(self, dtype: Any) -> RowSparse:
        """The same gradient with rows of another dtype."""
        return RowSparse(self.indices, self.rows.astype(dtype, copy=False), self.shape)

    def coalesced(self) -> RowSparse:
        """Ascending indices, each once; duplicates are added in the order in which they occur, from +0.

        Raises
        ------
        BackendError
            The gradient lies on a device; an optimizer adds its duplicates there.
        """
        if _is_cupys(self.rows):
            advice = "Step parameters of CuPy's with an Optimizer, or copy the gradient to the host yourself."
            raise BackendError("RowSparse", "rows on a device", "rows in host memory", advice)
        if self.is_coalesced:
            return self
        indices, place = np.unique(self.indices, return_inverse=True)
        rows = np.zeros((indices.size, *self.shape[1:]), self.rows.dtype)
        with np.errstate(over="ignore", invalid="ignore"):
            np.add.at(rows, place, self.rows)
        return RowSparse(indices, rows, self.shape)

    def to_dense(self) -> NDArray[Any]:
        """The gradient as a dense array."""
        g = self.coalesced()
        dense = np.zeros(self.shape, self.rows.dtype)
        dense[g.indices] = g.rows
        return dense

    @classmethod
    def from_dense(cls, g: NDArray[Any]) -> RowSparse:
        """The rows of ``g`` that hold anything but zeros (NaN counts as something)."""
        g = np.asarray(g)
        active = np.flatnonzero((g != 0).any(axis=tuple(range(1, g.ndim))))
        return cls(active, g[active], g.shape)

    @classmethod
    def from_csr(cls, indptr: Any, indices: Any, entries: Any, shape: tuple[int, ...]) -> RowSparse:
        """The rows of a matrix in compressed row storage that store an entry (a stored zero counts).

        Parameters
        ----------
        indptr : array of int, shape [m + 1]
            Row i stores the entries ``indptr[i]:indptr[i + 1]``.
        indices : array of int, shape [k]
            Their columns, in any order; entries of one place are added in the order in which they occur.
        entries : array, shape [k]
        shape : tuple of int
            (m, n).

        Raises
        ------
        RowIndexError
            A column is out of range.
        ShapeError
            ``shape`` is not that of a matrix, or ``indptr`` does not fit it.
        """
        where = "RowSparse.from_csr"
        indptr, indices = (
            _on_host(n, x).astype(np.int64) for n, x in (("indptr", indptr), ("indices", indices))
        )
        entries = _on_host("entries", entries)
        if len(shape) != 2 or indptr.shape != (shape[0] + 1,) or np.any(np.diff(indptr) < 0):
            got = f"shape {tuple(shape)} and offsets of shape {indptr.shape}"
            advice = "Pass the three arrays of one matrix."
            raise ShapeError(where, got, "(m, n) and m + 1 offsets that do not descend", advice)
        if indptr[0] != 0 or not indptr[-1] == indices.size == entries.size:
            got = f"offsets to {indptr[-1]}, {indices.size} columns and {entries.size} entries"
            raise ShapeError(where, got, "equal numbers", "Pass the three arrays of one matrix.")
        if indices.size and not (indices.min() >= 0 and indices.max() < shape[1]):
            bad = indices[(indices < 0) | (indices >= shape[1])][0]
            raise RowIndexError(where, f"column {bad}", f"columns in [0, {shape[1]})", "Check the matrix.")
        lengths = np.diff(indptr)
        active = np.flatnonzero(lengths)
        rows = np.zeros((active.size, shape[1]), entries.dtype)
        place = np.repeat(np.arange(active.size), lengths[active])
        with np.errstate(over="ignore", invalid="ignore"):
            np.add.at(rows, (place, indices), entries)
        return cls(active, rows, (shape[0], shape[1]))

    @classmethod
    def from_scipy(cls, matrix: Any) -> RowSparse:
        """A ``scipy.sparse`` matrix or array in CSR format; SciPy itself is not imported.

        Parameters
        ----------
        matrix : scipy.sparse.csr_array or csr_matrix, shape [m, n]
            Duplicate entries are added; the rows come out dense.

        Raises
        ------
        StructureError
            Not a matrix in CSR format.

        Examples
        --------
        >>> from scipy.sparse import csr_array
        >>> g = RowSparse.from_scipy(csr_array(([5.0, 7.0], ([2, 0], [1, 0])), shape=(4, 2)))
        >>> g.indices, g.rows
        (array([0, 2]), array([[7., 0.],
               [0., 5.]]))
        """
        found = getattr(matrix, "format", None)
        if found != "csr" or len(matrix.shape) != 2:
            got = f"a {type(matrix).__name__}" + (f" in {found} format" if isinstance(found, str) else "")
            advice = "Convert it with .tocsr(), or a dense gradient with RowSparse.from_dense."
            raise StructureError("RowSparse.from_scipy", got, "a matrix in CSR format", advice)
        return cls.from_csr(matrix.indptr, matrix.indices, matrix.data, matrix.shape)
