"""Checks of arrays that come from outside; each raises before anything is written."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

from .errors import DtypeError, ShapeError
from .parts.row_sparse import RowSparse

FLOATS = (np.dtype(np.float64), np.dtype(np.float32), np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16))


def check_parameter(path: str, w: Any) -> None:
    """Raise DtypeError unless ``w`` is an array of float64, float32, float16 or bfloat16 (or of objects)."""
    dtype = getattr(w, "dtype", None)
    # NumPy takes None for float64 in a comparison of dtypes.
    if dtype is None or (dtype not in FLOATS and dtype != object):
        got = f"a parameter of dtype {dtype}" if dtype is not None else f"a {type(w).__name__}"
        wanted = "an array of float64, float32, float16 or bfloat16"
        raise DtypeError(path or "parameter", got, wanted, "Convert it, or leave it out of the tree.")


def check_gradient(path: str, w: Any, g: Any) -> None:
    """Raise ShapeError or DtypeError unless ``g`` is a gradient for ``w``: None, RowSparse or an array."""
    if g is None:
        return
    where = path or "gradient"
    if not isinstance(g, RowSparse) and not hasattr(g, "dtype"):
        wanted = "an array, a RowSparse or None"
        raise DtypeError(
            where, f"a gradient of type {type(g).__name__}", wanted, "Convert it with numpy.asarray."
        )
    if tuple(g.shape) != tuple(w.shape):
        got, wanted = f"a gradient of shape {tuple(g.shape)}", f"shape {tuple(w.shape)}"
        raise ShapeError(where, got, wanted, "Pass the gradient of this very parameter.")
    if g.dtype not in FLOATS and g.dtype != object:
        wanted = "float64, float32, float16 or bfloat16"
        raise DtypeError(where, f"a gradient of dtype {g.dtype}", wanted, "Convert it to a floating dtype.")
