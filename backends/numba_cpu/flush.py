"""Element-wise rules whose slots are never subnormal: chosen by the name ``"numba-flush"`` and not otherwise.

Where a gradient has become exactly zero, as for a dead unit or a word that does not occur, the means of a
rule fade out through the subnormal numbers, the first moment for some 150 steps of Adam, the second for some
16,000 (beta2 = 0.999). A processor takes many times as long for a product of a subnormal number, in every
library (20 to 30 times an Adam step, measured). A kernel with the reference's bits cannot help it: those
numbers are among the bits. Here a slot whose magnitude falls below the smallest normal number (1.2e-38 in
float32) becomes 0 at once. Intermediate results are left alone, so a gradient that is itself so small that
its square is subnormal costs what it did.

This is a backend of its own: ``Optimizer(..., backend="numba-flush")``, or ``MEMOPT_BACKEND``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from memopt_ref.rules.base import Rule

from .. import numpy_ref
from ..registry import Leaf, Variant
from . import elementwise


def step(rule: Rule, w: Any, g: Any, state: dict[str, Any]) -> None:
    """Step one tensor in place; the reference, followed by the flush, where no compiled loop can."""
    if not elementwise.compiled_step(rule, w, g, state, flush=True):
        numpy_ref.step(rule, w, g, state)
        for x in state.values():
            if isinstance(x, np.ndarray):
                x[np.abs(x) < np.finfo(x.dtype).tiny] = 0


def together(leaves: Sequence[Leaf], scale: float, factor: float, zero: bool) -> Sequence[int]:
    """Step many tensors in one launch."""
    engine = elementwise._loaded()
    if engine is None:
        return range(len(leaves))
    left: Sequence[int] = engine.together(leaves, scale, factor, zero, flush=True)
    return left


VARIANTS = (Variant("numba.elementwise_flush", "flush", elementwise.supports, step, {}, together),)
