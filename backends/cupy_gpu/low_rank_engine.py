"""One step of Adam with a rank-one second moment: sums both ways, r and c, the step.

    squares  G     sums of G^2 + 1e-30 along rows and down columns: 4 bytes an entry in float32
    ...            r, c, r / mean(r)
    step     G, W  the step: 12 bytes, and 8 more with m

A tensor below two axes has a v of its own and takes one launch of an element-wise expression.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np

from memopt_ref.parts.sums import LEAF
from memopt_ref.rules.low_rank import FLOOR, LowRankAdam

from ..numba_cpu.admit import decay_of
from . import engine, factors, passes
from . import low_rank_bind as bind
from .arrays import namespace, overlap, place
from .bind import Shape, entry
from .device import Device

#: Threads of a block of the passes.
BLOCK = 256


def step(
    device: Device,
    rule: LowRankAdam,
    w: Any,
    g: Any,
    state: Mapping[str, Any],
    t: int,
    indices: Any = None,
    block: int = BLOCK,
) -> None:
    """Step ``w`` and the slots in place.

    Parameters
    ----------
    device : Device
    rule : LowRankAdam
        Admitted by :mod:`.low_rank`, with numbers.
    w, g : array
        Parameter and dense gradient; or, below two axes, entries of a gradient for those of ``indices``.
    state : mapping
        ``r`` and ``c``, or ``v``; perhaps ``m``. Counters are not touched.
    t : int
        The tensor's own step, 1 at the first.
    indices : array of int64, optional
        On the device, each once and in range.
    block : int, optional
        Threads of a block of the passes. It never changes a bit.
    """
    given = {"w": w, "g": g, **{name: x for name, x in state.items() if name != "t"}}
    if any(overlap(g, x) for name, x in given.items() if name != "g"):
        given["g"] = g.copy()
    native = engine.native_dtype(w.dtype)
    decay, number = decay_of(rule, w)
    known = {"one": 1.0, "eps1": 0.0, "floor": FLOOR, "decay": number, **rule.coefficients(t)}
    numbers = {name: native.type(value) for name, value in known.items()}
    if "v" in given:
        slots = ("m", "v") if "m" in given else ("v",)
        expression = bind.own if "m" in given else bind.own_without_mean
        names = entry(expression, slots, decay).numbers
        several = [given[x] for x in ("w", "g", *slots)]
        job = engine.Job(expression, slots, decay, several, [numbers[x] for x in names])
        engine.run(device, job, indices, Shape(block, engine.thumb(w)))
        return
    with place(w):
        arrays = {name: namespace(x).ascontiguousarray(x) for name, x in given.items()}
        _matrix(device, arrays, native, decay, numbers, block)
        # What was stepped as a copy.
        for name, x in given.items():
            if name != "g" and not overlap(x, arrays[name]):
                x[...] = arrays[name]


def _matrix(
    device: Device, arrays: dict[str, Any], native: Any, decay: str, numbers: dict[str, Any], block: int
) -> None:
    """The step of contiguous arrays as matrices."""
    w, g, r, c = (arrays[name] for name in ("w", "g", "r", "c"))
    extent, l2 = (1, r.size, c.size), decay == "l2"
    make = functools.partial(bind.squares, l2, w.dtype, g.dtype, block)
    read, measure = [g, w] if l2 else [g], (numbers["decay"], numbers["floor"])
    sums = factors.sums(device, make, read, extent, native, measure, block)
    small = functools.partial(bind.small, native=native)
    row, column = factors.averages(device, small, *sums, r, c, extent, numbers)
    if w.size == 0:
        return
    mean = [arrays["m"]] if "m" in arrays else []
    vec = passes.pack(c.size, [g, w, column, *mean])
    kernel = bind.step(bool(mean), decay, w.dtype, g.dtype, block, vec)
    leaves = -(-c.size // LEAF)
    sizes = (np.int64(n) for n in (r.size, c.size, leaves, r.size))
    args = (g, w, row, column, *mean, *sizes, *(numbers[name] for name in bind.NUMBERS))
    device.launch(kernel, (-(-32 * r.size * leaves // block),), (block,), args)
