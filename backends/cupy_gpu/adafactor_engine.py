"""One Adafactor step: its passes over the tensor, and the small launches between them.

    size      W       leaves of W^2, for RMS(X)
    squares   G       sums of G^2 + eps1 along rows and down columns
    ...               R, C, r, c
    update    G       leaves of U^2, for RMS(U); V of a tensor that is not factored
    ...               alpha, shrink, and what w is multiplied by
    step      W, G    the step

No launch waits for the host, and no block for another: what one launch sums, the next one reads.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from math import prod
from typing import Any, NamedTuple

import numpy as np

from memopt_ref.parts.sums import LEAF
from memopt_ref.rules.adafactor import Adafactor

from ..numba_cpu.admit import decay_of
from . import adafactor_bind as bind
from . import factors, folds, passes
from .arrays import namespace, overlap, place
from .device import Device
from .engine import native_dtype

#: Threads of a block of the passes.
BLOCK = 256


class Job(NamedTuple):
    """What the launches of one step share: arrays by name, in one piece, and the step's numbers."""

    device: Device
    rule: Adafactor
    arrays: dict[str, Any]
    place: str
    native: Any
    k: dict[str, Any]
    block: int

    @property
    def clamped(self) -> bool:
        """Whether eps1 clamps."""
        return self.rule.eps_mode == "clamp"

    @property
    def l2(self) -> bool:
        """Whether w is part of the gradient."""
        return self._decays_by("l2")

    @property
    def before(self) -> bool:
        """Whether w decays before everything."""
        return self._decays_by("before")

    def _decays_by(self, mode: str) -> bool:
        return self.rule.weight_decay != 0 and self.rule.weight_decay_mode == mode

    def number(self, value: Any) -> Any:
        """Rounded to the compute dtype, of exactly that type."""
        return self.native.type(value)

    def room(self, *shape: int) -> Any:
        """Memory for numbers of the compute dtype."""
        return folds.room(self.arrays["w"], shape, self.native)


def step(
    device: Device, rule: Adafactor, w: Any, g: Any, state: Mapping[str, Any], t: int, block: int = BLOCK
) -> None:
    """Step ``w`` and the slots in place.

    Parameters
    ----------
    device : Device
    rule : Adafactor
        Admitted by :mod:`.adafactor`, with numbers.
    w, g : array
        Parameter and dense gradient.
    state : mapping
        ``R`` and ``C``, or ``v``; perhaps ``m``. Counters are not touched.
    t : int
        The tensor's own step, 1 at the first.
    block : int, optional
        Threads of a block of the passes. It never changes a bit.
    """
    given = {"w": w, "g": g, **{name: x for name, x in state.items() if name != "t"}}
    if any(overlap(g, x) for name, x in given.items() if name != "g"):
        given["g"] = g.copy()
    native, pair = native_dtype(w.dtype), rule.factor_pair(w.shape)
    with place(w):
        arrays = {name: namespace(x).ascontiguousarray(x) for name, x in given.items()}
        where = "own" if pair is None else "rows" if pair == (w.ndim - 2, w.ndim - 1) else "entries"
        job = Job(device, rule, arrays, where, native, rule.numbers(t, np.empty(0, native)), block)
        _launches(job, pair)
        # What was stepped as a copy.
        for name, x in given.items():
            if name != "g" and not overlap(x, job.arrays[name]):
                x[...] = job.arrays[name].reshape(x.shape)


