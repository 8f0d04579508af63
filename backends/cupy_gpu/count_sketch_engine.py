"""One step of a rule with sketches: the active rows, their moments, their weights."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np

from memopt_ref.errors import BackendError
from memopt_ref.rules.count_sketch import CountSketchMomentum
from memopt_ref.rules.count_sketch_adam import CountSketchRMSProp
from memopt_ref.rules.sketch_state import MOMENTS, SketchedRule

from ..numba_cpu.admit import decay_of
from . import count_sketch_bind as binds
from . import engine
from .arrays import aligned, overlap, to_host, zeros
from .bind import entry
from .count_sketch_bind import Table
from .count_sketch_moments import follow, moment_of
from .count_sketch_rows import BITS, BLOCK, DEFAULT, Pass, Shape, find_active, flat, located, sizes, tiles
from .device import Device
from .sm3_engine import as_rows

#: Numbers that a thread may hold of the rows of a sketch.
HELD = 24


def step(
    device: Device,
    rule: SketchedRule,
    w: Any,
    g: Any,
    state: Mapping[str, Any],
    t: int,
    indices: Any = None,
    shape: Shape = DEFAULT,
) -> None:
    """Step ``w`` and the slots in place.

    Parameters
    ----------
    device : Device
    rule : SketchedRule
        Admitted by :mod:`.count_sketch`, with numbers.
    w, g : array
        Parameter and dense gradient; or the rows of a gradient for the parameter's rows ``indices``.
    state : mapping
        The slots, checked by :func:`check`; counters are not touched.
    t : int
        The tensor's own step, 1 at the first; 0 where the rule counts none.
    indices : array of int64, optional
        Row numbers of ``w`` on the device, ascending and in range.
    shape : Shape, optional
        It never changes a bit.

    Raises
    ------
    StabilityError, RowIndexError, BackendError
        As the rule's own step, or for a hash family that leads out of its table; nothing is written.
    """
    tables = [state[name] for name in MOMENTS if name in state]
    slots = [state["m"]] if "m" in state else []
    if any(overlap(g, x) for x in (w, *tables, *slots)):
        g = g.copy()
    columns = prod(w.shape[1:])
    if columns == 0:
        return
    decay, number = decay_of(rule, w)
    native = engine.native_dtype(w.dtype)
    in_order = list(range(w.ndim))
    of_w, of_g, *of_slots = given = [as_rows(x, in_order, 1) for x in (w, g, *slots)]
    vec = aligned([x.array for x in given] + tables, shape.vec)
    while columns % vec or any(x.pitch % vec for x in given) or (vec > 1 and vec * rule.depth > HELD):
        vec //= 2
    dense = indices is None
    todo = Pass(
        device, shape._replace(vec=vec), of_w, of_g, indices, columns, dense, decay, native.type(number)
    )
    active = None
    if dense:
        active = zeros(w, w.shape[0], np.uint8)
        todo = todo._replace(items=find_active(todo, active))
    moments = [moment_of(rule, name, state[name], t) for name in MOMENTS if name in state]
    if rule.manner().can_diverge:
        rule.check_load("", to_host(todo.items), state)
    homes = [located(todo, rule, state, x.name, state[x.name]) for x in moments]
    kinds, answers = [], []
    for x, (places, keys) in zip(moments, homes, strict=True):
        found = follow(todo, x, places, keys)
        kinds.append(Table(MOMENTS[x.name], "asked" if found is None else "found", x.form.combine))
        answers.append((x.table, places) if found is None else (found,))
    for slot in of_slots:
        kinds.insert(0, Table("m", "slot"))
        answers.insert(0, (slot.array, np.int64(slot.pitch)))
    _weights(todo, rule, kinds, answers, t)
    if active is not None and decay == "factor":
        _rest(todo, active)
    # Copies that were stepped in the place of arrays whose axes do not join.
    for x, matrix in zip((w, *slots), (of_w, *of_slots), strict=True):
        if not overlap(x, matrix.array):
            x[...] = matrix.array


def check(rule: SketchedRule, w: Any, state: Mapping[str, Any]) -> None:
    """Raise BackendError unless each sketch is a plain table for these weights, small enough for places."""
    native, shape = engine.native_dtype(w.dtype), rule.table(w.shape, w.dtype).shape
    for name in (name for name in MOMENTS if name in state):
        x = state[name]
        engine.same_place(w, name, x)
        if x.shape != shape or x.dtype != native or not x.flags.c_contiguous:
            got, wanted = f"{x.dtype} of shape {x.shape}", f"{native} of shape {shape}, in one piece"
            raise BackendError(name, got, wanted, "Pass the rule's own state.")
        if prod(shape[:2]) >= 2**BITS or w.shape[0] >= 2**BITS:
            got, wanted = f"{max(prod(shape[:2]), w.shape[0])} rows", f"fewer than 2^{BITS}"
            raise BackendError(name, got, wanted, "Split the parameter, or take a smaller width.")


def _expression(rule: SketchedRule, names: tuple[str, ...], kinds: list[Table]) -> Any:
    """The expression that steps the weights along these moments."""
    if isinstance(rule, CountSketchMomentum):
        return binds.nesterov if rule.nesterov else binds.momentum
    if not isinstance(rule, CountSketchRMSProp):
        return binds.adagrad
    if "m" not in names:
        return binds.rmsprop
    return binds.adam_dense if kinds[0].kind == "slot" else binds.adam


def _weights(todo: Pass, rule: Any, kinds: list[Table], answers: list[Any], t: int) -> None:
    """Step the weights of the active rows."""
    if todo.rows == 0:
        return
    names = tuple(x.name for x in kinds)
    expression = _expression(rule, names, kinds)
    if isinstance(rule, CountSketchRMSProp):
        known = rule.dense().coefficients(t)
    else:
        of_rule = ("learning_rate", "momentum", "eps")
        known = {name: getattr(rule, name) for name in of_rule if hasattr(rule, name)}
    known = {**known, "decay": todo.number}
    native = engine.native_dtype(todo.w.array.dtype).type
    numbers = [native(known[name]) for name in entry(expression, names, todo.decay).numbers]
    types, shape = (todo.w.array.dtype, todo.g.array.dtype), todo.shape
    kernel = binds.step(expression, tuple(kinds), rule.depth, todo.decay, *types, shape.block, shape.vec)
    given = [x for answer in answers for x in answer]
    pitches = np.int64(todo.w.pitch), np.int64(todo.g.pitch), np.int32(todo.dense)
    args = (todo.w.array, todo.g.array, *given, todo.items, *sizes(todo), *pitches, *numbers)
    todo.device.launch(kernel, *tiles(todo, todo.rows), args)


def _rest(todo: Pass, active: Any) -> None:
    """Decay the weights of the rows that had no gradient."""
    args = (todo.w.array, active, np.int64(active.size), np.int64(todo.columns), np.int64(todo.w.pitch))
    kernel = binds.small("rest", todo.w.array.dtype, BLOCK)
    flat(todo.device, kernel, active.size * todo.columns, (*args, todo.number))
