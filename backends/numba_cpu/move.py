"""Part of an array into a small buffer and back: any strides, any kind of floating-point number.

One template each way, bound to the two kinds of numbers; only what a step needs is compiled.
"""

from __future__ import annotations

import functools
import types as python_types
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numba import types
from numba.core.typing import signature

from .bind import compiled_function
from .halves import from_bfloat16, from_float16, to_bfloat16, to_float16
from .kinds import BFLOAT16, FLOAT16, FLOAT32, FLOAT64, NAMES
from .memory import as_float32, as_float64, as_int64, as_uint16, as_uint32, as_uint64
from .options import STRICT

MOVE = signature(types.void, *[types.int64] * 7)


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


#: (array's kind, kernel's kind): pointer to the array, to the buffer, and the numbers' way in and out.
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

# Bound anew in every copy of the templates.
as_array, as_buffer, convert = WAYS[FLOAT32, FLOAT32][:3]


def gather(array: int, down: int, right: int, rows: int, columns: int, chosen: int, buffer: int) -> None:
    """Entries of ``rows`` rows, those listed at the address ``chosen`` or the first ones, into a buffer."""
    source, target, listed = as_array(array), as_buffer(buffer), as_int64(chosen)
    if chosen == 0 and abs(down) < abs(right):
        # Along the array's own rows: the buffer is near, the array is not.
        for j in range(columns):
            for i in range(rows):
                target[i * columns + j] = convert(source[i * down + j * right])
    else:
        for i in range(rows):
            row = listed[i] if chosen != 0 else i
            for j in range(columns):
                target[i * columns + j] = convert(source[row * down + j * right])


def scatter(array: int, down: int, right: int, rows: int, columns: int, chosen: int, buffer: int) -> None:
    """The way back."""
    source, target, listed = as_buffer(buffer), as_array(array), as_int64(chosen)
    if chosen == 0 and abs(down) < abs(right):
        for j in range(columns):
            for i in range(rows):
                target[i * down + j * right] = convert(source[i * columns + j])
    else:
        for i in range(rows):
            row = listed[i] if chosen != 0 else i
            for j in range(columns):
                target[row * down + j * right] = convert(source[i * columns + j])


@functools.cache
def mover(inwards: bool, kind: int, native: int) -> Any:
    """The compiled gather (or scatter) between arrays of a kind and buffers of the kernel's kind."""
    array, buffer, way_in, way_out = WAYS[kind, native]
    template: Callable[..., None] = gather if inwards else scatter
    bound = {"as_array": array, "as_buffer": buffer, "convert": way_in if inwards else way_out}
    copy = python_types.FunctionType(template.__code__, {**globals(), **bound}, template.__name__)
    return compiled_function(copy, MOVE, f"{template.__name__}-{NAMES[kind]}-{NAMES[native]}")
