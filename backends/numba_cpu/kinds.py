"""The kinds of floating-point numbers that compiled code tells apart, as small integers."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

FLOAT32, FLOAT64, BFLOAT16, FLOAT16 = 0, 1, 2, 3
NAMES = ("float32", "float64", "bfloat16", "float16")

_OF: dict[Any, int] = {
    np.dtype(np.float32): FLOAT32,
    np.dtype(np.float64): FLOAT64,
    np.dtype(ml_dtypes.bfloat16): BFLOAT16,
    np.dtype(np.float16): FLOAT16,
}


def kind_of(dtype: Any) -> int | None:
    """The kind of a dtype in the machine's byte order; None for any other.

    Examples
    --------
    >>> kind_of(np.dtype("float64")), kind_of(np.dtype(">f8")), kind_of(np.dtype("int32"))
    (1, None, None)
    """
    return _OF.get(dtype)
