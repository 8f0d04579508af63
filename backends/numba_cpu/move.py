"""Part of an array into a small buffer and back: any strides, any kind of floating-point number.

One template each way, bound to the two kinds of numbers; only what a step needs is compiled.
"""

from __future__ import annotations

import functools
import types as python_types
from collections.abc import Callable
from typing import Any

from numba import types
from numba.core.typing import signature

from .bind import compiled_function
from .kinds import FLOAT32, NAMES
from .memory import as_int64
from .ways import WAYS

MOVE = signature(types.void, *[types.int64] * 7)


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
