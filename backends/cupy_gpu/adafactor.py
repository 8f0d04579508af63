"""Adafactor on a device: the passes and the order of sums of the reference, about 20 bytes an entry.

In float32 the sums read the gradient (4), RMS(U) reads it again (4), since it needs the new R and C, and the
step reads both and writes the parameter (12); RMS(X) reads the parameter (4) where the step is scaled by it.
Bits agree with the reference: all sums are trees over leaves of 512 and runs of 64, in a warp's registers.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from memopt_ref.parts.row_sparse import RowSparse
from memopt_ref.rules.adafactor import Adafactor
from memopt_ref.rules.base import Rule

from ..numba_cpu import adafactor as of_numba
from ..numba_cpu.admit import of_family
from ..registry import Variant
from . import adafactor_engine, engine
from .arrays import place
from .device import device_of
from .gradients import dense


def supports(rule: Rule, shape: tuple[int, ...], dtype: Any) -> tuple[bool, str]:
    """Adafactor with all its options."""
    if not isinstance(rule, Adafactor):
        return False, ""
    reason = of_family(rule, Adafactor, of_numba.REPLACED, dtype)
    return not reason, reason or "one pass a sum, and one for the step"


def step(rule: Rule, w: Any, g: Any, state: dict[str, Any], block: int = adafactor_engine.BLOCK) -> None:
    """Step one tensor in place; a row-sparse gradient is made dense, as both RMS are over the whole tensor.

    Raises
    ------
    BackendError
        The arrays are on several devices, or not as the kernels can walk them; nothing is written.
    """
    assert isinstance(rule, Adafactor)
    t = int(state["t"]) + 1
    with place(w):
        if isinstance(g, RowSparse):
            g = dense(w, g)
        engine.check(w, g, {name: state[name] for name in ("v", "m") if name in state})
        if "R" in state:
            slots = rule.slots(w.shape, w.dtype)
            engine.check_slots(w, state, {name: slots[name] for name in ("R", "C")})
        adafactor_engine.step(device_of(w), rule, w, g, state, t, block)
    state["t"] = np.int64(t)


#: What a tuner may try: never a bit's difference.
KNOBS = {"block": (256, 128, 512)}
VARIANTS = (Variant("cupy.adafactor", "bitwise", supports, step, KNOBS),)
