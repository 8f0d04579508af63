"""Every element-wise rule, from its one expression: in place, one pass, the bits of the reference."""

from __future__ import annotations

from typing import Any

import numpy as np

from memopt_ref.parts.row_sparse import RowSparse
from memopt_ref.rules.base import Rule
from memopt_ref.rules.elementwise import Elementwise

from ..numba_cpu.admit import refusal
from ..registry import Variant
from . import engine, many
from .arrays import place
from .bind import Shape, entry
from .device import device_of
from .gradients import apart
from .trace import UntraceableError


def supports(rule: Rule, shape: tuple[int, ...], dtype: Any) -> tuple[bool, str]:
    """Element-wise rules whose expression has a text with the same bits."""
    if not isinstance(rule, Elementwise):
        return False, ""
    if reason := refusal(rule, shape, dtype):
        return False, reason
    try:
        slots = rule.slots(shape, dtype)
        entry(rule.expression(slots.keys()), tuple(n for n in slots if not slots[n].is_counter), "none")
    except UntraceableError as error:
        return False, f"the expression has {error}"
    return True, "one launch of the rule's expression"


def step(
    rule: Rule,
    w: Any,
    g: Any,
    state: dict[str, Any],
    block: int = 256,
    vec: int | None = None,
    per_processor: int = 0,
) -> None:
    """Step one tensor in place, or only the rows of a row-sparse gradient.

    ``block``, ``vec`` and ``per_processor`` are those of :class:`~.bind.Shape`.

    Raises
    ------
    BackendError
        The arrays are on several devices, or not as the kernels can walk them; nothing is written.
    """
    assert isinstance(rule, Elementwise)
    t = int(state["t"]) + 1 if "t" in state else 0
    slots = {name: x for name, x in state.items() if name != "t"}
    with place(w):
        rows, indices = apart(w, g) if isinstance(g, RowSparse) else (g, None)
        engine.check(w, rows, slots, indices)
        shape = Shape(block, vec or engine.thumb(w), per_processor)
        engine.step(device_of(w), rule, w, rows, state, t, indices, shape)
    if "t" in state:
        state["t"] = np.int64(t)


#: What a tuner may try: never a bit's difference.
KNOBS = {"block": (256, 128, 512, 1024), "vec": (None, 2, 8), "per_processor": (0, 8)}
VARIANTS = (
    Variant(
        name="cupy.elementwise",
        numerics="bitwise",
        supports=supports,
        step=step,
        knobs=KNOBS,
        together=many.together,
    ),
)
