"""Adafactor: the sums, RMS(X), RMS(U) and the step in a pass each, with the order of the reference's sums.

Exactness asks for these passes: the sums read the gradient, RMS(U) reads it again since it needs the new R
and C, the step reads both and writes one, and RMS(X) reads the parameter: 24 bytes an entry in float32.
RMS(X) is not carried from one step to the next, as nobody tells the optimizer when its parameters are written
between two steps. Passes that an option does not need are left out: that of RMS(U) without
``clip_threshold``, that of RMS(X) without ``scale_parameter``.

Beside the tensor a step makes r and c, which are as large as R and C, and one number for each leaf of 512
entries and each run of 64.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from memopt_ref.parts.row_sparse import RowSparse
from memopt_ref.parts.slots import compute_dtype
from memopt_ref.rules.adafactor import Adafactor
from memopt_ref.rules.base import Rule

from .. import numpy_ref
from ..registry import Variant
from . import elementwise
from .admit import of_family
from .elementwise import THREADS

#: What a kernel takes the place of: a rule that overrides one of these means something else by it.
REPLACED = (
    "step",
    "_factored",
    "_dense",
    "_squares",
    "factors",
    "relative",
    "shrink",
    "keep",
    "mean_step",
    "slots",
    "values",
    "values_dense",
    "advance",
    "decayed",
    "decay_rate",
    "_decays_late",
)


def supports(rule: Rule, shape: tuple[int, ...], dtype: Any) -> tuple[bool, str]:
    """Adafactor with all its options."""
    if not isinstance(rule, Adafactor):
        return False, ""
    reason = elementwise._broken or of_family(rule, Adafactor, REPLACED, dtype)
    return not reason, reason or "one pass a sum, and one for the step"


def step(rule: Rule, w: Any, g: Any, state: dict[str, Any], threads: int | None = None) -> None:
    """Step one tensor in place; a row-sparse gradient is made dense, as both RMS are of the whole tensor."""
    if elementwise.asleep(w) or elementwise._loaded() is None:
        numpy_ref.step(rule, w, g, state)
        return
    from . import adafactor_engine

    dense, t = g, int(state["t"]) + 1
    if isinstance(g, RowSparse):
        dense = g.astype(compute_dtype(w.dtype)).to_dense()
    # supports() has seen to the rule's class.
    if adafactor_engine.step(rule, w, dense, state, t, threads):  # type: ignore[arg-type]
        state["t"] = np.int64(t)
    else:
        numpy_ref.step(rule, w, g, state)


VARIANTS = (Variant("numba.adafactor", "bitwise", supports, step, {"threads": THREADS}),)
