"""What an optimizer asks of arrays in the host's memory; ``backends.cupy_gpu.leaves`` answers for a device.

LIBRARY                    whose arrays they are
check(path, w, first)      raises unless ``w`` can be stepped in place, where the first parameter lies
taken(w)                   the array that is stepped
shadow(x)                  a NumPy array that says where ``x`` lies
init_leaf(rule, w, path)   a leaf's first state
to_host(x), placed(x, w)   for a checkpoint, and back beside ``w``
Gradients                  the gradients of one step
check_step(rule, path, w, g, state)  raises if the rule knows that this step diverges
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .gradients import Gradients
from .memory import check_writable
from .rules.base import Rule

__all__ = ["LIBRARY", "Gradients", "check", "check_step", "init_leaf", "placed", "shadow", "taken", "to_host"]

LIBRARY = "numpy"


def check(path: str, w: Any, first: Any) -> None:
    """Raise unless ``w`` is a NumPy array that can be written in place; see ``memory.check_writable``."""
    check_writable(path, w)


def taken(w: Any) -> Any:
    """The array itself, without a subclass."""
    return np.asarray(w)


def shadow(x: Any) -> Any:
    """The array itself."""
    return x


def init_leaf(rule: Rule, w: Any, path: str) -> dict[str, Any]:
    """The rule's own."""
    return rule.init_leaf(w, path)


def to_host(x: Any) -> Any:
    """The array itself."""
    return x


def placed(x: Any, w: Any) -> Any:
    """The array itself."""
    return x


def check_step(rule: Rule, path: str, w: Any, g: Any, state: dict[str, Any]) -> None:
    """The rule's own."""
    rule.check_step(path, w, g, state)
