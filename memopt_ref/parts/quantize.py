r"""A b-bit quantiser with one minimum and one maximum a bucket: what holds MicroAdam's error feedback.

I. Modoranu, M. Safaryan, G. Malinovsky, E. Kurtic, T. Robert, P. Richtarik and D. Alistarh, "MicroAdam:
accurate adaptive optimization with low space overhead and provable convergence", NeurIPS 2024: the
procedures Q and Q^{-1}.

    delta = min x,  Delta = max x          of a bucket, rounded to the dtype in which they are kept
    inv = (2^b - 1) / (Delta - delta)      0 if Delta = delta
    y = (x - delta) * inv                  clamped to [0, 2^b - 1]
    code = floor(y + 1/2)                  nearest
    code = floor(y) + [xi < y - floor(y)]  stochastic: xi ~ U[0, 1), right in the mean
    u = (Delta - delta) / (2^b - 1)
    x' = code * u + delta

Choices that every backend has to meet: the multiplication by a reciprocal (the paper divides; codes can
differ only next to a tie); the clamp, which bounds in bfloat16 make necessary for float32 numbers; ``+
0.0`` on both bounds, so that a bound of zero has one sign; a NaN in a bucket makes both bounds NaN, so that
no backend hides it; y = NaN has code 0; xi compared with the fraction rather than added to y, since y + xi
would round and lift exact codes.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from . import fields
from .random import uniform

DTYPES = {
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float32": np.dtype(np.float32),
    "float64": np.dtype(np.float64),
}


def pack(codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Two 4-bit codes a byte: entry 2i in the high half, 2i + 1 in the low (as the authors' kernels do).

    Eight neighbours are one aligned 32-bit word, whatever the bucket. An odd last entry leaves the low half
    of its byte 0.

    Examples
    --------
    >>> [hex(byte) for byte in pack(np.array([1, 2, 15], np.uint8))]
    ['0x12', '0xf0']
    """
    packed = np.zeros((codes.size + 1) // 2, np.uint8)
    packed |= codes[0::2] << np.uint8(4)
    packed[: codes.size // 2] |= codes[1::2]
    return packed


def unpack(packed: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """The first ``size`` codes of what :func:`pack` made.

    Examples
    --------
    >>> unpack(np.array([0x12, 0xF0], np.uint8), 3)
    array([ 1,  2, 15], dtype=uint8)
    """
    codes = np.empty(2 * packed.size, np.uint8)
    codes[0::2] = packed >> np.uint8(4)
    codes[1::2] = packed & np.uint8(15)
    return codes[:size]


@dataclasses.dataclass(frozen=True)
class Quantiser:
    """Bucket-wise quantiser between minimum and maximum.

    Parameters
    ----------
    bits : int
        b in [1, 16].
    bucket : int
        Entries that share a minimum and a maximum, >= 1; buckets run over the flattened tensor, the last
        may be shorter.
    rounding : {"nearest", "stochastic"}
        Nearest (half up) is what the authors run; stochastic is what their theorem assumes.
    bounds_dtype : {"bfloat16", "float32", "float64", None}
        How the bounds are kept, rounded to nearest even; None keeps the dtype of the numbers. Only bounds
        that are not rounded inwards leave stochastic rounding unbiased at the ends of a bucket.

    Notes
    -----
    With exact bounds: |x' - x| <= u/2 (nearest) or < u (stochastic), and the ends of a bucket are exact, so
    ||Q(x) - x|| <= :meth:`omega` * ||x||, surely. Numerics: bitwise.

    Examples
    --------
    >>> q = Quantiser(bits=2, bucket=4, bounds_dtype=None)
    >>> q(np.array([0.0, 1.0, 1.6, 3.0]))
    array([0., 1., 2., 3.])
    """

    bits: int = fields.integer(4, 1, 16)
    bucket: int = fields.integer(64, 1)
    rounding: str = fields.choice("nearest", "stochastic")
    bounds_dtype: str | None = fields.choice(*DTYPES, None)

    def __post_init__(self) -> None:
        fields.check_fields(self)

    @property
    def levels(self) -> int:
        """2^b - 1, the largest code."""
        return (1 << self.bits) - 1

    def buckets(self, size: int) -> int:
        """Number of buckets of a vector of this size."""
        return -(-size // self.bucket)

    def omega(self, size: int | None = None) -> float:
        """The constant of ||Q(x) - x|| <= omega ||x|| for exact bounds: sqrt(2 (B - 2)) / (2^b - 1).

        The two ends of a bucket of B entries are exact, the others err by at most u, and ||x||^2 is at least
        delta^2 + Delta^2 >= (Delta - delta)^2 / 2. ``size``: length of the vector, if shorter than a bucket.
        """
        entries = self.bucket if size is None else min(self.bucket, size)
        return math.sqrt(2 * max(entries - 2, 0)) / self.levels

    def bounds(self, x: Any) -> tuple[Any, Any]:
        """(delta, Delta) of each bucket of the flat vector ``x``, in the dtype in which they are kept."""
        starts = np.arange(0, x.size, self.bucket)
        exact = self.bounds_dtype is None or x.dtype == object
        dtype = x.dtype if exact else DTYPES[str(self.bounds_dtype)]
        zero = 0 if x.dtype == object else x.dtype.type(0)
        low, high = (extreme.reduceat(x, starts) + zero for extreme in (np.minimum, np.maximum))
        return low.astype(dtype), high.astype(dtype)

    def _spread(self, per_bucket: Any, size: int) -> Any:
        return np.repeat(per_bucket, self.bucket)[:size]

    def noise(self, seed: int, t: int, size: int) -> NDArray[np.float32] | None:
        """xi for stochastic rounding: a function of (seed, t, index); None for rounding to nearest."""
        return uniform(seed, t, size) if self.rounding == "stochastic" else None

    def encode(self, x: Any, low: Any, high: Any, xi: Any = None) -> Any:
        """Codes of the flat vector ``x``, one an entry: uint8, or uint16 for more than 8 bits."""
        low, high = low.astype(x.dtype), high.astype(x.dtype)
        number = (lambda value: value) if x.dtype == object else x.dtype.type
        span = high - low
        inverse = np.where(span == 0, number(0), number(self.levels) / np.where(span == 0, number(1), span))
        y = (x - self._spread(low, x.size)) * self._spread(inverse, x.size)
        y = np.where(y > 0, y, number(0))
        y = np.where(y < number(self.levels), y, number(self.levels))
        dtype = np.uint8 if self.bits <= 8 else np.uint16
        if xi is None:
            return (y + number(0.5)).astype(dtype)
        below = y.astype(dtype)
        return below + (xi.astype(x.dtype) < y - below.astype(x.dtype)).astype(dtype)

    def decode(self, codes: Any, low: Any, high: Any, dtype: Any) -> Any:
        """The numbers that the codes stand for, in ``dtype``."""
        low, high = low.astype(dtype), high.astype(dtype)
        unit = (high - low) / (self.levels if low.dtype == object else low.dtype.type(self.levels))
        return codes.astype(dtype) * self._spread(unit, codes.size) + self._spread(low, codes.size)

    def __call__(self, x: Any, xi: Any = None) -> Any:
        """Q(x) as numbers, in the shape and dtype of ``x``; ``xi``: stochastic rounding (:meth:`noise`)."""
        flat = x.reshape(-1)
        low, high = self.bounds(flat)
        return self.decode(self.encode(flat, low, high, xi), low, high, x.dtype).reshape(x.shape)
