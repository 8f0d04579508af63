"""The ways of a number from an array's kind to the kernel's and back: how it is read, widened and rounded."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from .halves import from_bfloat16, from_float16, to_bfloat16, to_float16
from .kinds import BFLOAT16, FLOAT16, FLOAT32, FLOAT64
from .memory import as_float32, as_float64, as_uint16, as_uint32, as_uint64
from .options import STRICT


@numba.njit(**STRICT)
def same(x: Any) -> Any:
    """The number itself."""
    return x


@numba.njit(**STRICT)
def to_single(x: Any) -> Any:
    """Rounded to float32."""
    return np.float32(x)


@numba.njit(**STRICT)
def to_double(x: Any) -> Any:
    """Widened to float64."""
    return np.float64(x)


@numba.njit(**STRICT)
def bfloat16_to_double(x: Any) -> Any:
    """Widened twice."""
    return np.float64(from_bfloat16(x))


@numba.njit(**STRICT)
def float16_to_double(x: Any) -> Any:
    """Widened twice."""
    return np.float64(from_float16(x))


#: (array's kind, kernel's kind): pointer to the array, to the kernel's numbers, and the way in and out.
#: Numbers of one kind are moved as integers.
WAYS: dict[tuple[int, int], tuple[Any, Any, Any, Any]] = {
    (FLOAT32, FLOAT32): (as_uint32, as_uint32, same, same),
    (FLOAT64, FLOAT64): (as_uint64, as_uint64, same, same),
    (BFLOAT16, FLOAT32): (as_uint16, as_float32, from_bfloat16, to_bfloat16),
    (FLOAT16, FLOAT32): (as_uint16, as_float32, from_float16, to_float16),
    (FLOAT64, FLOAT32): (as_float64, as_float32, to_single, None),
    (FLOAT32, FLOAT64): (as_float32, as_float64, to_double, None),
    (BFLOAT16, FLOAT64): (as_uint16, as_float64, bfloat16_to_double, None),
    (FLOAT16, FLOAT64): (as_uint16, as_float64, float16_to_double, None),
}
