"""A sketched moment on a device: its increments from the old table, and their sums into its buckets."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from memopt_ref.rules.count_sketch import CountSketchMomentum

from . import count_sketch_bind as binds
from .arrays import empty
from .count_sketch_bind import Form
from .count_sketch_rows import BLOCK, WALK, Pass, flat, kernel_of, pitches, sizes, tiles

#: Active rows above which looking for those of a bucket always costs more than a sort.
SCANNED = 8192


class Moment(NamedTuple):
    """A sketch in the state and what becomes of it; ``scales`` are its cleaning and its whole decay."""

    name: str
    table: Any
    form: Form
    factor: Any
    scales: tuple[Any, Any]


def moment_of(rule: Any, name: str, table: Any, t: int) -> Moment:
    """How a moment is kept, as ``SketchedRule.track`` and ``Manner.track`` do."""
    manner, of = rule.manner(), table.dtype.type
    keep = float(rule.keeps().get(name, 0.0))
    fresh = 1.0 if isinstance(rule, CountSketchMomentum) or keep == 1 else 1.0 - keep
    lazy = manner.decay == "lazy" and keep != 1
    delta = (binds.by_momentum if fresh == 1 else binds.by_mean) if lazy else None
    form = Form(
        depth=int(table.shape[0]),
        combine=rule.combination(name),
        squares=name == "V",
        delta=delta,
        by_row=manner.delta_from == "row",
        conservative=manner.conservative and name == "V",
        sequential=manner.order == "sequential",
    )
    every = getattr(rule, "clean_every", 0) if name == "V" else 0
    cleaning = rule.clean_factor if every and t % every == 0 else 1.0
    scales = of(cleaning), of(1.0 if lazy else keep)
    return Moment(name, table, form, of(keep - 1.0 if lazy and fresh == 1 else fresh), scales)


def follow(todo: Pass, x: Moment, places: Any, keys: Any) -> Any:
    """Bring a table up to date; returns QUERY's answers where each row has one of its own time."""
    if x.scales != (1, 1):
        kernel = binds.small("scale", x.table.dtype, BLOCK)
        flat(todo.device, kernel, x.table.size, (x.table, np.int64(x.table.size), *x.scales))
    if todo.rows == 0:
        return empty(x.table, 0, x.table.dtype) if x.form.sequential else None
    source = todo.g.array, todo.w.array, todo.items
    numbers = np.int32(todo.dense), x.factor, todo.number
    if x.form.walks:
        shape = todo.rows, todo.columns
        found = empty(x.table, shape, x.table.dtype) if x.form.sequential else None
        out = () if found is None else (found,)
        args = (*source, places, x.table, *out, *sizes(todo), *pitches(todo), *numbers)
        flat(todo.device, kernel_of(todo, "walk", x.form, 1, WALK), todo.columns, args, WALK)
        return found
    rest: tuple[Any, ...] = (*source, *pitches(todo), *numbers)
    if x.form.asks_first:
        ready = empty(x.table, (todo.rows, todo.columns), x.table.dtype)
        args = (*source, places, x.table, ready, *sizes(todo), *pitches(todo), *numbers)
        kernel = kernel_of(todo, "increments", x.form, todo.shape.vec)
        todo.device.launch(kernel, *tiles(todo, todo.rows), args)
        rest = (ready,)
    scan = todo.shape.scan and todo.rows <= SCANNED
    if not scan:
        keys.sort()
    kernel = kernel_of(todo, "scatter", x.form, todo.shape.vec, scan=scan)
    args = (*rest, keys, x.table, np.int64(keys.size), *sizes(todo))
    todo.device.launch(kernel, *tiles(todo, keys.size, 32 if scan else 1), args)
    return None
