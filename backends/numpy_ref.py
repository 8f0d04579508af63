"""The reference as a kernel: the rule's own equations, written back in place. It serves everything."""

from __future__ import annotations

from typing import Any

from memopt_ref.parts.row_sparse import RowSparse
from memopt_ref.rules import rows
from memopt_ref.rules.base import Rule

from .registry import Variant


def supports(rule: Rule, shape: tuple[int, ...], dtype: Any) -> tuple[bool, str]:
    """Every rule, shape and dtype."""
    return True, "the reference serves everything"


def step(rule: Rule, w: Any, g: Any, state: dict[str, Any]) -> None:
    """Step one tensor in place: ``w`` and the arrays of ``state`` are overwritten, counters replaced.

    All values are computed before the first is written, so an error of the rule itself leaves the tensor as
    it was. A row-sparse gradient writes the touched rows alone where the rule allows it.
    """
    if isinstance(g, RowSparse):
        rows.step(rule, w, g, state).write(w, state)
        return
    new_w, new_state = rule.advance(w, g, state)
    rows.RowStep(None, {**new_state, "w": new_w}, frozenset()).write(w, state)


VARIANTS = (Variant(name="numpy_ref", numerics="bitwise", supports=supports, step=step),)
