"""The generic step for row-sparse gradients, derived from ``slots`` alone.

A rule whose slots all have the parameter's first axis, or are one number a column (and so on) that joins by
maximum, is stepped on the touched rows only. For SM3 without momentum, AdaGrad and row-wise AdaGrad this
equals the dense step bit for bit; a rule with momentum or a moving average moves untouched rows in its dense
step and not here, which is what other libraries call *lazy*. Any other rule is stepped on the dense gradient.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..parts.row_sparse import RowSparse
from ..parts.slots import Slot, compute_dtype

if TYPE_CHECKING:
    from .base import Rule


@dataclass(frozen=True, eq=False)
class RowStep:
    """The outcome of a step on touched rows.

    ``values`` holds all values of the step, ``w`` and the slots named in ``by_row`` for the rows ``indices``
    only; ``indices`` is None when the step was dense.
    """

    indices: Any
    values: dict[str, Any]
    by_row: frozenset[str]

    def whole(self, w: Any, state: Mapping[str, Any]) -> dict[str, Any]:
        """The values with ``w`` and every slot whole; nothing that came in is written."""
        if self.indices is None:
            return self.values
        values = dict(self.values)
        for name, old in {"w": w, **state}.items():
            if name in self.by_row:
                values[name] = old.copy()
                values[name][self.indices] = self.values[name]
        return values

    def write(self, w: Any, state: dict[str, Any]) -> None:
        """The same in place."""
        olds = {"w": w, **state}
        news = {name: _apart(self.values[name], name, olds) for name in olds}
        for name, old in olds.items():
            new = news[name]
            if self.indices is not None and name in self.by_row:
                old[self.indices] = new
            elif isinstance(old, np.ndarray):
                old[...] = new
            else:
                state[name] = new


def _apart(new: Any, name: str, olds: Mapping[str, Any]) -> Any:
    """``new``, copied if it is a view of an old array of another name, which may be overwritten first."""
    others = (old for other, old in olds.items() if other != name and isinstance(old, np.ndarray))
    return (
        new.copy()
        if isinstance(new, np.ndarray) and any(np.may_share_memory(new, o) for o in others)
        else new
    )


def lazy(rule: Rule, shape: tuple[int, ...], dtype: Any) -> tuple[bool, str]:
    """Whether a row-sparse gradient is stepped on its rows, and a sentence for ``explain()``."""
    if rule.native_rows:
        return True, "the rule is defined on the touched rows"
    if rule.couples_rows:
        return False, "a total over the tensor enters every entry's step: stepped on the dense gradient"
    for name, slot in rule.as_built.slots(shape, dtype).items():
        if not (slot.is_counter or _has_rows(slot) or _joins_by_max(slot)):
            return (
                False,
                f"slot {name!r} has neither rows nor joins by maximum: stepped on the dense gradient",
            )
    if rule.rests():
        return True, "touched rows only, equal to the dense step"
    return True, "touched rows only (lazy: untouched rows keep weights and state, unlike in a dense step)"


def _has_rows(slot: Slot) -> bool:
    return slot.axes is not None and 0 in slot.axes[:1] and 0 not in slot.axes[1:]


def _joins_by_max(slot: Slot) -> bool:
    return slot.axes is not None and 0 not in slot.axes and slot.merge == "max"


def step(rule: Rule, w: Any, g: RowSparse, state: Mapping[str, Any]) -> RowStep:
    """Step the touched rows of ``w``; duplicates are summed first, in the compute dtype."""
    g = g.astype(compute_dtype(w.dtype)).coalesced()
    if rule.native_rows:
        return rule.step_rows(w, g, state)  # type: ignore[attr-defined, no-any-return]
    slots = rule.as_built.slots(w.shape, w.dtype)
    if not lazy(rule, w.shape, w.dtype)[0]:
        return RowStep(None, rule.values_dense(w, g.to_dense(), state), frozenset())
    by_row = frozenset({"w"} | {name for name, slot in slots.items() if _has_rows(slot)})
    seen = {name: old[g.indices] if name in by_row else old for name, old in state.items()}
    values = rule.values_dense(w[g.indices], g.rows, seen)
    for name, slot in slots.items():
        if name not in by_row and not slot.is_counter:
            values[name] = np.maximum(state[name], values[name])
    return RowStep(g.indices, values, by_row)
