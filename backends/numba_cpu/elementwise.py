"""Every element-wise rule, from its one expression: in place, one pass, the bits of the reference."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from memopt_ref.parts.row_sparse import RowSparse
from memopt_ref.parts.slots import compute_dtype
from memopt_ref.rules.base import Rule
from memopt_ref.rules.elementwise import Elementwise

from .. import numpy_ref
from ..registry import Leaf, Variant
from .admit import refusal
from .layout import RUN

#: Entries of a tensor for which it pays to load Numba and its kernels, about half a second.
WAKE = 16384
#: Steps of smaller ones in a process, each some 0.1 ms of NumPy's, after which it pays as well.
NAPS = 10_000

_broken = ""
_naps = 0


def supports(rule: Rule, shape: tuple[int, ...], dtype: Any) -> tuple[bool, str]:
    """Element-wise rules whose expression compiled code can evaluate with the same bits."""
    if not isinstance(rule, Elementwise):
        return False, ""
    reason = _broken or refusal(rule, shape, dtype)
    return not reason, reason or "one loop over the rule's expression"


def step(
    rule: Rule, w: Any, g: Any, state: dict[str, Any], threads: int | None = None, run: int = RUN
) -> None:
    """Step one tensor in place, or only the rows of a row-sparse gradient.

    As long as nothing has loaded Numba, small tensors are stepped by the reference: the same bits, sooner,
    until there were many such steps. So are arrays that no compiled loop can take (unaligned, or in another
    byte order).
    """
    if asleep(w) or not compiled_step(rule, w, g, state, threads, run):
        numpy_ref.step(rule, w, g, state)


def compiled_step(
    rule: Rule,
    w: Any,
    g: Any,
    state: dict[str, Any],
    threads: int | None = None,
    run: int = RUN,
    flush: bool = False,
) -> bool:
    """The same by a compiled loop; False, and nothing done, where there is none."""
    engine = _loaded()
    t = int(state["t"]) + 1 if "t" in state else 0
    rows, indices = g, None
    if isinstance(g, RowSparse):
        g = g if g.is_coalesced else g.astype(compute_dtype(w.dtype)).coalesced()
        rows, indices = g.rows, g.indices
    if engine is None or not engine.step(rule, w, rows, state, t, indices, threads, run, flush):
        return False
    if "t" in state:
        state["t"] = np.int64(t)
    return True


def together(leaves: Sequence[Leaf], scale: float, factor: float, zero: bool) -> Sequence[int]:
    """Step many tensors in one launch; those that no compiled loop can take directly are left."""
    if all_asleep(leaves) or (engine := _loaded()) is None:
        return range(len(leaves))
    left: Sequence[int] = engine.together(leaves, scale, factor, zero)
    return left


def awake() -> bool:
    """Whether something has loaded Numba, or small tensors have been stepped so often that it now pays."""
    return f"{__package__}.engine" in sys.modules or _naps >= NAPS


def asleep(w: Any) -> bool:
    """Whether the reference is to step this tensor, since loading Numba does not pay yet."""
    global _naps
    if w.size >= WAKE or awake():
        return False
    _naps += 1
    return True


def all_asleep(leaves: Iterable[Leaf]) -> bool:
    """Whether :func:`asleep` would say so of each of many tensors; they are asked one by one later."""
    return not awake() and all(leaf.w.size < WAKE for leaf in leaves)


def _loaded() -> Any:
    """The engine, or None: a Numba that cannot be loaded costs speed, not the step."""
    global _broken
    if not _broken:
        try:
            from . import engine
        except Exception as error:
            _broken = f"Numba could not be loaded ({error})"
            warnings.warn(f"memopt_ref: {_broken}: NumPy steps instead", RuntimeWarning, stacklevel=3)
        else:
            return engine
    return None


#: Threads worth trying beside the rule of thumb: memory may be busy before all of them are.
THREADS = (None, 1, 2, 4, 8, 16, 32, 64)
KNOBS = {"threads": THREADS, "run": (RUN, 4096, 65536)}

VARIANTS = (Variant("numba.elementwise", "bitwise", supports, step, KNOBS, together),)
