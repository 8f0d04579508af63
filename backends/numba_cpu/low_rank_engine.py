"""One step of Adam with a rank-one second moment, by compiled loops. Loading this loads Numba."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from memopt_ref.parts.sums import LEAF, RUN
from memopt_ref.rules.elementwise import round_to
from memopt_ref.rules.low_rank import FLOOR, LowRankAdam

from . import low_rank_loops, panels
from .admit import decay_of
from .engine import fit
from .late_sums import along_rows, down_columns
from .low_rank_loops import NUMBERS
from .panels import Arrays
from .row_wise_engine import as_rows


@functools.cache
def kernel(what: str, wide: bool, options: tuple[Any, ...]) -> int | None:
    """The address of a loop, compiled or loaded once a process; None if that fails."""
    try:
        return int(low_rank_loops.loop(what, wide, *options).address)
    except Exception as error:
        text = f"LowRankAdam's {what} cannot be compiled, NumPy steps instead ({error})"
        warnings.warn(f"memopt_ref: {text}", RuntimeWarning, stacklevel=2)
        return None


def step(
    rule: LowRankAdam, w: Any, g: Any, state: Mapping[str, Any], t: int, threads: int | None = None
) -> bool:
    """Step ``w`` and the slots in place; or return False, nothing done, where compiled code cannot.

    Parameters
    ----------
    rule : LowRankAdam
        Admitted by :mod:`.low_rank`, with numbers.
    w, g : ndarray
        Parameter and dense gradient.
    state : mapping
        ``r`` and ``c``, or ``v``; perhaps ``m``. Counters are not touched.
    t : int
        The tensor's own step, 1 at the first.
    threads : int, optional
        Instead of the rule of thumb. It never changes a bit.
    """
    native = np.dtype(np.float64) if w.dtype == np.float64 else np.dtype(np.float32)
    entries = [state[name] for name in ("m", "v") if name in state]
    factors = [state[name] for name in ("r", "c") if name in state]
    shape = fit(w, g, entries, native, None)
    if shape is None or 0 in shape:
        return False
    lengths = [(w.shape[0],), (w.size // w.shape[0],)] if factors else []
    if [x.shape for x in factors] != lengths or not all(
        x.dtype == native and x.flags.writeable for x in factors
    ):
        return False
    if any(np.may_share_memory(g, x) for x in (w, *entries, *factors)):
        g = g.copy()
    arrays = [g, w, *entries] if not factors else [as_rows(x) for x in (g, w, *entries)]
    if any(x is None for x in arrays):
        return False
    decay, number = decay_of(rule, w)
    wide, part = bool(native == np.float64), "l2" if decay == "l2" else "none"
    loop = kernel("step", wide, (decay, "m" in state, not factors))
    squares = kernel("squares", wide, (part,)) if factors else 0
    if loop is None or squares is None:
        return False
    one = np.empty(0, native)
    k = {name: round_to(one, value) for name, value in rule.coefficients(t).items()}
    given = {**k, "decay": number, "floor": FLOOR}
    numbers = [given[name] for name in NUMBERS]
    row = column = None
    with np.errstate(all="ignore"):
        if factors:
            read = arrays[:2] if part == "l2" else arrays[:1]
            m, n = arrays[0].shape
            leaves = np.empty((m, -(-n // LEAF)), native)
            runs = np.zeros((-(-m // RUN), n), native)
            panels.run(squares, Arrays(read, [False] * len(read), leaves, runs), numbers, native, threads)
            r, c = factors
            r[...], column, row = rule.factors(along_rows(leaves), down_columns(runs), r, c, k)
            c[...] = column
        for several in [arrays] if factors else panels.pieces(arrays):
            whole = Arrays(several, [place > 0 for place in range(len(several))], row=row, column=column)
            panels.run(loop, whole, numbers, native, threads, backwards=bool(factors))
    return True
