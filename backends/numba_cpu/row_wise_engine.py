"""One step of AdaGrad with one number a tensor or a row, by compiled loops. Loading this loads Numba."""

from __future__ import annotations

import functools
import warnings
from itertools import pairwise
from math import prod
from typing import Any, NamedTuple

import numpy as np

from memopt_ref.parts.sums import LEAF
from memopt_ref.rules.adagrad_forms import AdaGradNorm, RowWiseAdaGrad

from . import panels, row_wise_loops
from .admit import decay_of
from .engine import fit
from .late_sums import along_rows
from .panels import Arrays


class Job(NamedTuple):
    """What the passes of one step share; ``indices`` are the rows of w that the gradient's stand for."""

    rule: AdaGradNorm
    w: Any
    g: Any
    s: Any
    native: Any
    decay: str
    numbers: list[float]
    indices: Any
    threads: int | None

    @property
    def squares(self) -> tuple[str]:
        """The option of the sums: a decay of w does not change the gradient."""
        return ("l2" if self.decay == "l2" else "none",)

    def run(self, what: str, options: tuple[Any, ...], arrays: Any, numbers: Any, **beside: Any) -> None:
        """Take a loop over arrays, those of :func:`.row_wise_loops.arrays`."""
        names = row_wise_loops.arrays(what, self.decay)
        written = [name == "s" or (name == "w" and what != "squares") for name in names]
        listed = [name == "w" and self.indices is not None for name in names]
        given = Arrays(arrays, written, listed=listed, indices=self.indices, **beside)
        wide = bool(self.native == np.float64)
        loop = row_wise_loops.loop(what, wide, *options)
        panels.run(loop.address, given, numbers, self.native, self.threads)


@functools.cache
def compiled(native: Any, *loops: tuple[Any, ...]) -> bool:
    """Whether all these loops are compiled or loaded; each is tried once a process."""
    try:
        for what, *options in loops:
            row_wise_loops.loop(what, bool(native == np.float64), *options)
    except Exception as error:
        text = f"AdaGrad's {what} cannot be compiled, NumPy steps instead ({error})"
        warnings.warn(f"memopt_ref: {text}", RuntimeWarning, stacklevel=2)
        return False
    return True


def step(
    rule: AdaGradNorm,
    w: Any,
    g: Any,
    state: dict[str, Any],
    indices: Any = None,
    threads: int | None = None,
) -> bool:
    """Step ``w`` and ``s`` in place; or return False, nothing done, where compiled code cannot.

    Parameters
    ----------
    rule : AdaGradNorm or RowWiseAdaGrad
        Admitted by :mod:`.row_wise`, with numbers.
    w, g : ndarray
        Parameter and dense gradient; or the rows of a gradient for the parameter's rows ``indices``.
    state : mapping
        ``s``.
    indices : array of int64, optional
        Ascending row numbers of ``w``.
    threads : int, optional
        Instead of the rule of thumb. It never changes a bit.
    """
    native = np.dtype(np.float64) if w.dtype == np.float64 else np.dtype(np.float32)
    s = state["s"]
    by_row = isinstance(rule, RowWiseAdaGrad)
    shape = fit(w, g, [], native, indices)
    fits = isinstance(s, np.ndarray) and s.dtype == native and s.flags.writeable
    if shape is None or 0 in shape or not fits or s.shape != (w.shape[:1] if by_row else ()):
        return False
    if any(np.may_share_memory(g, x) for x in (w, s)):
        g = g.copy()
    decay, number = decay_of(rule, w)
    numbers = [number, rule.learning_rate, rule.eps_root, rule.eps]
    if indices is not None:
        indices = np.ascontiguousarray(indices, np.int64)
    job = Job(rule, w, g, s, native, decay, numbers, indices, threads)
    with np.errstate(all="ignore"):
        if not by_row:
            return _norm(job)
        return _rows(job) if w.ndim > 1 or indices is not None else _vector(job)


def _norm(job: Job) -> bool:
    squares, step = job.squares, (job.decay, False)
    if not compiled(job.native, ("squares", *squares), ("step", *step)):
        return False
    width = job.w.shape[-1] if job.w.ndim else 1
    leaves = np.empty(job.w.size // width * -(-width // LEAF), job.native)
    start = 0
    for arrays in panels.pieces([job.g, job.w]):
        wide = arrays[0].shape[-1]
        stop = start + arrays[0].size // wide * -(-wide // LEAF)
        several = arrays if job.decay == "l2" else arrays[:1]
        job.run("squares", squares, several, job.numbers, leaves=leaves[start:stop])
        start = stop
    job.s[...] = job.s + along_rows(leaves)
    for arrays in panels.pieces([job.g, job.w]):
        job.run("step", step, arrays, [*job.numbers, job.s])
    return True


def _vector(job: Job) -> bool:
    """Every entry is its own row."""
    if not compiled(job.native, ("vector", job.decay)):
        return False
    for arrays in panels.pieces([job.g, job.s, job.w]):
        job.run("vector", (job.decay,), arrays, job.numbers)
    return True


def _rows(job: Job) -> bool:
    g, w = as_rows(job.g), as_rows(job.w)
    if g is None or w is None:
        return False
    m, n = g.shape
    own = ... if job.indices is None else job.indices
    share = job.rule.share(n) if job.g.ndim > 1 else 1  # type: ignore[attr-defined]
    if n <= LEAF:
        if not compiled(job.native, ("rows", job.decay)):
            return False
        s = np.array(job.s[own])
        leaves = np.empty((m, 1), job.native)
        job.run("rows", (job.decay,), [g, w], [*job.numbers, share], leaves=leaves, row=s)
    else:
        squares, step = job.squares, (job.decay, True)
        if not compiled(job.native, ("squares", *squares), ("step", *step)):
            return False
        leaves = np.empty((m, -(-n // LEAF)), job.native)
        job.run("squares", squares, [g, w] if job.decay == "l2" else [g], job.numbers, leaves=leaves)
        s = job.s[own] + along_rows(leaves) / share
        job.run("step", step, [g, w], job.numbers, row=s)
    job.s[own] = s
    return True


def as_rows(x: Any) -> Any:
    """The array as a matrix of its rows; None if that would copy it.

    Examples
    --------
    >>> x = np.zeros((4, 2, 3))
    >>> as_rows(x).shape, as_rows(np.asfortranarray(x)) is None, as_rows(x[0, 0]).shape
    ((4, 6), True, (3, 1))
    """
    axes = [(n, s) for n, s in zip(x.shape[1:], x.strides[1:], strict=True) if n > 1]
    if any(far != near * n for (_, far), (n, near) in pairwise(axes)):
        return None
    return x.reshape(x.shape[0], prod(x.shape[1:]))
