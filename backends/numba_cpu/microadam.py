"""MicroAdam in one pass: decode, select, quantise and step a block while it is in the first cache.

What the reference does to whole tensors, one array after the other, is done here to one Top-K block after the
other. Blocks share nothing, so their order and thread cannot matter. That asks for blocks whose buckets and
bytes are their own.
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from memopt_ref.parts.row_sparse import RowSparse
from memopt_ref.parts.slots import compute_dtype
from memopt_ref.rules.base import Rule
from memopt_ref.rules.microadam import MicroAdam

from .. import numpy_ref
from ..registry import Variant
from . import elementwise
from .admit import of_family
from .elementwise import THREADS

#: What a kernel takes the place of: a rule that overrides one of these means something else by it.
_REPLACED = (
    "step",
    "statistics",
    "blocks",
    "error",
    "slots",
    "values",
    "values_dense",
    "advance",
    "decayed",
    "decay_rate",
)


def supports(rule: Rule, shape: tuple[int, ...], dtype: Any) -> tuple[bool, str]:
    """MicroAdam with rounding to nearest, where no bucket lies in two Top-K blocks."""
    if not isinstance(rule, MicroAdam):
        return False, ""
    reason = elementwise._broken or refusal(rule, prod(shape), dtype)
    return not reason, reason or "one pass, Top-K block by Top-K block"


def refusal(rule: MicroAdam, size: int, dtype: Any) -> str:
    """Why no kernel steps a tensor of this size and dtype; empty if one does."""
    if reason := of_family(rule, MicroAdam, _REPLACED, dtype):
        return reason
    if rule.error.is_random:
        return "stochastic rounding of the error has no kernel"
    if rule.error_bits and size > rule.block:
        if rule.block % rule.bucket:
            return f"a bucket of {rule.bucket} entries can lie in two Top-K blocks of {rule.block}"
        if rule.block % 2 and rule.error_bits <= 4:
            return f"two Top-K blocks of {rule.block} entries share a byte of the error"
    return ""


def step(
    rule: Rule,
    w: Any,
    g: Any,
    state: dict[str, Any],
    threads: int | None = None,
    tasks: int | None = None,
    fused: bool | None = None,
) -> None:
    """Step one tensor in place; a row-sparse gradient is made dense: a compressor sees the whole tensor."""
    if elementwise.asleep(w) or elementwise._loaded() is None:
        numpy_ref.step(rule, w, g, state)
        return
    from . import microadam_engine

    dense = g.astype(compute_dtype(w.dtype)).coalesced().to_dense() if isinstance(g, RowSparse) else g
    # supports() has seen to the rule's class.
    if microadam_engine.step(rule, w, dense, state, threads, tasks, fused):  # type: ignore[arg-type]
        state["t"] = np.int64(int(state["t"]) + 1)
    else:
        numpy_ref.step(rule, w, g, state)


#: Plain loops may be faster where a vector is written to memory in parts slowly, as on some processors.
KNOBS = {"threads": THREADS, "tasks": (None, 64), "fused": (None, False)}

VARIANTS = (Variant(name="numba.microadam", numerics="bitwise", supports=supports, step=step, knobs=KNOBS),)
