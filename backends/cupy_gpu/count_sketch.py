"""The count-sketch rules on a device: in place, on the active rows and their buckets alone.

A moment takes up to three launches, since blocks cannot wait for each other: increments from the old table,
their sums into its buckets, and the weights along what it then answers. Rows of one bucket are added in their
order by one thread a column, found by a sort, so that no number is added to atomically. Only whole-table
decay (``decay="global"``) and cleaning touch the rest of a table. Conservative update and
``order="sequential"`` take row after row, with a thread a column.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from memopt_ref.parts.hashing import Avalanche
from memopt_ref.parts.row_sparse import RowSparse
from memopt_ref.rules.base import Rule
from memopt_ref.rules.sketch_state import SketchedRule

from ..numba_cpu import count_sketch as of_numba
from ..numba_cpu.admit import of_family
from ..registry import Variant
from . import count_sketch_engine, count_sketch_rows, engine
from .arrays import place, to_host
from .device import device_of
from .gradients import apart

#: Rows of a sketch, at most.
DEEPEST = 32


def supports(rule: Rule, shape: tuple[int, ...], dtype: Any) -> tuple[bool, str]:
    """The four rules with all their options, but no sketch of more rows than registers can hold."""
    if not isinstance(rule, SketchedRule):
        return False, ""
    reason = of_family(rule, type(rule), (), dtype)
    if type(rule) not in of_numba.SERVED:
        reason = f"{rule.name} is a class of its own"
    if rule.depth > DEEPEST:
        reason = f"a sketch of more than {DEEPEST} rows"
    if reason:
        return False, reason
    hashed = "" if type(rule.hash) is Avalanche else f", which the host hashes by {type(rule.hash).__name__}"
    return True, f"three launches over the buckets of the active rows{hashed}"


def step(
    rule: Rule,
    w: Any,
    g: Any,
    state: dict[str, Any],
    block: int = 256,
    vec: int | None = None,
    scan: bool = False,
) -> None:
    """Step the active rows of one tensor in place; a dense gradient is read once to find them.

    ``block``, ``vec`` and ``scan`` are those of :class:`~.count_sketch_rows.Shape`.

    Raises
    ------
    BackendError
        The arrays are on several devices, or not as the kernels can walk them.
    StabilityError, RowIndexError
        As the rule's own step. Nothing is written.
    """
    assert isinstance(rule, SketchedRule)
    t = int(state["t"]) + 1 if "t" in state else 0
    with place(w):
        rows, indices = apart(w, g) if isinstance(g, RowSparse) else (g, None)
        engine.check(w, rows, {"m": state["m"]} if "m" in state else {}, indices)
        count_sketch_engine.check(rule, w, state)
        shape = count_sketch_rows.Shape(block, vec or engine.thumb(w), scan)
        count_sketch_engine.step(device_of(w), rule, w, rows, state, t, indices, shape)
    if "t" in state:
        state["t"] = np.int64(t)


def check_step(rule: SketchedRule, path: str, w: Any, g: Any, state: Mapping[str, Any]) -> None:
    """Raise StabilityError if this step is known to diverge; only then the host reads the row numbers."""
    if not rule.manner().can_diverge:
        return
    with place(w):
        if isinstance(g, RowSparse):
            items = np.unique(to_host(g.indices))
        else:
            engine.check(w, g, {})
            items = to_host(count_sketch_rows.active_rows(device_of(w), rule, w, g))
    rule.check_load(path, items, state)


#: What a tuner may try: never a bit's difference.
KNOBS = {"block": (256, 128), "vec": (None, 2), "scan": (False, True)}
VARIANTS = (Variant("cupy.count_sketch", "bitwise", supports, step, KNOBS),)
