"""Kernels for NumPy arrays, compiled by Numba when they are first needed.

Read in this order:

* a step of a rule that is one expression: :mod:`.elementwise`, :mod:`.admit` (which rules, and why not
  others), :mod:`.engine`, :mod:`.bind` and :mod:`.ways` (the expression becomes a loop);
* how arrays are walked: :mod:`.direct` and :mod:`.spread` (in one piece, many tensors in one launch),
  :mod:`.layout`, :mod:`.drive` and :mod:`.move` (all others, as runs that the loop can take);
* what surrounds it: :mod:`.runtime` (threads and forks), :mod:`.cache` (the next process), :mod:`.largest`
  (NaN and infinity);
* the families, ``family.py`` (which rules, and the variant), ``family_engine.py`` (one step),
  ``family_loops.py`` (compiled): :mod:`.sm3` (with :mod:`.sm3_together`, many tensors in one launch),
  :mod:`.adafactor`, :mod:`.row_wise`, :mod:`.low_rank` (with :mod:`.panels`, :mod:`.leaf_sums`),
  :mod:`.microadam` (with :mod:`.vectors`), :mod:`.count_sketch`, :mod:`.error_feedback`.

:mod:`.flush` is a backend of its own. Importing this does not load Numba; the engines do.
"""

from . import adafactor, count_sketch, elementwise, error_feedback, low_rank, microadam, row_wise, sm3

VARIANTS = (
    *elementwise.VARIANTS,
    *sm3.VARIANTS,
    *microadam.VARIANTS,
    *adafactor.VARIANTS,
    *row_wise.VARIANTS,
    *low_rank.VARIANTS,
    *count_sketch.VARIANTS,
    *error_feedback.VARIANTS,
)

__all__ = ["VARIANTS"]
