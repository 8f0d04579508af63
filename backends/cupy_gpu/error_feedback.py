"""Error feedback, EF21 and Adam on compressed gradients on a device: in place, the bits of the reference.

In float32 with an exact error the argument moves 12 bytes an entry and the step 16; between them Top-K of
small blocks reads 4, of a whole tensor 16, scaled and one-bit signs 4. An exact error is its own scratch;
EF21 and a quantised error need one array of the tensor's size for the time of the step.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from memopt_ref.errors import BackendError
from memopt_ref.parts.row_sparse import RowSparse
from memopt_ref.rules.base import Rule

from ..numba_cpu import error_feedback as of_numba
from ..registry import Variant
from . import engine, error_feedback_engine
from .arrays import place
from .device import device_of
from .error_feedback_engine import BLOCK, LARGE
from .gradients import dense


def supports(rule: Rule, shape: tuple[int, ...], dtype: Any) -> tuple[bool, str]:
    """The three rules with the compressors of :mod:`memopt_ref.parts.compressors`, and every error buffer."""
    if not isinstance(rule, of_numba.RULES):
        return False, ""
    reason = of_numba.refusal(rule, dtype)
    return (
        not reason,
        reason or "one pass for the compressor's argument, one for the step, others between them",
    )


def step(rule: Rule, w: Any, g: Any, state: dict[str, Any], block: int = BLOCK, large: int = LARGE) -> None:
    """Step one tensor in place; a row-sparse gradient is made dense: a compressor sees the whole tensor.

    Raises
    ------
    BackendError
        The arrays are on several devices, or not as the kernels can walk them; nothing is written.
    """
    t = int(state["t"]) + 1 if "t" in state else 0
    with place(w):
        if isinstance(g, RowSparse):
            g = dense(w, g)
        coded = [name for name in ("e", "e_min", "e_max") if "e_min" in state]
        own = {name: x for name, x in state.items() if name not in ("t", "seed", *coded)}
        engine.check(w, g, own)
        _check_codes(rule, w, {name: state[name] for name in coded})
        error_feedback_engine.step(device_of(w), rule, w, g, state, t, block, large)
    if "t" in state:
        state["t"] = np.int64(t)


def _check_codes(rule: Rule, w: Any, coded: dict[str, Any]) -> None:
    """Raise BackendError unless codes and bounds are the rule's own."""
    slots = rule.as_built.slots(w.shape, w.dtype)
    for name, x in coded.items():
        engine.same_place(w, name, x)
        if x.shape != slots[name].shape or x.dtype != slots[name].dtype:
            got, wanted = f"{x.dtype} of shape {x.shape}", f"{slots[name].dtype} of shape {slots[name].shape}"
            raise BackendError(name, got, wanted, "Pass the rule's own state.")


#: What a tuner may try: never a bit's difference.
KNOBS = {"block": (256, 128, 512), "large": (LARGE, LARGE // 8, 8 * LARGE)}
VARIANTS = (Variant("cupy.error_feedback", "bitwise", supports, step, KNOBS),)
