"""Row-sparse gradients on a device: where their rows and row numbers lie, their sums and their dense form."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from memopt_ref.errors import BackendError
from memopt_ref.parts.row_sparse import RowSparse
from memopt_ref.parts.slots import compute_dtype

from ..resolver import describe, library_of
from . import prepare
from .arrays import namespace, zeros
from .device import device_of


def apart(w: Any, g: RowSparse) -> tuple[Any, Any]:
    """The rows and the row numbers of a gradient; duplicates are summed first, in the compute dtype.

    Raises
    ------
    BackendError
        They do not lie where the parameter does.
    """
    for name, x in (("rows", g.rows), ("indices", g.indices)):
        if library_of(x) != library_of(w):
            advice = "Copy them to the parameter's device: it is never done silently."
            raise BackendError(f"RowSparse {name}", describe(x), describe(w), advice)
    indices = namespace(w).ascontiguousarray(g.indices)
    if bool((indices[1:] > indices[:-1]).all()):
        return g.rows, indices
    return summed(indices, prepare.prepared(g.rows, compute_dtype(w.dtype), 1.0, False, 1.0))


def summed(indices: Any, rows: Any) -> tuple[Any, Any]:
    """Rows and ascending row numbers, each once: ``RowSparse.coalesced`` on a device.

    Examples
    --------
    >>> from memopt_ref.backends.cupy_gpu.device import RecordingDevice, instead
    >>> with instead(RecordingDevice()):
    ...     sums, indices = summed(np.array([2, 0, 2]), np.ones((3, 4), np.float32))
    >>> sums.shape, indices
    ((2, 4), array([0, 2]))
    """
    library = namespace(indices)
    # Row number and place as one number: whatever way it is sorted, places of one row ascend.
    both = indices * indices.size + library.arange(indices.size, dtype=np.int64)
    both.sort()
    sorted_, order = both // indices.size, both % indices.size
    begins = library.flatnonzero(sorted_[1:] != sorted_[:-1]) + 1
    first = zeros(indices, begins.size + 2, np.int64)
    first[1:-1], first[-1] = begins, indices.size
    sums = zeros(rows, (begins.size + 1, *rows.shape[1:]), rows.dtype)
    if sums.size:
        args = (rows, order, first, sums)
        sizes = np.int64(len(sums)), np.int64(prod(rows.shape[1:]))
        kernel = prepare.kernel("sum_rows", rows.dtype, rows.dtype)
        prepare.launch(device_of(rows), kernel, sums.size, (*args, *sizes))
    return sums, sorted_[first[:-1]]


def dense(w: Any, g: RowSparse) -> Any:
    """The gradient as a dense array of the compute dtype."""
    rows, indices = apart(w, g)
    whole = zeros(w, w.shape, compute_dtype(w.dtype))
    whole[indices] = prepare.prepared(rows, whole.dtype, 1.0, False, 1.0)
    return whole
