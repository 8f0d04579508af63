"""One SM3-II step by compiled loops. Loading this loads Numba."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from memopt_ref.rules.sm3 import SM3

from . import runtime, sm3_drive, sm3_loops, vectors
from .admit import decay_of
from .drive import NOWHERE
from .engine import TASKS_A_THREAD, describe, fit, run_tiles
from .kinds import kind_of
from .layout import tiling
from .sm3 import split
from .sm3_loops import NUMBERS, SHORT
from .vectors import LANES

#: Columns of a block: a row's piece of this length is long enough, and its accumulators fit the second cache.
COLUMNS = 16384
#: Entries between two tasks' maxima, so that they share no cache line.
APART = 64


class Job(NamedTuple):
    """What the parts of one step share: arrays (w, g and perhaps m), their shape, and how to step them."""

    arrays: list[Any]
    shape: tuple[int, ...]
    native: Any
    indices: Any
    decay: str
    neutral: bool
    numbers: Any
    threads: int | None
    tasks: int | None

    @property
    def mean(self) -> bool:
        """Whether there is momentum."""
        return len(self.arrays) > 2


def step(
    rule: SM3,
    w: Any,
    g: Any,
    state: dict[str, Any],
    indices: Any = None,
    threads: int | None = None,
    tasks: int | None = None,
) -> bool:
    """Step ``w`` and the slots in place; or return False, nothing done, where compiled code cannot.

    Parameters
    ----------
    rule : SM3
        Admitted by :mod:`.sm3`, with numbers.
    w, g : ndarray
        Parameter and dense gradient; or the rows of a gradient for the parameter's rows ``indices``.
    state : mapping
        ``mu_0``, ``mu_1``, ... and perhaps ``m``.
    indices : array of int64, optional
        Ascending row numbers of ``w``.
    threads, tasks : int, optional
        Instead of the rule of thumb. They never change a bit.
    """
    native = np.dtype(np.float64) if w.dtype == np.float64 else np.dtype(np.float32)
    mu = [state[f"mu_{a}"] for a in range(max(1, w.ndim))]
    entries = [state["m"]] if "m" in state else []
    entrywise = entries if w.ndim > 1 else [*entries, *mu]
    shape = fit(w, g, entrywise, native, indices)
    if shape is None or not all(x.dtype == native and x.flags.writeable for x in mu):
        return False
    if w.ndim > 1 and [x.shape for x in mu] != [(n,) for n in w.shape]:
        return False
    if any(np.may_share_memory(g, x) for x in (w, *mu, *entries)):
        g = g.copy()
    decay, number = decay_of(rule, w)
    numbers = numbers_of(rule, bool(entries), number)
    job = Job([w, g, *entries], shape, native, indices, decay, neutral(rule), numbers, threads, tasks)
    ratchet = rule.beta2 != 1 and rule.ema == "ratchet"
    if w.ndim < 2:
        return not ratchet and _vector(job, mu[0])
    return _tensor(job, mu, ratchet)


def numbers_of(rule: SM3, mean: bool, decay: float) -> Any:
    """The numbers of a loop, in order."""
    average = rule.beta2 != 1
    given = {
        "learning_rate": rule.learning_rate,
        "momentum": rule.momentum,
        "share": 1.0 - rule.momentum,
        "kept": rule.beta2 if average else 1.0,
        "fresh": 1.0 - rule.beta2 if average else 1.0,
        "eps_root": rule.eps_root,
        "eps": rule.eps,
    }
    return np.array([*(given[name] for name in NUMBERS[mean]), decay], np.float64)


def neutral(rule: SM3) -> bool:
    """Whether the rule is the paper's, without averages and offsets; see :data:`.sm3_loops.NEUTRAL`."""
    return bool(rule.beta2 == 1 and rule.eps_root == 0 and rule.eps == 0)


@functools.cache
def kernel(loop: str, mean: bool, decay: str, wide: bool, neutral: bool = False) -> int | None:
    """The address of a loop, compiled or loaded once a process; None if that fails."""
    try:
        return int(sm3_loops.loop(loop, mean, decay, wide, neutral).address)
    except Exception as error:
        what = f"SM3's {loop} cannot be compiled, NumPy steps instead ({error})"
        warnings.warn(f"memopt_ref: {what}", RuntimeWarning, stacklevel=2)
        return None


def loop_of(width: int, wide: bool) -> str:
    """The loop that steps rows of so many entries."""
    if width >= SHORT:
        return "pairs"
    return "runs" if wide or width % LANES or not vectors.available() else "lanes"


def _vector(job: Job, mu: Any) -> bool:
    """Every entry is its own cover set: nu takes the accumulator's place."""
    if 0 in job.shape:
        return True
    address = kernel("single", job.mean, job.decay, job.native == np.float64, job.neutral)
    if address is None:
        return False
    arrays = [*job.arrays, mu]
    tiles = tiling(arrays, job.shape, job.native, job.indices is not None)
    run_tiles(address, arrays, tiles, job.native, job.indices, job.numbers, job.threads)
    return True


