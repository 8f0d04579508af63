"""Adam with a rank-one second moment on a device: the sums in one pass, the step in another, in place."""

from __future__ import annotations

from typing import Any

import numpy as np

from memopt_ref.parts.row_sparse import RowSparse
from memopt_ref.rules import rows
from memopt_ref.rules.base import Rule
from memopt_ref.rules.low_rank import LowRankAdam

from ..numba_cpu import low_rank as of_numba
from ..numba_cpu.admit import of_family
from ..registry import Variant
from . import engine, low_rank_engine
from .arrays import place
from .device import device_of
from .gradients import apart, dense


def supports(rule: Rule, shape: tuple[int, ...], dtype: Any) -> tuple[bool, str]:
    """LowRankAdam with all its options."""
    if not isinstance(rule, LowRankAdam):
        return False, ""
    reason = of_family(rule, LowRankAdam, of_numba.REPLACED, dtype)
    return not reason, reason or "one pass for the sums, one for the step"


def step(rule: Rule, w: Any, g: Any, state: dict[str, Any], block: int = low_rank_engine.BLOCK) -> None:
    """Step one tensor in place; a row-sparse gradient is made dense where every column mean changes.

    Raises
    ------
    BackendError
        The arrays are on several devices, or not as the kernels can walk them; nothing is written.
    """
    assert isinstance(rule, LowRankAdam)
    t = int(state["t"]) + 1
    with place(w):
        indices = None
        if isinstance(g, RowSparse):
            if rows.lazy(rule, w.shape, w.dtype)[0]:
                g, indices = apart(w, g)
            else:
                g = dense(w, g)
        engine.check(w, g, {name: state[name] for name in ("m", "v") if name in state}, indices)
        if "r" in state:
            slots = rule.as_built.slots(w.shape, w.dtype)
            engine.check_slots(w, state, {name: slots[name] for name in ("r", "c")})
        low_rank_engine.step(device_of(w), rule, w, g, state, t, indices, block)
    state["t"] = np.int64(t)


#: What a tuner may try: never a bit's difference.
KNOBS = {"block": (256, 128, 512)}
VARIANTS = (Variant("cupy.low_rank", "bitwise", supports, step, KNOBS),)
