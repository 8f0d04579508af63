"""What an optimizer asks of arrays on a device, under the names of :mod:`memopt_ref.host`."""

from __future__ import annotations

from typing import Any

import numpy as np

from memopt_ref.errors import AliasError
from memopt_ref.memory import overlaps_itself

from ..resolver import library_of
from . import engine
from .arrays import address, namespace, place
from .prepare import Gradients
from .state import init_leaf

__all__ = ["LIBRARY", "Gradients", "check", "init_leaf", "placed", "shadow", "taken", "to_host"]

LIBRARY = "cupy"


def taken(w: Any) -> Any:
    """The array itself."""
    return w


def to_host(x: Any) -> Any:
    """A copy in the host's memory, which a checkpoint is written from; counters are there already."""
    return namespace(x).asnumpy(x) if library_of(x) == "cupy" else x


def placed(x: Any, w: Any) -> Any:
    """A copy on the device of ``w``; counters stay on the host."""
    if not isinstance(x, np.ndarray) or library_of(w) != "cupy":
        return x
    with place(w):
        return namespace(w).asarray(x)


def check(path: str, w: Any, first: Any) -> None:
    """Raise unless a parameter can be stepped in place, on the device of the first.

    Raises
    ------
    BackendError
        It is on another device, or of another library.
    AliasError
        Two entries of ``w`` are one place in memory, as in a broadcast view.
    """
    where = path or "parameter"
    engine.same_place(first, where, w)
    if overlaps_itself(w):
        advice = "Pass a copy: one place cannot be stepped twice."
        raise AliasError(where, "an array whose entries share memory", "one place an entry", advice)


class _Place:
    """A stretch of memory in the form that NumPy takes addresses in."""

    def __init__(self, x: Any) -> None:
        self.__array_interface__ = {
            "version": 3,
            "shape": x.shape,
            "strides": x.strides,
            "typestr": f"|V{x.itemsize}",
            "data": (address(x), True),
        }


def shadow(x: Any) -> Any:
    """A NumPy array that says where ``x`` lies and is not to be read: its memory may not be the host's.

    Examples
    --------
    >>> x = np.zeros((3, 4), np.float32)
    >>> np.shares_memory(shadow(x[:2]), shadow(x[1:]))
    True
    >>> np.shares_memory(shadow(x[:, ::2]), shadow(x[:, 1::2]))
    False
    """
    return np.asarray(_Place(x)) if x.size else np.zeros(0)
