"""The count-sketch rules by compiled loops: in place, on the active rows and their buckets alone.

Only whole-table decay (``decay="global"``) and cleaning touch more than that. A dense gradient is read once
to find its active rows. See :mod:`.count_sketch_plan` for the order of sums, :mod:`.count_sketch_drive` for
the threads.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from memopt_ref.parts.row_sparse import RowSparse
from memopt_ref.parts.slots import compute_dtype
from memopt_ref.rules.base import Rule
from memopt_ref.rules.count_sketch import CountSketchAdaGrad, CountSketchMomentum
from memopt_ref.rules.count_sketch_adam import CountSketchAdam, CountSketchRMSProp
from memopt_ref.rules.sketch_state import SketchedRule

from .. import numpy_ref
from ..registry import Variant
from . import elementwise
from .elementwise import THREADS
from .kinds import kind_of

#: The rules that have kernels here and on a device; a subclass may step otherwise.
SERVED = (CountSketchMomentum, CountSketchAdaGrad, CountSketchAdam, CountSketchRMSProp)


def supports(rule: Rule, shape: tuple[int, ...], dtype: Any) -> tuple[bool, str]:
    """The four rules with all their options."""
    if not isinstance(rule, SketchedRule):
        return False, ""
    reason = elementwise._broken
    if type(rule) not in SERVED:
        reason = reason or f"{rule.name} is a class of its own"
    if kind_of(np.dtype(dtype)) is None:
        reason = reason or f"no kernel for {np.dtype(dtype)}"
    return not reason, reason or "one pass over the active rows and their buckets"


def step(
    rule: Rule,
    w: Any,
    g: Any,
    state: dict[str, Any],
    threads: int | None = None,
    blocks: int | None = None,
) -> None:
    """Step the active rows in place; arrays that no compiled loop can walk are stepped by the reference."""
    if elementwise.asleep(w) or elementwise._loaded() is None:
        numpy_ref.step(rule, w, g, state)
        return
    from . import count_sketch_engine

    t = int(state["t"]) + 1 if "t" in state else 0
    rows, indices = g, None
    if isinstance(g, RowSparse):
        g = g if g.is_coalesced else g.astype(compute_dtype(w.dtype)).coalesced()
        rows, indices = g.rows, g.indices
    # supports() has seen to the rule's class.
    if not count_sketch_engine.step(rule, w, rows, state, t, indices, threads, blocks):  # type: ignore[arg-type]
        numpy_ref.step(rule, w, g, state)
    elif "t" in state:
        state["t"] = np.int64(t)


KNOBS = {"threads": THREADS, "blocks": (None, 1, 4, 16)}

VARIANTS = (
    Variant(name="numba.count_sketch", numerics="bitwise", supports=supports, step=step, knobs=KNOBS),
)
