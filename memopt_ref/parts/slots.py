"""The declaration of one piece of a rule's state, made before anything is allocated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

#: Bytes of a page of memory, and of a huge one.
PAGE, HUGE_PAGE = 2**12, 2**21

Start = float | Callable[[Any, int], Any]


@dataclass(frozen=True)
class Slot:
    """One array (or counter) that a rule keeps for one tensor.

    Parameters
    ----------
    shape : tuple of int
        Shape of the array; ``()`` for a scalar.
    dtype : dtype
        Exactly as stored. A 0-d integer slot is a counter or a seed and is held as a host scalar.
    axes : tuple of int, optional
        The parameter's axis behind each axis of the slot: ``(0, 1)`` for an element-wise accumulator of a
        matrix, ``(1,)`` for one number a column. None when the slot is not indexed by the parameter's axes.
    merge : {"same", "max", "sum"}, optional
        How copies that saw parts of one gradient join: they are equal, or join by maximum, or by addition.
    start : float or function of (w, seed)
        The value before the first step.

    Examples
    --------
    >>> Slot((3, 4), np.dtype("float32"), axes=(0, 1)).nbytes
    48
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    axes: tuple[int, ...] | None = None
    merge: str | None = None
    start: Start = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "dtype", np.dtype(self.dtype))
        assert self.merge in (None, "same", "max", "sum"), self.merge
        assert self.axes is None or len(self.axes) == len(self.shape), (self.axes, self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the slot, from its declaration alone."""
        return prod(self.shape) * self.dtype.itemsize

    @property
    def is_counter(self) -> bool:
        """Whether this is a counter or a seed: a 0-d integer, kept on the host on every backend."""
        return self.shape == () and self.dtype.kind in "iu"

    def begin(self, w: Any, seed: int) -> Any:
        """Allocate the slot for the parameter ``w``, filled with its starting value."""
        value = self.start(w, seed) if callable(self.start) else self.start
        if self.is_counter:
            return self.dtype.type(value)
        if self.dtype == object and w.size and isinstance(value, int | float):
            # An object of the parameter's kind: 0.0 would turn fractions into floats.
            value = w.reshape(-1)[0] * 0 + (int(value) if value == int(value) else value)
        # An element-wise slot lies in memory as its parameter does, so that a step walks both in one order.
        alike = isinstance(w, np.ndarray) and w.shape == self.shape
        array = np.empty_like(w, self.dtype, subok=False) if alike else aligned(self.shape, self.dtype)
        array[...] = value
        return array


def aligned(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
    """An array that begins where a page of memory does, if it is large: NumPy's own begin 16 bytes after one.

    A compiled loop that reads pieces of a sketch at random places reads a cache line or two less of each, and
    finds more of a very large one, which begins with a huge page, in the tables of addresses.

    >>> x = aligned((300, 100), np.dtype(np.float32))
    >>> x.shape, x.ctypes.data % 4096
    ((300, 100), 0)
    """
    nbytes = prod(shape) * dtype.itemsize
    if dtype == object or nbytes < 2**16:
        return np.empty(shape, dtype)
    page = HUGE_PAGE if nbytes >= 8 * HUGE_PAGE else PAGE
    memory = np.empty(nbytes + page, np.uint8)
    start = -memory.ctypes.data % page
    return memory[start : start + nbytes].view(dtype).reshape(shape)


def counter(start: Start = 0) -> Slot:
    """A tensor's own step counter ``t``, or a seed: a 64-bit host scalar.

    >>> counter().is_counter
    True
    """
    return Slot((), np.dtype(np.int64), merge="same", start=start)


def seed_slot() -> Slot:
    """The leaf's 64-bit seed, derived from the rule's seed and the leaf's path.

    >>> seed_slot().dtype
    dtype('uint64')
    """
    return Slot((), np.dtype(np.uint64), merge="same", start=lambda w, seed: seed)


def like_parameter(shape: tuple[int, ...], dtype: np.dtype[Any], start: Start = 0.0) -> Slot:
    """An element-wise slot: one number for each entry of the parameter, in the accumulator's dtype.

    >>> import numpy as np
    >>> like_parameter((2, 3), np.dtype("float16")).dtype
    dtype('float32')
    """
    return Slot(shape, accumulator_dtype(dtype), axes=tuple(range(len(shape))), merge="same", start=start)


def compute_dtype(dtype: Any) -> np.dtype[Any]:
    """The dtype in which a parameter of this dtype is stepped: at least float32; objects stay objects.

    >>> import ml_dtypes, numpy as np
    >>> compute_dtype(ml_dtypes.bfloat16), compute_dtype("float64")
    (dtype('float32'), dtype('float64'))
    """
    dtype = np.dtype(dtype)
    return dtype if dtype == np.float64 or dtype == object else np.dtype(np.float32)


def zeros_like(x: Any) -> Any:
    """Zeros of the shape and dtype of ``x``; among objects (fractions, 50-digit numbers) zeros of their kind.

    >>> zeros_like(np.array([0.5, np.nan]))
    array([0., 0.])
    """
    return x * 0 if x.dtype == object else np.zeros_like(x)


def accumulator_dtype(dtype: Any) -> np.dtype[Any]:
    """The dtype of an accumulator beside a parameter of this dtype (the same rule as for computing)."""
    return compute_dtype(dtype)
