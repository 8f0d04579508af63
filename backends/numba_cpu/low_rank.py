"""Adam with a rank-one second moment: the sums in one pass, the step in another."""

from __future__ import annotations

from typing import Any

import numpy as np

from memopt_ref.parts.row_sparse import RowSparse
from memopt_ref.parts.slots import compute_dtype
from memopt_ref.rules.base import Rule
from memopt_ref.rules.low_rank import LowRankAdam

from .. import numpy_ref
from ..registry import Variant
from . import elementwise
from .admit import of_family
from .elementwise import THREADS, WAKE

#: What a kernel takes the place of: a rule that overrides one of these means something else by it.
REPLACED = ("step", "slots", "values", "values_dense", "advance", "decayed", "decay_rate")


def supports(rule: Rule, shape: tuple[int, ...], dtype: Any) -> tuple[bool, str]:
    """LowRankAdam with all its options."""
    if not isinstance(rule, LowRankAdam):
        return False, ""
    reason = elementwise._broken or of_family(rule, LowRankAdam, REPLACED, dtype)
    return not reason, reason or "one pass for the sums, one for the step"


def step(rule: Rule, w: Any, g: Any, state: dict[str, Any], threads: int | None = None) -> None:
    """Step one tensor in place; a row-sparse gradient is made dense where every column mean changes."""
    # A vector's rows are stepped lazily, by the reference.
    lazy = isinstance(g, RowSparse) and w.ndim < 2
    # A small tensor's step is calls of NumPy either way, and not worth a compilation.
    if w.size < WAKE or lazy or elementwise._loaded() is None:
        numpy_ref.step(rule, w, g, state)
        return
    from . import low_rank_engine

    dense, t = g, int(state["t"]) + 1
    if isinstance(g, RowSparse):
        dense = g.astype(compute_dtype(w.dtype)).to_dense()
    # supports() has seen to the rule's class.
    if low_rank_engine.step(rule, w, dense, state, t, threads):  # type: ignore[arg-type]
        state["t"] = np.int64(t)
    else:
        numpy_ref.step(rule, w, g, state)


VARIANTS = (Variant("numba.low_rank", "bitwise", supports, step, {"threads": THREADS}),)
