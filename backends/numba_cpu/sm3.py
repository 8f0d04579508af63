"""SM3-II over the axes of a tensor of any rank, from the rule's expressions: in place, one pass.

A tensor is a matrix once its axes are split in two groups: an entry's least accumulator is the least of the
two groups' least, and an axis's new accumulators are maxima of its group's. A vector's accumulators are its
own entries', so it needs no maxima.
"""

from __future__ import annotations

import sys
from math import prod
from typing import Any

import numpy as np

from memopt_ref.parts.covers import AxisCover
from memopt_ref.parts.row_sparse import RowSparse
from memopt_ref.parts.slots import compute_dtype
from memopt_ref.rules import rows
from memopt_ref.rules.base import Rule
from memopt_ref.rules.sm3 import SM3

from .. import numpy_ref
from ..registry import Variant
from . import elementwise
from .elementwise import WAKE
from .kinds import kind_of

_REPLACED = (
    "step",
    "sm3_ii",
    "slots",
    "values",
    "values_dense",
    "advance",
    "decayed",
    "decay_rate",
    "rests",
    "_never_falls",
)


def supports(rule: Rule, shape: tuple[int, ...], dtype: Any) -> tuple[bool, str]:
    """SM3-II with the paper's cover, with or without momentum, average and decay."""
    if not isinstance(rule, SM3):
        return False, ""
    reason = elementwise._broken or _refusal(rule, dtype)
    return not reason, reason or "one pass over the tensor as a matrix"


def _refusal(rule: SM3, dtype: Any) -> str:
    own = [name for name in _REPLACED if getattr(type(rule), name) is not getattr(SM3, name)]
    if own:
        return f"{rule.name} has a {own[0]}() of its own"
    if rule.variant != "II":
        return "SM3-I takes two passes, and no kernel does"
    if type(rule.cover) is not AxisCover:
        return f"no kernel for {type(rule.cover).__name__}"
    if kind_of(np.dtype(dtype)) is None:
        return f"no kernel for {np.dtype(dtype)}"
    return ""


def step(rule: Rule, w: Any, g: Any, state: dict[str, Any]) -> None:
    """Step one tensor in place, or only the rows of a row-sparse gradient where the rule's step is lazy."""
    asleep = w.size < WAKE and f"{__package__}.engine" not in sys.modules
    if asleep or elementwise._loaded() is None:
        numpy_ref.step(rule, w, g, state)
        return
    from . import sm3_engine

    indices, dense = None, g
    if isinstance(g, RowSparse):
        g = g if g.is_coalesced else g.astype(compute_dtype(w.dtype)).coalesced()
        if rows.lazy(rule, w.shape, w.dtype)[0]:
            dense, indices = g.rows, g.indices
        else:
            dense = g.to_dense()
    if not sm3_engine.step(rule, w, dense, state, indices):  # type: ignore[arg-type]  # supports() has seen to it
        numpy_ref.step(rule, w, g, state)


def split(lengths: tuple[int, ...]) -> int:
    """How many leading axes make the rows, so that rows and columns are as few as can be.

    Examples
    --------
    >>> split((64, 32, 3, 3)), split((100, 7)), split((2, 3, 500))
    (1, 1, 2)
    """
    if len(lengths) < 2:
        return len(lengths)
    return min(range(1, len(lengths)), key=lambda s: prod(lengths[:s]) + prod(lengths[s:]))


VARIANTS = (Variant(name="numba.sm3", numerics="bitwise", supports=supports, step=step),)
