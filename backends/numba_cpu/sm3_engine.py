"""One SM3-II step by compiled loops. Loading this loads Numba."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from memopt_ref.rules.sm3 import SM3

from ..registry import Leaf
from . import direct, runtime, sm3_loops
from .admit import decay_of
from .drive import NOWHERE
from .engine import TASKS_A_THREAD, describe, fit, run_tiles
from .kinds import kind_of
from .layout import tiling
from .sm3 import split
from .sm3_loops import NUMBERS, SHORT

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
    numbers = _numbers(rule, bool(entries), number)
    job = Job([w, g, *entries], shape, native, indices, decay, numbers, threads, tasks)
    ratchet = rule.beta2 != 1 and rule.ema == "ratchet"
    if w.ndim < 2:
        return not ratchet and _vector(job, mu[0])
    return _tensor(job, mu, ratchet)


def together(leaves: Sequence[Leaf]) -> list[int]:
    """Step the vectors in one launch; the places of the other leaves, which are left to :func:`step`."""
    vectors = [k for k, leaf in enumerate(leaves) if leaf.w.ndim < 2]
    left = direct.step([leaves[k] for k in vectors], _vector_slots, _vector_loop)
    remaining = {vectors[k] for k in left}
    return [k for k, leaf in enumerate(leaves) if leaf.w.ndim > 1 or k in remaining]


def _vector_slots(leaf: Leaf) -> tuple[str, ...]:
    return ("m", "mu_0") if "m" in leaf.state else ("mu_0",)


def _vector_loop(rule: Any, t: int, kind: direct.Kind) -> tuple[int, Any] | None:
    own = kind_of(kind.native)
    if (kind.parameter, kind.gradient) != (own, own) or (rule.beta2 != 1 and rule.ema == "ratchet"):
        return None
    mean = "m" in kind.keys
    if kind.names != (("m", "mu_0") if mean else ("mu_0",)):
        return None
    decay, number = decay_of(rule, None)
    address = kernel("single", mean, decay, kind.native == np.float64)
    return None if address is None else (address, _numbers(rule, mean, number))


def _numbers(rule: SM3, mean: bool, decay: float) -> Any:
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


@functools.cache
def kernel(loop: str, mean: bool, decay: str, wide: bool) -> int | None:
    """The address of a loop, compiled or loaded once a process; None if that fails."""
    try:
        return int(sm3_loops.loop(loop, mean, decay, wide).address)
    except Exception as error:
        what = f"SM3's {loop} cannot be compiled, NumPy steps instead ({error})"
        warnings.warn(f"memopt_ref: {what}", RuntimeWarning, stacklevel=2)
        return None


def _vector(job: Job, mu: Any) -> bool:
    """Every entry is its own cover set: nu takes the accumulator's place."""
    if 0 in job.shape:
        return True
    address = kernel("single", job.mean, job.decay, job.native == np.float64)
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
    order = sorted(range(int(sparse), len(shape)), key=lambda a: -abs(job.arrays[0].strides[a]))
    order = [0, *order] if sparse else order
    cut = 1 if sparse else split(tuple(shape[a] for a in order))
    groups = order[:cut], order[cut:]
    steps = [tuple(_joint_step(x, shape, group, sparse) for group in groups) for x in job.arrays]
    if any(s is None for pair in steps for s in pair):
        return False
    old = [x[indices] if sparse and a == 0 else x for a, x in enumerate(mu)]
    row, column = (_least(old, group, job.native) for group in groups)
    tops: tuple[Any, Any] | None = np.zeros_like(row), np.zeros_like(column)
    if row.size and column.size:
        tops = _maxima(job, steps, row, column)
    if tops is None:
        return False
    for group, top in zip(groups, tops, strict=True):
        images = top.view(f"u{job.native.itemsize}").reshape([shape[a] for a in group])
        for place, a in enumerate(group):
            others = tuple(p for p in range(len(group)) if p != place)
            new = images.max(axis=others, initial=0).view(job.native)
            if ratchet or (sparse and a != 0):
                # Rows without a gradient may hold a column's maximum.
                new = np.maximum(old[a], new)
            mu[a][indices if sparse and a == 0 else ...] = new
    return True


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
    """Step all entries; the largest nu of each row and of each column."""
    short = column.size < SHORT
    address = kernel("runs" if short else "pairs", job.mean, job.decay, job.native == np.float64)
    own = kind_of(job.native)
    if address is None or own is None:
        return None
    number = runtime.threads(row.size * column.size, job.threads)
    wanted = TASKS_A_THREAD * number if job.tasks is None else job.tasks
    across = 1 if short else -(-column.size // COLUMNS)
    down = max(1, min(-(-wanted // across), row.size // 2))
    image = np.dtype(f"u{job.native.itemsize}")
    highs = np.zeros((across, row.size + APART), image)
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
        runtime.launch(sm3_loops.parallel, arguments, number)
    else:
        sm3_loops.serial(*arguments)
    high, top = highs.max(axis=0)[: row.size], tops.max(axis=0)[: column.size]
    return high.view(job.native), top.view(job.native)
