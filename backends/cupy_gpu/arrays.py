"""What the launch code asks of arrays, of NumPy (where kernels are simulated) and of CuPy alike."""

from __future__ import annotations

import contextlib
import sys
from typing import Any

import numpy as np

from ..resolver import library_of

#: How many small arrays stay on devices.
KEPT = 256

_kept: dict[tuple[Any, ...], Any] = {}


def namespace(array: Any) -> Any:
    """The module of the array's library, which is loaded since there is such an array."""
    return sys.modules["cupy" if library_of(array) == "cupy" else "numpy"]


def address(array: Any) -> int:
    """Where the first entry lies.

    Examples
    --------
    >>> x = np.zeros(3, np.float32)
    >>> address(x[1:]) - address(x)
    4
    """
    return int(array.ctypes.data if isinstance(array, np.ndarray) else array.data.ptr)


def zeros(like: Any, shape: Any, dtype: Any) -> Any:
    """New zeros where ``like`` lies."""
    with place(like):
        return namespace(like).zeros(shape, dtype)


def empty(like: Any, shape: Any, dtype: Any) -> Any:
    """A new array where ``like`` lies, for a kernel to write."""
    with place(like):
        return namespace(like).empty(shape, dtype)


def to_host(x: Any) -> Any:
    """A copy in the host's memory; what is there already as it is."""
    return namespace(x).asnumpy(x) if library_of(x) == "cupy" else x


def kept(like: Any, array: Any) -> Any:
    """A copy of a small array of the host, where ``like`` lies; the last few stay there.

    It is for kernels to read. Another stream has its own copy, since this one's may still be on its way.
    """
    cuda = namespace(like).cuda if library_of(like) == "cupy" else None
    where = None if cuda is None else (like.device.id, cuda.get_current_stream().ptr)
    key = where, array.dtype.str, array.shape, array.tobytes()
    if key not in _kept:
        while len(_kept) >= KEPT:
            _kept.pop(next(iter(_kept)), None)
        with place(like):
            _kept[key] = namespace(like).array(array)
    return _kept[key]


def place(like: Any) -> Any:
    """The device of an array as a context in which others are made."""
    if library_of(like) == "cupy":
        return namespace(like).cuda.Device(like.device.id)
    return contextlib.nullcontext()


def reach(array: Any) -> tuple[int, int]:
    """The first byte of an array's entries, and the one after the last.

    Examples
    --------
    >>> x = np.zeros(10, np.float32)
    >>> low, high = reach(x[8:2:-2])
    >>> low - address(x), high - address(x)
    (16, 36)
    """
    low = high = address(array)
    if array.size == 0:
        return low, low
    for length, stride in zip(array.shape, array.strides, strict=True):
        low += min(0, (length - 1) * stride)
        high += max(0, (length - 1) * stride)
    return low, high + array.itemsize


def overlap(x: Any, y: Any) -> bool:
    """Whether the memory of two arrays may have a byte in common."""
    (low, high), (other_low, other_high) = reach(x), reach(y)
    return low < other_high and other_low < high


def aligned(arrays: Any, most: int) -> int:
    """The largest power of two up to ``most`` of which every array's address can take packs.

    Examples
    --------
    >>> x = np.zeros(64, np.float32)
    >>> x = x[(-address(x) % 64) // 4 :]
    >>> aligned([x], 4), aligned([x, x[1:]], 4), aligned([x[2:]], 4)
    (4, 1, 2)
    """
    n = most
    while n > 1 and any(address(x) % (n * x.itemsize) for x in arrays):
        n //= 2
    return n
