"""What an optimizer asks of arrays on a device, under the names of :mod:`memopt_ref.host`."""

from __future__ import annotations

from typing import Any

import numpy as np

from memopt_ref.errors import AliasError
from memopt_ref.memory import overlaps_itself
from memopt_ref.rules.base import Rule
from memopt_ref.rules.sketch_state import SketchedRule

from ..resolver import library_of
from . import count_sketch, engine
from .arrays import address, namespace, place, to_host
from .gradients import Gradients
from .state import init_leaf

__all__ = ["LIBRARY", "Gradients", "check", "check_step", "init_leaf", "placed", "shadow", "taken", "to_host"]

LIBRARY = "cupy"


def taken(w: Any) -> Any:
    """The array itself."""
    return w


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


def check_step(rule: Rule, path: str, w: Any, g: Any, state: dict[str, Any]) -> None:
    """Raise StabilityError if this step is known to diverge; the host may read row numbers."""
    if isinstance(rule, SketchedRule):
        count_sketch.check_step(rule, path, w, g, state)


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
