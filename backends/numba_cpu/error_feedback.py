"""Error feedback, EF21 and Adam on compressed gradients by compiled loops: in place, chunk by chunk.

Top-K and scaled signs of small blocks take one pass. What a compressor has to know of a whole tensor (the
least magnitude that Top-K keeps, the sums of scaled and one-bit signs) is found in passes that read, in the
orders of :mod:`memopt_ref.parts.top_k` and :mod:`memopt_ref.parts.sums`; the argument of the compressor is
made anew in each, so that none of the tensor's size is kept.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from memopt_ref.parts.compressors import Identity, OneBit, ScaledSign, TopK
from memopt_ref.parts.row_sparse import RowSparse
from memopt_ref.parts.slots import compute_dtype
from memopt_ref.rules.base import Rule
from memopt_ref.rules.error_feedback import EF21, ErrorFeedbackSGD
from memopt_ref.rules.topk_adam import TopKAdam

from .. import numpy_ref
from ..registry import Variant
from . import elementwise
from .elementwise import THREADS
from .kinds import kind_of

RULES = (ErrorFeedbackSGD, EF21, TopKAdam)
_COMPRESSORS = (Identity, TopK, ScaledSign, OneBit)


def supports(rule: Rule, shape: tuple[int, ...], dtype: Any) -> tuple[bool, str]:
    """The three rules with the compressors of :mod:`memopt_ref.parts.compressors`."""
    if not isinstance(rule, RULES):
        return False, ""
    reason = elementwise._broken or refusal(rule, dtype)
    if not reason and isinstance(rule, ErrorFeedbackSGD) and rule.error.is_random:
        reason = "stochastic rounding of the error has no kernel"
    return not reason, reason or "passes over the tensor, chunk by chunk"


def refusal(rule: Any, dtype: Any) -> str:
    """Why no kernel steps this rule's tensors of a dtype, however it keeps the error; empty if one may."""
    if type(rule) not in RULES:
        return f"{rule.name} is a class of its own"
    if type(rule.compressor) not in _COMPRESSORS:
        return f"no kernel for {type(rule.compressor).__name__}"
    if kind_of(np.dtype(dtype)) is None:
        return f"no kernel for {np.dtype(dtype)}"
    return ""


def step(rule: Rule, w: Any, g: Any, state: dict[str, Any], threads: int | None = None) -> None:
    """Step one tensor in place; a row-sparse gradient is made dense: a compressor sees the whole tensor."""
    if elementwise.asleep(w) or elementwise._loaded() is None:
        numpy_ref.step(rule, w, g, state)
        return
    from . import error_feedback_engine

    dense = g.astype(compute_dtype(w.dtype)).coalesced().to_dense() if isinstance(g, RowSparse) else g
    t = int(state["t"]) + 1 if "t" in state else 0
    if not error_feedback_engine.step(rule, w, dense, state, t, threads):
        numpy_ref.step(rule, w, g, state)
    elif "t" in state:
        state["t"] = np.int64(t)


KNOBS = {"threads": THREADS}

VARIANTS = (Variant("numba.error_feedback", "bitwise", supports, step, KNOBS),)
