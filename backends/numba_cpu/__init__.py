"""Kernels for NumPy arrays, compiled by Numba when they are first needed.

Read in this order: :mod:`.elementwise` (a step of a rule that is one expression), :mod:`.admit` (which rules,
and why not others), :mod:`.engine` (the step, compiled), :mod:`.bind` (the expression becomes a loop),
:mod:`.layout`, :mod:`.drive` and :mod:`.move` (arrays become runs that the loop can take), :mod:`.runtime`
(threads and forks), :mod:`.cache` (the next process); then :mod:`.sm3`, :mod:`.sm3_engine` and
:mod:`.sm3_loops`. Importing this does not load Numba; the engines do.
"""

from . import elementwise, sm3

VARIANTS = (*elementwise.VARIANTS, *sm3.VARIANTS)

__all__ = ["VARIANTS"]
