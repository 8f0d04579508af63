"""Where arrays lie in memory: what an in-place step has to know before it writes the first one."""

from __future__ import annotations

import sys
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.exceptions import TooHardError
from numpy.lib.array_utils import byte_bounds

from .backends.addresses import address_of
from .errors import AliasError, DtypeError, ReadOnlyError

#: Work that the exact overlap test may do; beyond it two arrays count as sharing.
MAX_WORK = 1 << 20


def check_writable(path: str, w: Any) -> None:
    """Raise unless ``w`` is a NumPy array that can be written in place, every entry on its own.

    Raises
    ------
    DtypeError
        A masked array, whose mask would be lost.
    ReadOnlyError
        A scalar, or an array that is not writeable.
    AliasError
        Two entries of ``w`` are one place in memory, as in a broadcast view.
    """
    where = path or "parameter"
    check_plain(where, w)
    if not isinstance(w, np.ndarray):
        advice = "Wrap it with numpy.asarray: a scalar cannot be stepped in place."
        raise ReadOnlyError(where, f"a {type(w).__name__}", "an array", advice)
    if not w.flags.writeable:
        advice = "Pass a copy; a view of bytes, a JAX array or a read-only file stays as it is."
        raise ReadOnlyError(where, "a read-only array", "an array that can be written in place", advice)
    if overlaps_itself(w):
        advice = "Pass numpy.array(w), a copy: one place cannot be stepped twice."
        raise AliasError(where, "an array whose entries share memory", "one place an entry", advice)


def check_plain(where: str, x: Any) -> None:
    """Raise DtypeError for a masked array: its mask would be lost."""
    # As long as nobody has loaded the module there is none, and to load it takes longer than a step.
    masked = sys.modules.get("numpy.ma")
    if masked is not None and isinstance(x, masked.MaskedArray):
        raise DtypeError(where, "a masked array", "a plain array", "Pass its data, or fill it first.")


def overlaps_itself(w: Any) -> bool:
    """Whether two entries of ``w`` share memory, as in a broadcast or a sliding view.

    Examples
    --------
    >>> overlaps_itself(np.ones((3, 4))[::2, ::-1]), overlaps_itself(np.broadcast_to(1.0, 3))
    (False, True)
    """
    if w.size == 0:
        return False
    axes = sorted((abs(stride), n) for stride, n in zip(w.strides, w.shape, strict=True) if n > 1)
    extent = w.itemsize
    for stride, n in axes:
        if stride < extent:
            break
        extent += stride * (n - 1)
    else:
        return False
    if w.size > MAX_WORK:
        return True
    places = np.zeros((), np.int64)
    for stride, n in zip(w.strides, w.shape, strict=True):
        places = np.add.outer(places, stride * np.arange(n))
    return bool(np.any(np.diff(np.sort(places, axis=None)) < w.itemsize))


def share(a: Any, b: Any) -> bool:
    """Whether two arrays share memory, exactly; yes where that would take too long to find out.

    Examples
    --------
    >>> x = np.zeros((4, 4))
    >>> share(x[:, ::2], x[:, 1::2]), share(x[:2], x[1:])
    (False, True)
    """
    try:
        return bool(np.shares_memory(a, b, max_work=MAX_WORK))  # type: ignore[arg-type]  # any int is allowed
    except TooHardError:
        return True


class Places:
    """The parameters of an optimizer by where they lie, so that what overlaps one is found quickly.

    Parameters
    ----------
    leaves : mapping of path to array

    Raises
    ------
    AliasError
        Two leaves share memory. Interleaved views that do not overlap are fine.

    Examples
    --------
    >>> x = np.zeros(6)
    >>> list(Places({"a": x[:3], "b": x[3:]}).overlapping(x[2:4]))
    ['a', 'b']
    """

    def __init__(self, leaves: Mapping[str, Any]) -> None:
        spans = sorted((*byte_bounds(w), path) for path, w in leaves.items() if w.size)
        self._leaves = leaves
        self._starts = [start for start, _, _ in spans]
        # No span before the first whose running maximum exceeds an address reaches that address.
        self._reach = list(accumulate((end for _, end, _ in spans), max))
        self._paths = [path for _, _, path in spans]
        for path, w in leaves.items():
            others = [other for other in self.overlapping(w) if other != path]
            if others:
                advice = "Tied weights are one leaf: keep one of them and add their gradients."
                got = f"memory that {others[0]!r} has too"
                raise AliasError(path or "parameter", got, "leaves that do not share memory", advice)

    def reached(self, x: Any) -> bool:
        """Whether ``x`` shares memory with a leaf."""
        if type(x) is np.ndarray and x.flags.c_contiguous:
            # Most gradients: their bounds are known at once, and there is no leaf between them.
            low = address_of(x)
            if bisect_right(self._reach, low) >= bisect_left(self._starts, low + x.nbytes):
                return False
        return any(True for _ in self.overlapping(x))

    def overlapping(self, x: Any) -> Iterator[str]:
        """Paths of the leaves that share memory with ``x``, in the order of their addresses."""
        if x.size:
            low, high = byte_bounds(x)
            for k in range(bisect_right(self._reach, low), bisect_left(self._starts, high)):
                if share(x, self._leaves[self._paths[k]]):
                    yield self._paths[k]
