"""One Adafactor step in one call: the passes over the tensor, and what a step computes between them.

What is between the passes is little, but as calls of NumPy it would take as long as the passes over a matrix
of a million entries. Here it is the rule's own expressions, compiled, over R and C and single numbers.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from memopt_ref.parts.scalar import maximum, ratio
from memopt_ref.parts.sums import LANES
from memopt_ref.rules import adafactor as rule

from . import panels, scalar  # noqa: F401  (scalar registers what expressions may call)
from .cache import KernelCache
from .engine import TASKS_A_THREAD
from .late_sums import sum_columns, sum_row, sum_rows
from .options import STRICT

#: Rows of ``passes``, in the order in which a step takes them, see :mod:`.adafactor_loops`.
SIZE, SQUARES, UPDATE, STEP = range(4)
#: Their columns: addresses of the loop, 0 if there is no such pass, and of what comes before it in the
#: gradient's buffer, or 0; the first of its parts and the one after the last.
LOOP, PREPARE, FIRST, LAST = range(4)
#: Columns of ``parts``: the first row in ``arrays`` and how many; how many panels; where its leaf sums begin
#: among the tensor's; then its shape.
ROW, COUNT, PANELS, LEAF, SHAPE = range(5)
#: The numbers of a step in the compute dtype, rounded as the reference rounds them: those of
#: :meth:`Adafactor.numbers` in this order, 1 / eps1, the weight decay, and entries, rows and columns.
NAMES = ("one", "rho", "eps1", "eps2", "d", "beta1", "fresh1", "beta2", "fresh2")
ONE, RHO, EPS1, EPS2, D, BETA1, FRESH1, BETA2, FRESH2, MOST, RATE, ENTRIES, HEIGHT, WIDTH = range(14)
#: In float64, for the loops to round: the share of the weights in the gradient, what is added to its square,
#: what the weights are multiplied with before everything, and in the step.
DECAY, ADDED, BEFORE, KEEP = range(4)
#: Whether the rate is relative to RMS(X), the update is clipped, eps1 clamps, and the weights decay with the
#: rate of this step; leaf sums of the tensor, and of a row of R; threads.
RELATIVE, CLIPPED, CLAMPED, DECOUPLED, LEAVES, PITCH, THREADS = range(7)

mean_root = numba.njit(**STRICT)(rule.mean_root)
relative_rate = numba.njit(**STRICT)(rule.relative_rate)
clipping = numba.njit(**STRICT)(rule.clipping)
tracked = numba.njit(**STRICT)(rule.tracked)
inverse_root = numba.njit(**STRICT)(rule.inverse_root)
unbounded_inverse_root = numba.njit(**STRICT)(rule.unbounded_inverse_root)


@numba.njit(**STRICT)
def sweep(
    which: int, passes: Any, parts: Any, arrays: Any, beside: Any, numbers: Any, size: int, threads: int
) -> None:
    """Take the pass ``which`` over the tensor; the update goes backwards: what was read last is met first.

    Parameters
    ----------
    passes, parts, arrays, beside : array of int64
        See :func:`take`.
    numbers : array of float64
        The loop's.
    size, threads : int
        Bytes of a number; how many threads there are.
    """
    for p in range(passes[which, FIRST], passes[which, LAST]):
        part, own = parts[p], beside.copy()
        own[0] += part[LEAF] * size
        listed = arrays[part[ROW] : part[ROW] + part[COUNT]]
        number = min(threads, part[PANELS])
        arguments = (
            passes[which, LOOP],
            passes[which, PREPARE],
            listed,
            part[SHAPE:],
            own,
            numbers,
            size,
            which == UPDATE,
            part[PANELS],
            min(TASKS_A_THREAD * number, part[PANELS]),
        )
        if number > 1:
            panels.parallel(*arguments)
        else:
            panels.serial(*arguments)


@numba.njit(**STRICT)
def to_inverse_roots(x: Any, one: Any, clamped: bool) -> None:
    """1 / sqrt(x) in place."""
    if clamped:
        for i in range(x.size):
            x[i] = unbounded_inverse_root(x[i], one)[0]
    else:
        for i in range(x.size):
            x[i] = inverse_root(x[i], one)[0]


@numba.njit(**STRICT)
def follow(
    leaves: Any, runs: Any, R: Any, C: Any, row: Any, column: Any, k: Any, clamped: bool, lanes: Any
) -> None:
    """R and C, and their inverse roots, from the sums of a pass: ``Adafactor.factors``.

    Parameters
    ----------
    leaves, runs : array, shape [batch m, leaves of a row] and [batch, runs of a column, n]
        Sums along rows and down columns, as far as the pass took them.
    R, C, row, column : array, shape [batch, m], [batch, n], [batch, m] and [batch, n]
        The factors; what a row and a column of G is multiplied with, written.
    """
    m, n = R.shape[1], C.shape[1]
    sum_rows(leaves, row.reshape(-1))
    sum_columns(runs, column)
    for b in range(R.shape[0]):
        for i in range(m):
            R[b, i] = tracked(R[b, i], row[b, i], k[BETA2], k[FRESH2], k[WIDTH])[0]
            # To be used up by the sum.
            row[b, i] = R[b, i]
        mean_R = sum_row(row[b], m, lanes) / k[HEIGHT]
        if clamped:
            mean_R = maximum(mean_R, k[EPS1])
        for i in range(m):
            row[b, i] = ratio(R[b, i], mean_R)
        for j in range(n):
            C[b, j] = tracked(C[b, j], column[b, j], k[BETA2], k[FRESH2], k[HEIGHT])[0]
            column[b, j] = C[b, j]
        to_inverse_roots(row[b], k[ONE], clamped)
        to_inverse_roots(column[b], k[ONE], clamped)


@numba.njit(**STRICT, nogil=True)
def take(
    passes: Any,
    parts: Any,
    arrays: Any,
    beside: Any,
    k: Any,
    given: Any,
    how: Any,
    leaves: Any,
    runs: Any,
    R: Any,
    C: Any,
    row: Any,
    column: Any,
) -> None:
    """One step of one tensor.

    Parameters
    ----------
    passes : array of int64, shape [4, 4]
    parts : array of int64, shape [parts of all passes, 4 + axes]
        Columns as above.
    arrays : array of int64, shape [arrays of all parts, columns of :mod:`.panels`]
    beside : array of int64, shape [6]
        Addresses as :mod:`.panels` takes them: leaves, runs, row, column; of the loop that joins lanes; 0.
    k : array, shape [14]
        Numbers in the compute dtype, and ``given``, float64, shape [4], as above.
    how : array of int64, shape [7]
        As above.
    leaves : array, one axis
        Room for all leaf sums of a pass.
    runs, R, C, row, column : array
        See :func:`follow`; empty for a tensor that is not factored.
    """
    one, size, threads = k[ONE], leaves.itemsize, how[THREADS]
    lanes, numbers = np.empty(LANES, leaves.dtype), np.empty(8, np.float64)
    clamped = how[CLAMPED] != 0
    rms_w = one
    if passes[SIZE, LOOP] != 0:
        numbers[0] = given[BEFORE]
        sweep(SIZE, passes, parts, arrays, beside, numbers, size, threads)
        rms_w = mean_root(sum_row(leaves, how[LEAVES], lanes), k[ENTRIES])[0]
    alpha = relative_rate(rms_w, k[RHO], k[EPS2])[0] if how[RELATIVE] != 0 else k[RHO]
    if passes[SQUARES, LOOP] != 0:
        numbers[0], numbers[1] = given[DECAY], given[ADDED]
        sweep(SQUARES, passes, parts, arrays, beside, numbers, size, threads)
        sums = leaves[: row.size * how[PITCH]].reshape(row.size, how[PITCH])
        follow(sums, runs, R, C, row, column, k, clamped, lanes)
    shrink = one
    if passes[UPDATE, LOOP] != 0:
        numbers[0], numbers[1], numbers[2] = given[DECAY], one, k[MOST]
        numbers[3], numbers[4], numbers[5] = k[BETA2], k[FRESH2], given[ADDED]
        sweep(UPDATE, passes, parts, arrays, beside, numbers, size, threads)
        if how[CLIPPED] != 0:
            shrink = clipping(mean_root(sum_row(leaves, how[LEAVES], lanes), k[ENTRIES])[0], one, k[D])[0]
    numbers[0], numbers[1], numbers[2], numbers[3] = given[DECAY], one, k[MOST], given[KEEP]
    if how[DECOUPLED] != 0:
        numbers[3] = one - k[RATE] * alpha
    numbers[4], numbers[5], numbers[6], numbers[7] = alpha, shrink, k[BETA1], k[FRESH1]
    sweep(STEP, passes, parts, arrays, beside, numbers, size, threads)


take._cache = KernelCache("adafactor-take")
