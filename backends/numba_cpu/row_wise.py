"""AdaGrad with one number a tensor or a row: sums of squares in the reference's order, then the step.

Rows of at most 512 entries, those of most embedding tables, take one pass: 12 bytes an entry in float32.
Longer rows and whole tensors read the gradient twice. A row-sparse gradient steps its rows alone where there
is a number a row.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from memopt_ref.parts.row_sparse import RowSparse
from memopt_ref.parts.slots import compute_dtype
from memopt_ref.rules import rows
from memopt_ref.rules.adagrad_forms import AdaGradNorm, RowWiseAdaGrad
from memopt_ref.rules.base import Rule

from .. import numpy_ref
from ..registry import Variant
from . import elementwise
from .elementwise import THREADS, WAKE
from .kinds import kind_of

#: What a kernel takes the place of: a rule that overrides one of these means something else by it.
_REPLACED = ("step", "slots", "values", "values_dense", "advance", "decayed", "decay_rate", "rests")


def supports(rule: Rule, shape: tuple[int, ...], dtype: Any) -> tuple[bool, str]:
    """AdaGradNorm and RowWiseAdaGrad with all their options."""
    if not isinstance(rule, AdaGradNorm):
        return False, ""
    reason = elementwise._broken or refusal(rule, dtype)
    return not reason, reason or "sums of squares in the order of the reference, then the step"


def refusal(rule: AdaGradNorm, dtype: Any) -> str:
    """Why no kernel steps this rule's tensors of a dtype; empty if one does."""
    family = RowWiseAdaGrad if isinstance(rule, RowWiseAdaGrad) else AdaGradNorm
    own = [name for name in _REPLACED if getattr(type(rule), name) is not getattr(family, name)]
    if family is RowWiseAdaGrad and type(rule).reduced is not RowWiseAdaGrad.reduced:  # type: ignore[attr-defined]
        own.append("reduced")
    if own:
        return f"{rule.name} has a {own[0]}() of its own"
    if kind_of(np.dtype(dtype)) is None:
        return f"no kernel for {np.dtype(dtype)}"
    return ""


def step(rule: Rule, w: Any, g: Any, state: dict[str, Any], threads: int | None = None) -> None:
    """Step one tensor in place, or only the rows of a row-sparse gradient where the rule's step is lazy."""
    # A small tensor's step is calls of NumPy either way, and not worth a compilation.
    if w.size < WAKE or elementwise._loaded() is None:
        numpy_ref.step(rule, w, g, state)
        return
    from . import row_wise_engine

    dense, indices = g, None
    if isinstance(g, RowSparse):
        g = g if g.is_coalesced else g.astype(compute_dtype(w.dtype)).coalesced()
        if rows.lazy(rule, w.shape, w.dtype)[0]:
            dense, indices = g.rows, g.indices
        else:
            dense = g.to_dense()
    # supports() has seen to the rule's class.
    if not row_wise_engine.step(rule, w, dense, state, indices, threads):  # type: ignore[arg-type]
        numpy_ref.step(rule, w, g, state)


VARIANTS = (Variant("numba.row_wise", "bitwise", supports, step, {"threads": THREADS}),)
