"""16-bit floating-point numbers as integers: there and back, with the bits of NumPy and ml_dtypes.

Compiled code has no bfloat16, and float16 only on some processors. Both are exact when widened, and rounded
to nearest, ties to even, when narrowed. No function here has a branch, so that loops over it are vectorised.
NaN stays NaN (its payload may change).
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numba import types
from numba.extending import intrinsic

from .options import STRICT
from .scalar import choose


def _same_bits_as(kind: Any) -> Any:
    @intrinsic
    def same_bits(typing_context: Any, x: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.bitcast(arguments[0], context.get_value_type(kind))

        return kind(x), generate

    return same_bits


bits_of, float_of = _same_bits_as(types.uint32), _same_bits_as(types.float32)

INFINITY = np.uint32(0x7F800000)
MAGNITUDE = np.uint32(0x7FFFFFFF)
#: 2^-14, float16's smallest normal number, as float32.
SMALLEST = np.float32(2.0**-14)
#: A float32 whose last place is 2^-24, that of float16's subnormal numbers: adding it rounds to that place.
ROUNDS_TO_SUBNORMAL = np.float32(0.5)


@numba.njit(**STRICT)
def from_bfloat16(x: Any) -> Any:
    """float32 of a bfloat16: its upper half."""
    return float_of(np.uint32(np.uint32(x) << np.uint32(16)))


@numba.njit(**STRICT)
def to_bfloat16(x: Any) -> Any:
    """bfloat16 of a float32; rounding would carry a NaN of low payload into infinity."""
    bits = bits_of(x)
    rounded = np.uint32(bits + np.uint32(0x7FFF) + (np.uint32(bits >> np.uint32(16)) & np.uint32(1)))
    quiet = np.uint32(bits | np.uint32(0x400000))
    return np.uint16(choose((bits & MAGNITUDE) > INFINITY, quiet, rounded) >> np.uint32(16))


@numba.njit(**STRICT)
def from_float16(x: Any) -> Any:
    """float32 of a float16; a subnormal one is built as a sum with 2^-14, and the sum taken back exactly."""
    half = np.uint32(x)
    sign = np.uint32((half & np.uint32(0x8000)) << np.uint32(16))
    shifted = np.uint32((half & np.uint32(0x7FFF)) << np.uint32(13))
    exponent = np.uint32(shifted & np.uint32(0x0F800000))
    normal = np.uint32(shifted + np.uint32((127 - 15) << 23))
    special = np.uint32(shifted + np.uint32((255 - 31) << 23))
    subnormal = bits_of(np.float32(float_of(np.uint32(shifted + np.uint32(113 << 23))) - SMALLEST))
    finite = choose(exponent == np.uint32(0), subnormal, normal)
    return float_of(np.uint32(sign | choose(exponent == np.uint32(0x0F800000), special, finite)))


@numba.njit(**STRICT)
def to_float16(x: Any) -> Any:
    """float16 of a float32: infinity from 65520 on, subnormal below 2^-14."""
    bits = bits_of(x)
    sign = np.uint32(np.uint32(bits & np.uint32(0x80000000)) >> np.uint32(16))
    size = np.uint32(bits & MAGNITUDE)
    odd = np.uint32(np.uint32(size >> np.uint32(13)) & np.uint32(1))
    # The exponent's bias falls by 112; half a unit less one, and one more if odd, rounds ties to even.
    normal = np.uint32(np.uint32(size - np.uint32(112 << 23) + np.uint32(0xFFF) + odd) >> np.uint32(13))
    small = np.uint32(
        bits_of(np.float32(float_of(size) + ROUNDS_TO_SUBNORMAL)) - bits_of(ROUNDS_TO_SUBNORMAL)
    )
    finite = choose(float_of(size) < SMALLEST, small, normal)
    large = choose(size > INFINITY, np.uint32(0x7E00), np.uint32(0x7C00))
    return np.uint16(sign | choose(size >= np.uint32(0x477FF000), large, finite))
