"""AdaGrad with one number a tensor or a row on a device: in place, sums in the reference's order.

Rows of at most 512 entries, those of most embedding tables, take one launch and 12 bytes an entry in float32.
Longer rows and whole tensors read the gradient twice. A row-sparse gradient steps its rows alone where there
is a number a row.
"""

from __future__ import annotations

from typing import Any

from memopt_ref.errors import BackendError
from memopt_ref.parts.row_sparse import RowSparse
from memopt_ref.rules import rows
from memopt_ref.rules.adagrad_forms import AdaGradNorm
from memopt_ref.rules.base import Rule

from ..numba_cpu import row_wise as of_numba
from ..registry import Variant
from . import engine, row_wise_engine
from .arrays import place
from .device import device_of
from .gradients import apart, dense


def supports(rule: Rule, shape: tuple[int, ...], dtype: Any) -> tuple[bool, str]:
    """AdaGradNorm and RowWiseAdaGrad with all their options."""
    if not isinstance(rule, AdaGradNorm):
        return False, ""
    reason = of_numba.refusal(rule, dtype)
    return not reason, reason or "sums of squares in the order of the reference, then the step"


def step(rule: Rule, w: Any, g: Any, state: dict[str, Any], block: int = row_wise_engine.BLOCK) -> None:
    """Step one tensor in place, or only the rows of a row-sparse gradient where the rule's step is lazy.

    Raises
    ------
    BackendError
        The arrays are on several devices, or not as the kernels can walk them; nothing is written.
    """
    assert isinstance(rule, AdaGradNorm)
    with place(w):
        indices = None
        if isinstance(g, RowSparse):
            if rows.lazy(rule, w.shape, w.dtype)[0]:
                g, indices = apart(w, g)
            else:
                g = dense(w, g)
        engine.check(w, g, {}, indices)
        _check_sums(rule, w, state["s"])
        row_wise_engine.step(device_of(w), rule, w, g, state, indices, block)


def _check_sums(rule: AdaGradNorm, w: Any, s: Any) -> None:
    """Raise BackendError unless ``s`` is the rule's own, in one piece."""
    shape, native = rule.slots(w.shape, w.dtype)["s"].shape, engine.native_dtype(w.dtype)
    engine.same_place(w, "s", s)
    if s.shape != shape or s.dtype != native or not s.flags.c_contiguous:
        got, wanted = f"{s.dtype} of shape {s.shape}", f"{native} of shape {shape}, in one piece"
        raise BackendError("s", got, wanted, "Pass the rule's own state.")


#: What a tuner may try: never a bit's difference.
KNOBS = {"block": (256, 128, 512)}
VARIANTS = (Variant("cupy.row_wise", "bitwise", supports, step, KNOBS),)
