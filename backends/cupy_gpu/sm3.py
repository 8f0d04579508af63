"""SM3-II over the axes of a tensor of any rank, from the rule's expressions: in place, one pass."""

from __future__ import annotations

from typing import Any

import numpy as np

from memopt_ref.parts.row_sparse import RowSparse
from memopt_ref.rules import rows
from memopt_ref.rules.base import Rule
from memopt_ref.rules.sm3 import SM3

from ..numba_cpu import sm3 as of_numba
from ..registry import Variant
from . import engine, sm3_engine
from .arrays import place
from .device import device_of
from .gradients import apart, dense


def supports(rule: Rule, shape: tuple[int, ...], dtype: Any) -> tuple[bool, str]:
    """SM3-II with the paper's cover, with or without momentum, average and decay."""
    if not isinstance(rule, SM3):
        return False, ""
    reason = of_numba.refusal(rule, np.dtype(dtype))
    return not reason, reason or "one pass over the tensor as a matrix"


def step(
    rule: Rule,
    w: Any,
    g: Any,
    state: dict[str, Any],
    block: int = 256,
    vec: int | None = None,
    deep: int = 64,
) -> None:
    """Step one tensor in place, or only the rows of a row-sparse gradient where the rule's step is lazy.

    ``block``, ``vec`` and ``deep`` are those of :class:`~.sm3_engine.Tile`.

    Raises
    ------
    BackendError
        The arrays are on several devices, or not as the kernels can walk them; nothing is written.
    """
    assert isinstance(rule, SM3)
    entrywise = {name: x for name, x in state.items() if name == "m" or w.ndim < 2}
    with place(w):
        indices = None
        if isinstance(g, RowSparse):
            if rows.lazy(rule, w.shape, w.dtype)[0]:
                g, indices = apart(w, g)
            else:
                g = dense(w, g)
        engine.check(w, g, entrywise, indices)
        if w.ndim > 1:
            engine.check_axes(w, [state[f"mu_{a}"] for a in range(w.ndim)])
        tile = sm3_engine.Tile(block, vec or engine.thumb(w), deep)
        sm3_engine.step(device_of(w), rule, w, g, state, indices, tile)


#: What a tuner may try: never a bit's difference.
KNOBS = {"block": (256, 128, 512), "vec": (None, 2), "deep": (64, 16, 256)}
VARIANTS = (Variant(name="cupy.sm3", numerics="bitwise", supports=supports, step=step, knobs=KNOBS),)
