"""What ``Optimizer.explain()`` says: one line a leaf, which rule and kernel step it, and why."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from . import backends
from .planned import label
from .rules import rows
from .rules.base import Rule


def explain(arrays: Mapping[str, Any], rules: Mapping[str, Rule], choices: Mapping[str, Any]) -> str:
    """One line a leaf: path, dtype and shape, rule, kernel variant, why.

    Parameters
    ----------
    arrays : mapping of path to array
    rules : mapping of path to Rule
    choices : mapping of path to memopt_ref.backends.Choice
    """
    cells = []
    for path, w in arrays.items():
        kind = f"{w.dtype}[{', '.join(map(str, w.shape))}]"
        rule = rules[path]
        choice = backends.tuning.recalled(choices[path], rule, w)
        cells.append(
            (path or "(the array)", kind, label(rule), choice.variant.name, _why(rule, w, choice.why))
        )
    widths = [max((len(row[k]) for row in cells), default=0) for k in range(4)]
    return "\n".join("  ".join([*(row[k].ljust(widths[k]) for k in range(4)), row[4]]) for row in cells)


def _why(rule: Rule, w: Any, why: str) -> str:
    sentences = [why]
    if w.ndim:
        sentences.append(f"row-sparse gradients: {rows.lazy(rule, w.shape, w.dtype)[1]}")
    if caution := rule.caution(w.shape, w.dtype):
        sentences.append(f"caution: {caution}")
    return "; ".join(sentences)