def _tensor(job: Job, mu: list[Any], ratchet: bool) -> bool:
    """Split the axes in two groups, step the matrix, bring its maxima to the axes."""
    shape, indices = job.shape, job.indices
    sparse = indices is not None
    matrix = as_matrix(job.arrays, shape, sparse)
    if matrix is None:
        return False
    groups, steps = matrix
    old = [x[indices] if sparse and a == 0 else x for a, x in enumerate(mu)]
    row, column = (_least(old, group, job.native) for group in groups)
    tops = _maxima(job, steps, row.copy() if ratchet else row, column)
    if tops is None:
        return False
    for group, top in zip(groups, tops, strict=True):
        images = top.reshape([shape[a] for a in group])
        for place, a in enumerate(group):
            others = tuple(p for p in range(len(group)) if p != place)
            new = (images.max(axis=others, initial=0) if others else images).view(job.native)
            if np.may_share_memory(new, mu[a]):
                continue
            if ratchet or (sparse and a != 0):
                # Rows without a gradient may hold a column's maximum.
                new = np.maximum(old[a], new)
            mu[a][indices if sparse and a == 0 else ...] = new
    return True


def as_matrix(
    arrays: Sequence[Any], shape: tuple[int, ...], sparse: bool = False
) -> tuple[tuple[list[int], list[int]], list[tuple[int, int]]] | None:
    """The axes down and those across, and each array's steps along the two; None if an array has not two.

    The first array's farthest axes go down; the first one alone where rows are listed (``sparse``).
    """
    order = sorted(range(int(sparse), len(shape)), key=lambda a: -abs(arrays[0].strides[a]))
    order = [0, *order] if sparse else order
    cut = 1 if sparse else split(tuple(shape[a] for a in order))
    groups = order[:cut], order[cut:]
    steps = [tuple(_joint_step(x, shape, group, sparse) for group in groups) for x in arrays]
    if any(s is None for pair in steps for s in pair):
        return None
    return groups, steps  # type: ignore[return-value]


def _joint_step(x: Any, shape: tuple[int, ...], group: list[int], sparse: bool) -> int | None:
    """Elements from one place of a group of axes to the next; None if the array has them not in one piece.

    An axis of length 1 is never walked, but for the first where rows are listed: one may be any.
    """
    joint = reach = None
    for a in reversed(group):
        step = x.strides[a] // x.itemsize
        if shape[a] == 1 and not (sparse and a == 0):
            continue
        if joint is None:
            joint = step
        elif step != reach:
            return None
        reach = step * shape[a]
    return 1 if joint is None else int(joint)


def _least(mu: list[Any], group: list[int], native: Any) -> Any:
    """The least accumulator of the group's axes at each of its places, in the group's order."""
    least = mu[group[0]]
    for a in group[1:]:
        least = np.minimum(least[..., None], mu[a])
    return np.ascontiguousarray(least, native).reshape(-1)


def _maxima(job: Job, steps: Any, row: Any, column: Any) -> tuple[Any, Any] | None:
    """Step all entries; images of the largest nu of each row and column, the rows' perhaps in ``row``."""
    image = np.dtype(f"u{job.native.itemsize}")
    if not row.size or not column.size:
        return np.zeros(row.size, image), np.zeros(column.size, image)
    short, wide = column.size < SHORT, bool(job.native == np.float64)
    address = kernel(loop_of(column.size, wide), job.mean, job.decay, wide, job.neutral)
    own = kind_of(job.native)
    if address is None or own is None:
        return None
    number = runtime.threads(row.size * column.size, job.threads)
    wanted = TASKS_A_THREAD * number if job.tasks is None else job.tasks
    across = 1 if short else -(-column.size // COLUMNS)
    down = max(1, min(-(-wanted // across), row.size // 2))
    highs = row.view(image)[None] if across == 1 else np.empty((across, row.size + APART), image)
    tops = np.zeros((down, column.size + APART), image)
    described = [
        describe(x, k, own, pair, in_place=False)
        for k, (x, pair) in enumerate(zip(job.arrays, steps, strict=True))
    ]
    arguments = (
        address,
        short,
        np.array(described, np.int64),
        NOWHERE if job.indices is None else np.ascontiguousarray(job.indices, np.int64),
        row,
        column,
        highs,
        tops,
        job.numbers,
        down,
        across,
    )
    if number > 1 and down * across > 1:
        runtime.launch(sm3_drive.parallel, arguments, number)
    else:
        sm3_drive.serial(*arguments)
    # A maximum over one is a copy of it.
    high, top = (x[0] if len(x) == 1 else x.max(axis=0) for x in (highs, tops))
    return high[: row.size], top[: column.size]
