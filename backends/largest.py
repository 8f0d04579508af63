"""The largest magnitude in arrays, by compiled code where that is loaded already, else by NumPy in pieces.

It is found as an integer: the bits of a floating-point number without its sign, which order as the numbers
do, with NaN above infinity.
"""

from __future__ import annotations

import functools
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

#: Entries that NumPy looks at together.
PIECE = 1 << 16


def largest(arrays: Sequence[Any]) -> int:
    """The image of the largest magnitude in arrays of one dtype; 0 if there is nothing.

    Parameters
    ----------
    arrays : sequence of ndarray
        Of one floating dtype of 16, 32 or 64 bits, and any layout.

    Notes
    -----
    One read; temporaries of 2^16 entries. Exact.

    Examples
    --------
    >>> number(largest([np.array([1.0, -3.0]), np.zeros((2, 2))]), np.dtype("float64"))
    array([3.])
    >>> largest([np.array([np.inf, 2.0])]) == infinity(np.dtype("float64")) < largest([np.array([-np.nan])])
    True
    """
    compiled = _load() if f"{__package__}.numba_cpu.engine" in sys.modules else None
    if compiled is None:
        return max(_top(x) for x in arrays)
    whole = [x for x in arrays if _in_one_piece(x)]
    top = compiled(whole) if whole else 0
    return top if len(whole) == len(arrays) else max(top, *(_top(x) for x in arrays if not _in_one_piece(x)))


def number(image: int, dtype: Any) -> Any:
    """An array of one entry: what an image is the image of."""
    native = dtype.newbyteorder("=")
    return np.array([image], f"u{native.itemsize}").view(native)


@functools.cache
def infinity(dtype: Any) -> int:
    """Infinity's image: finite numbers have smaller ones."""
    return int(np.array([np.inf]).astype(dtype.newbyteorder("=")).view(f"u{dtype.itemsize}")[0])


def _in_one_piece(x: Any) -> bool:
    flags = x.flags
    return bool((flags.c_contiguous or flags.f_contiguous) and flags.aligned and x.dtype.isnative)


def _top(x: Any) -> int:
    width = x.dtype.itemsize
    native = np.dtype(f"u{width}")
    bits = x.view(native if x.dtype.isnative else native.newbyteorder("S"))
    mask = native.type((1 << (8 * width - 1)) - 1)
    if x.size <= PIECE:
        return int((bits & mask).max(initial=0))
    pieces = np.nditer(bits, ["external_loop", "buffered"], order="K", buffersize=PIECE)
    return max(int((piece & mask).max()) for piece in pieces)


@functools.cache
def _load() -> Callable[[Sequence[Any]], int] | None:
    try:
        from .numba_cpu import largest as compiled

        compiled.largest([np.zeros(1, np.float32)])
    except Exception as error:
        what = f"the search for NaN cannot be compiled, NumPy does it instead ({error})"
        warnings.warn(f"memopt_ref: {what}", RuntimeWarning, stacklevel=2)
        return None
    return compiled.largest
