"""SM3-II over the axes of a tensor of any rank, from the rule's expressions: in place, one pass.

A tensor is a matrix once its axes are split in two groups: an entry's least accumulator is the least of the
two groups' least, and an axis's new accumulators are maxima of its group's. A vector's accumulators are its
own entries', so it needs no maxima.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from memopt_ref.parts.covers import AxisCover
from memopt_ref.parts.row_sparse import RowSparse
from memopt_ref.parts.slots import compute_dtype
from memopt_ref.rules import rows
from memopt_ref.rules.base import Rule
from memopt_ref.rules.sm3 import SM3

from .. import numpy_ref
from ..registry import Leaf, Variant
from . import elementwise
from .admit import of_family
from .elementwise import THREADS

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
    reason = elementwise._broken or refusal(rule, dtype)
    return not reason, reason or "one pass over the tensor as a matrix"


def refusal(rule: SM3, dtype: Any) -> str:
    """Why no kernel steps this rule's tensors of a dtype; empty if one does."""
    if reason := of_family(rule, SM3, _REPLACED, dtype):
        return reason
    if rule.variant != "II":
        return "SM3-I takes two passes, and no kernel does"
    if type(rule.cover) is not AxisCover:
        return f"no kernel for {type(rule.cover).__name__}"
    return ""


def step(
    rule: Rule,
    w: Any,
    g: Any,
    state: dict[str, Any],
    threads: int | None = None,
    tasks: int | None = None,
) -> None:
    """Step one tensor in place, or only the rows of a row-sparse gradient where the rule's step is lazy."""
    if elementwise.asleep(w) or elementwise._loaded() is None:
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
    # supports() has seen to the rule's class.
    if not sm3_engine.step(rule, w, dense, state, indices, threads, tasks):  # type: ignore[arg-type]
        numpy_ref.step(rule, w, g, state)


def together(leaves: Sequence[Leaf], scale: float, factor: float, zero: bool) -> Sequence[int]:
    """Step vectors and matrices in one launch; large ones, and gradients to be prepared, are left."""
    changed = zero or (scale, factor) != (1.0, 1.0)
    if changed or elementwise.all_asleep(leaves) or elementwise._loaded() is None:
        return range(len(leaves))
    from . import sm3_together

    return sm3_together.step(leaves)


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


KNOBS = {"threads": THREADS, "tasks": (None, 1, 16, 64)}

VARIANTS = (Variant("numba.sm3", "bitwise", supports, step, KNOBS, together),)
