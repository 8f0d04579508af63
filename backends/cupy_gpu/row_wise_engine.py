"""One step of AdaGrad with one number a tensor or a row: which launches, and what they are given.

vectors        one launch of an element-wise expression, as every entry is a row of its own
short rows     one launch: sums and step from one reading, 12 bytes an entry in float32
longer rows    leaves of squares; sums; the rows' numbers; the step
whole tensors  the same, with one number
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any, NamedTuple

import numpy as np

from memopt_ref.parts.sums import LEAF
from memopt_ref.rules.adagrad_forms import AdaGradNorm, RowWiseAdaGrad

from ..numba_cpu.admit import decay_of
from . import engine, folds, passes
from . import row_wise_bind as bind
from .arrays import namespace, overlap, place
from .bind import Shape, entry
from .device import Device

#: Threads of a block.
BLOCK = 256


class Job(NamedTuple):
    """What the launches of one step share: arrays in one piece, and the numbers of ``bind.NUMBERS``."""

    device: Device
    w: Any
    g: Any
    s: Any
    decay: str
    numbers: list[Any]
    native: Any
    block: int

    @property
    def options(self) -> tuple[Any, Any, int]:
        """What every kernel is bound for."""
        return self.w.dtype, self.g.dtype, self.block

    def launch(self, kernel: Any, threads: int, args: tuple[Any, ...]) -> None:
        """So many threads, in blocks."""
        self.device.launch(kernel, (-(-threads // self.block),), (self.block,), args)


def step(
    device: Device,
    rule: AdaGradNorm,
    w: Any,
    g: Any,
    state: Mapping[str, Any],
    indices: Any = None,
    block: int = BLOCK,
) -> None:
    """Step ``w`` and ``s`` in place.

    Parameters
    ----------
    device : Device
    rule : AdaGradNorm or RowWiseAdaGrad
        Admitted by :mod:`.row_wise`, with numbers.
    w, g : array
        Parameter and dense gradient; or the rows of a gradient for the parameter's rows ``indices``.
    state : mapping
        ``s``.
    indices : array of int64, optional
        Row numbers of ``w`` on the device, each once and in range.
    block : int, optional
        Threads of a block. It never changes a bit.
    """
    s = state["s"]
    if g.size == 0:
        return
    if any(overlap(g, x) for x in (w, s)):
        g = g.copy()
    by_row = isinstance(rule, RowWiseAdaGrad)
    columns = prod(g.shape[1:]) if by_row else 0
    share = rule.share(columns) if isinstance(rule, RowWiseAdaGrad) else 1
    decay, number = decay_of(rule, w)
    native = engine.native_dtype(w.dtype)
    known = {"decay": number, "learning_rate": rule.learning_rate, "eps_root": rule.eps_root, "eps": rule.eps}
    numbers = {name: native.type(value) for name, value in known.items()}
    if by_row and w.ndim < 2:
        names = entry(bind.own_row, ("s",), decay).numbers
        todo = engine.Job(bind.own_row, ("s",), decay, [w, g, s], [numbers[name] for name in names])
        engine.run(device, todo, indices, Shape(block, engine.thumb(w)))
        return
    # Long rows of a sparse gradient, and all where the parameter would be copied, are stepped apart.
    apart = indices is not None and (columns > LEAF or not w.flags.c_contiguous)
    with place(w):
        whole_w, whole_s = w, s
        if apart:
            w, s = whole_w[indices], whole_s[indices]
        own_w, own_g = (namespace(x).ascontiguousarray(x).reshape(x.shape) for x in (w, g))
        job = Job(device, own_w, own_g, s, decay, list(numbers.values()), native, block)
        if not by_row:
            _norm(job)
        elif columns <= LEAF:
            _short_rows(job, columns, share, None if apart else indices)
        else:
            _long_rows(job, columns, share)
        if apart:
            whole_w[indices], whole_s[indices] = job.w, s
        elif not overlap(whole_w, job.w):
            whole_w[...] = job.w


def _short_rows(job: Job, columns: int, share: int, indices: Any) -> None:
    rows, group = job.g.size // columns, min(32, 1 << (-(-columns // 4) - 1).bit_length())
    kernel = bind.rows(job.decay, indices is not None, *job.options, passes.pack(columns, [job.w, job.g]))
    listed = [] if indices is None else [indices]
    sizes = np.int64(rows), np.int64(columns), np.int32(group)
    args = (job.g, job.w, job.s, *listed, *sizes, job.native.type(share), *job.numbers)
    job.launch(kernel, rows * group, args)


def _long_rows(job: Job, columns: int, share: int) -> None:
    rows = job.g.size // columns
    _settle(job, folds.leaves(job.device, _leaves(job, rows, columns)), share)
    _step(job, True, rows, columns)


def _norm(job: Job) -> None:
    columns = job.w.shape[-1] if job.w.ndim else 1
    leaves = _leaves(job, job.w.size // columns, columns)
    _settle(job, folds.leaves(job.device, leaves.reshape(1, -1)), 1)
    _step(job, False, 1, job.w.size)


def _leaves(job: Job, rows: int, columns: int) -> Any:
    """The sums of the leaves of squares."""
    sums = folds.room(job.w, (rows, -(-columns // LEAF)), job.native)
    l2 = job.decay == "l2"
    arrays = [job.g, job.w] if l2 else [job.g]
    kernel = bind.squares(l2, *job.options, passes.pack(columns, arrays))
    _pass(job, kernel, (*arrays, sums), rows, columns, job.numbers[:1])
    return sums


def _settle(job: Job, sums: Any, share: int) -> None:
    args = job.s, sums, np.int64(sums.size), job.native.type(share)
    job.launch(bind.settle(job.native, job.block), sums.size, args)


def _step(job: Job, by_row: bool, rows: int, columns: int) -> None:
    kernel = bind.step(job.decay, by_row, *job.options, passes.pack(columns, [job.g, job.w]))
    _pass(job, kernel, (job.g, job.w, job.s), rows, columns, job.numbers)


def _pass(
    job: Job, kernel: Any, arrays: tuple[Any, ...], rows: int, columns: int, numbers: list[Any]
) -> None:
    leaves = -(-columns // LEAF)
    sizes = (np.int64(n) for n in (rows, columns, leaves, rows))
    job.launch(kernel, 32 * rows * leaves, (*arrays, *sizes, *numbers))
