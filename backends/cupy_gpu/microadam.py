"""MicroAdam on a device: a block of threads decodes, selects, quantises and steps a Top-K block in one pass.

Of the weights only those that the window names are read and written, so that a step of the default rule
moves about 10.1 bytes a parameter in float32 and 6.8 in bfloat16, in sectors of 32 bytes. Blocks and buckets
are the rule's own, whatever the device; those that do not fit registers go through shared memory, or memory.
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from memopt_ref.errors import BackendError
from memopt_ref.parts.row_sparse import RowSparse
from memopt_ref.rules.base import Rule
from memopt_ref.rules.microadam import MicroAdam

from ..numba_cpu import microadam as of_numba
from ..registry import Variant
from . import engine, microadam_engine
from .arrays import place
from .device import device_of
from .gradients import dense


def supports(rule: Rule, shape: tuple[int, ...], dtype: Any) -> tuple[bool, str]:
    """MicroAdam with rounding to nearest, where no bucket lies in two Top-K blocks."""
    if not isinstance(rule, MicroAdam):
        return False, ""
    reason = of_numba.refusal(rule, prod(shape), dtype)
    return not reason, reason or "one pass, a block of threads a Top-K block"


def step(rule: Rule, w: Any, g: Any, state: dict[str, Any], block: int = 256, vec: int | None = None) -> None:
    """Step one tensor in place; a row-sparse gradient is made dense: a compressor sees the whole tensor.

    ``block`` and ``vec`` are those of :class:`~.microadam_engine.Tile`.

    Raises
    ------
    BackendError
        The arrays are on several devices, or not as the kernel can walk them; nothing is written.
    """
    assert isinstance(rule, MicroAdam)
    t = int(state["t"]) + 1
    with place(w):
        if isinstance(g, RowSparse):
            g = dense(w, g)
        engine.check(w, g, {"e": state["e"]} if rule.error_bits is None else {})
        _check_flat(rule, w, state)
        microadam_engine.step(device_of(w), rule, w, g, state, t, microadam_engine.Tile(block, vec))
    state["t"] = np.int64(t)


def _check_flat(rule: MicroAdam, w: Any, state: dict[str, Any]) -> None:
    """Raise BackendError unless the flat slots are the rule's own, in one piece."""
    for name, slot in rule.slots(tuple(w.shape), w.dtype).items():
        if slot.is_counter or (name == "e" and rule.error_bits is None):
            continue
        x = state[name]
        engine.same_place(w, name, x)
        if x.shape != slot.shape or x.dtype != slot.dtype or not x.flags.c_contiguous:
            got, wanted = f"{x.dtype} of shape {x.shape}", f"{slot.dtype} of shape {slot.shape}, in one piece"
            raise BackendError(name, got, wanted, "Pass the rule's own state.")


#: What a tuner may try: never a bit's difference.
KNOBS = {"block": (256, 128, 512), "vec": (None, 2)}
VARIANTS = (Variant("cupy.microadam", "bitwise", supports, step, KNOBS),)
