"""Numbers, their images as integers, and the ring's own formats, by the type of the memory they lie in.

MicroAdam's loops are written once for float32 and float64, and for a window of bfloat16, float32 or float64:
what differs follows from the type of a pointer.
"""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np
from numba import types
from numba.extending import intrinsic, overload

from .halves import from_bfloat16, to_bfloat16
from .options import STRICT
from .scalar import choose

_IMAGES = {types.float32: types.uint32, types.float64: types.uint64}


@intrinsic
def number_at(typing_context: Any, pointer: Any, x: Any) -> Any:
    """``x`` converted to what the pointer points to."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return context.cast(builder, arguments[1], signature.args[1], signature.return_type)

    return pointer.dtype(pointer, x), generate


@intrinsic
def image_of(typing_context: Any, x: Any) -> Any:
    """The bits of a float as an unsigned integer."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], context.get_value_type(signature.return_type))

    return _IMAGES[x](x), generate


@intrinsic
def of_image(typing_context: Any, pointer: Any, x: Any) -> Any:
    """The float of an image, of the type that the pointer points to."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        image = context.cast(builder, arguments[1], signature.args[1], _IMAGES[signature.return_type])
        return builder.bitcast(image, context.get_value_type(signature.return_type))

    return pointer.dtype(pointer, x), generate


@numba.njit(**STRICT)
def infinity(pointer: Any) -> Any:
    """The image of infinity."""
    return image_of(number_at(pointer, math.inf))


@numba.njit(**STRICT)
def sign_of(pointer: Any) -> Any:
    """The image of -0."""
    return image_of(number_at(pointer, -0.0))


def kept_at(ring: Any, place: int, like: Any) -> Any:
    """The number in the ring, as what ``like`` points to."""
    raise NotImplementedError


@overload(kept_at, jit_options=STRICT)
def _kept_at(ring: Any, place: Any, like: Any) -> Any:
    if ring.dtype == types.uint16:

        def value(ring: Any, place: Any, like: Any) -> Any:
            return number_at(like, from_bfloat16(ring[place]))

    else:

        def value(ring: Any, place: Any, like: Any) -> Any:
            return number_at(like, ring[place])

    return value


def keep_at(ring: Any, place: int, x: Any) -> None:
    """Round ``x`` to the ring's format; float64 to bfloat16 by way of float32, as ml_dtypes does."""
    raise NotImplementedError


@overload(keep_at, jit_options=STRICT)
def _keep_at(ring: Any, place: Any, x: Any) -> Any:
    if ring.dtype == types.uint16:

        def store(ring: Any, place: Any, x: Any) -> Any:
            ring[place] = to_bfloat16(np.float32(x))

    else:

        def store(ring: Any, place: Any, x: Any) -> Any:
            ring[place] = number_at(ring, x)

    return store


@numba.njit(**STRICT)
def magnitude(keys: Any, like: Any, x: Any) -> Any:
    """The image of ``|x|``, any NaN one past infinity: what Top-K compares."""
    image, last = image_of(abs(x)), infinity(like)
    return choose(image > last, number_at(keys, np.int64(last) + 1), image)