def _launches(job: Job, pair: tuple[int, int] | None) -> None:
    rule, w = job.rule, job.arrays["w"]
    scaled, clipped = rule.scale_parameter, rule.clip_threshold is not None
    decay = job.number(decay_of(rule, w)[1] if job.l2 or job.before else 0.0)
    rows, columns = w.size // max(w.shape[-1], 1) if w.ndim else 1, w.shape[-1] if w.ndim else 1
    parts = rows * -(-columns // LEAF)
    sums = job.room(2, parts)
    options = w.dtype, job.arrays["g"].dtype
    if scaled and parts:
        kernel = _chosen(job, bind.size, (job.before,), ["w"], options)
        _pass(job, kernel, ["w"], sums[0], (rows, columns, rows), [decay])
    if pair is not None:
        _factors(job, pair, decay)
    height = w.shape[-2] if job.place == "rows" else max(rows, 1)
    most = job.number(rule.most(job.k)) if job.clamped else job.k["one"]
    if (clipped or job.place == "own") and parts:
        names = bind.arrays(job.place, job.l2)
        kernel = _chosen(job, bind.update, (job.place, job.clamped, job.l2), names, options)
        eps1 = job.number(0.0 if job.clamped else job.k["eps1"])
        numbers = [decay, job.k["one"], most, job.k["beta2"], job.k["fresh2"], eps1]
        _pass(job, kernel, names, sums[1], (rows, columns, height), numbers)
    if not parts:
        return
    found = _numbers(job, sums, scaled, clipped, decay)
    mean = rule.momentum_of if "m" in job.arrays else "none"
    names = bind.arrays(job.place, True, mean != "none")
    kernel = _chosen(job, bind.step, (job.place, job.clamped, job.l2, mean), names, options)
    numbers = [decay, job.k["one"], most, job.k["beta1"], job.k["fresh1"]]
    _pass(job, kernel, names, found, (rows, columns, height), numbers)


def _chosen(job: Job, make: Any, what: tuple[Any, ...], names: list[str], options: tuple[Any, ...]) -> Any:
    """A pass with packs of four where every array has them."""
    columns = job.arrays["w"].shape[-1] if job.arrays["w"].ndim else 1
    packed = [job.arrays[x] for x in names if not (x == "r" and job.place == "rows")]
    return make(*what, *options, job.block, passes.pack(columns, packed))


def _pass(
    job: Job, kernel: Any, names: list[str], target: Any, extent: tuple[int, int, int], numbers: list[Any]
) -> None:
    rows, columns, height = extent
    leaves = -(-columns // LEAF)
    grid = -(-rows * leaves * 32 // job.block)
    sizes = (np.int64(n) for n in (rows, columns, leaves, height))
    args = (*(job.arrays[x] for x in names), target, *sizes, *numbers)
    job.device.launch(kernel, (grid,), (job.block,), args)


def _numbers(job: Job, sums: Any, scaled: bool, clipped: bool, decay: Any) -> Any:
    """What w is multiplied by, alpha and shrink, on the device."""
    rule, k = job.rule, job.k
    if scaled or clipped:
        # Both rows at once, or the one that holds sums; what is not summed is not read.
        some = slice(int(not scaled), 1 + int(clipped))
        sums = folds.leaves(job.device, sums[some], LEAF)
    late = rule.weight_decay != 0 and rule.weight_decay_mode == "decoupled"
    keep = decay if job.before else k["one"] if late else job.number(rule.keep(k["rho"], k))
    found = job.room(len(bind.FOUND))
    args = (
        sums[0],
        sums[-1],
        found,
        np.int64(sums.shape[-1]),
        np.int32(scaled),
        np.int32(clipped),
        np.int32(late),
        k["one"],
        job.number(job.arrays["w"].size),
        k["eps2"],
        k["rho"],
        k["d"],
        keep,
        job.number(rule.weight_decay if late else 0.0),
    )
    kernel = bind.small("adafactor_numbers", job.native, job.clamped)
    job.device.launch(kernel, (1,), (factors.BLOCK,), args)
    return found


def _factors(job: Job, pair: tuple[int, int], decay: Any) -> None:
    """Bring R and C up to date; r and c join the arrays."""
    i, j = pair
    k, arrays = job.k, job.arrays
    axes = tuple(a for a in range(arrays["w"].ndim) if a not in pair)
    names = ["g", *(["w"] if job.l2 else [])]
    last = job.place == "rows"
    matrix = {x: arrays[x] if last else _ordered(arrays[x], (*axes, i, j)) for x in names}
    shape = arrays["w"].shape
    matrices, m, n = prod(shape[a] for a in axes), shape[i], shape[j]
    extent = matrices, m, n
    eps1 = job.number(0.0 if job.clamped else k["eps1"])
    make = functools.partial(bind.squares, job.l2, arrays["w"].dtype, arrays["g"].dtype, job.block)
    given = list(matrix.values()), extent, job.native, (decay, eps1), job.block
    row_sums, column_sums = factors.sums(job.device, make, *given)
    R = arrays["R"] if last else _ordered(arrays["R"], _without(axes, i, j))
    C = arrays["C"] if last else _ordered(arrays["C"], _without(axes, j, i))
    small = functools.partial(bind.small, native=job.native, clamped=job.clamped)
    row, column = factors.averages(job.device, small, row_sums, column_sums, R, C, extent, k)
    if last:
        arrays |= {"r": row, "c": column}
        return
    # One number an entry: any two axes.
    for name, x, factor, kept in (("r", R, row, i), ("c", C, column, j)):
        order = (*axes, kept)
        back = np.argsort(order).tolist()
        own = arrays["R" if name == "r" else "C"]
        own[...] = x.reshape([shape[a] for a in order]).transpose(back)
        seen = factor.reshape([shape[a] for a in order]).transpose(back)
        seen = seen.reshape([shape[a] if a in order else 1 for a in range(len(shape))])
        xp = namespace(seen)
        arrays[name] = xp.ascontiguousarray(xp.broadcast_to(seen, shape))


def _ordered(x: Any, order: tuple[int, ...]) -> Any:
    return namespace(x).ascontiguousarray(x.transpose(order))


def _without(axes: tuple[int, ...], kept: int, gone: int) -> tuple[int, ...]:
    """The order of a factor's axes that puts ``kept`` last, the axis ``gone`` being absent."""
    return tuple(a - (gone < a) for a in (*axes, kept))
