"""One SM3-II step: the tensor as a matrix, its pass, and what brings the maxima to the accumulators."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any, NamedTuple

import numpy as np

from memopt_ref.rules.sm3 import SM3

from ..numba_cpu.admit import decay_of
from ..numba_cpu.sm3 import split
from . import engine, sm3_bind
from .arrays import aligned, namespace, overlap, place, zeros
from .bind import Shape, entry
from .device import Device

#: Threads of a block of the small kernels.
BLOCK = 256
#: Blocks for each of the device's processors below which threads walk fewer rows.
BUSY = 4


class Tile(NamedTuple):
    """How the pass is launched: all that a tuner may change. It never changes a bit.

    ``block`` threads, packs of at most ``vec`` neighbours, and at most ``deep`` rows a thread.
    """

    block: int = 256
    vec: int = 4
    deep: int = 64


DEFAULT = Tile()


class Matrix(NamedTuple):
    """An array as rows of neighbours: ``pitch`` entries from one row to the next."""

    array: Any
    pitch: int


class Pass(NamedTuple):
    """What a step is made of: rule as numbers, device, rows that are listed or None."""

    device: Device
    mean: bool
    decay: str
    numbers: list[Any]
    native: Any
    indices: Any
    ratchet: bool
    tile: Tile


def step(
    device: Device,
    rule: SM3,
    w: Any,
    g: Any,
    state: Mapping[str, Any],
    indices: Any = None,
    tile: Tile = DEFAULT,
) -> None:
    """Step ``w`` and the slots in place.

    Parameters
    ----------
    device : Device
    rule : SM3
        Admitted by :mod:`.sm3`, with numbers.
    w, g : array
        Parameter and dense gradient; or the rows of a gradient for the parameter's rows ``indices``.
    state : mapping
        ``mu_0``, ``mu_1``, ... and perhaps ``m``.
    indices : array of int64, optional
        Row numbers of ``w`` on the device, each once and in range.
    tile : Tile, optional
        It never changes a bit.
    """
    mu = [state[f"mu_{a}"] for a in range(max(1, w.ndim))]
    entries = [state["m"]] if "m" in state else []
    if any(overlap(g, x) for x in (w, *mu, *entries)):
        g = g.copy()
    if g.size == 0 and w.ndim < 2:
        return
    mean, ratchet = bool(entries), bool(rule.beta2 != 1 and rule.ema == "ratchet")
    decay, number = decay_of(rule, w)
    native = engine.native_dtype(w.dtype)
    vector = w.ndim < 2
    slots = ("m", "least") if mean else ("least",)
    expression = sm3_bind.expression(mean, ratchet and vector)
    known = numbers_of(rule) | {"decay": number}
    numbers = [native.type(known[name]) for name in entry(expression, slots, decay).numbers]
    if vector:
        job = engine.Job(expression, slots, decay, [w, g, *entries, mu[0]], numbers)
        engine.run(device, job, indices, Shape(tile.block, tile.vec))
        return
    todo = Pass(device, mean, decay, numbers, native, indices, ratchet, tile)
    with place(w):
        _tensor(todo, [w, g, *entries], mu)


def numbers_of(rule: SM3) -> dict[str, float]:
    """The rule's numbers by the names of the expressions."""
    average = rule.beta2 != 1
    return {
        "learning_rate": rule.learning_rate,
        "momentum": rule.momentum,
        "share": 1.0 - rule.momentum,
        "kept": rule.beta2 if average else 1.0,
        "fresh": 1.0 - rule.beta2 if average else 1.0,
        "eps_root": rule.eps_root,
        "eps": rule.eps,
    }


def _tensor(todo: Pass, arrays: list[Any], mu: list[Any]) -> None:
    """Split the axes in two groups, step the matrix, bring its maxima to the axes."""
    sparse = todo.indices is not None
    w, g = arrays[:2]
    order = sorted(range(int(sparse), w.ndim), key=lambda a: -abs(w.strides[a]))
    order = [0, *order] if sparse else order
    cut = 1 if sparse else split(tuple(w.shape[a] for a in order))
    groups = order[:cut], order[cut:]
    rows, columns = (prod(g.shape[a] for a in group) for group in groups)
    image = np.dtype(f"u{todo.native.itemsize}")
    most = zeros(w, rows + columns, image)
    row_most, column_most = most[:rows], most[rows:]
    if rows and columns:
        row, column = (_least(todo, [mu[a] for a in group]) for group in groups)
        given = [as_rows(x, order, cut) for x in arrays]
        _matrix(todo, given, row, column, row_most, column_most)
        # Copies that were stepped in the place of arrays whose axes do not join.
        for x, matrix in zip(arrays, given, strict=True):
            if x is not g and not overlap(x, matrix.array):
                x.transpose(order)[...] = matrix.array
    if w.ndim == 2:
        _finish(todo, [mu[a] for a in order], row_most, column_most)
        return
    for group, top in zip(groups, (row_most, column_most), strict=True):
        _fold(todo, [g.shape[a] for a in group], [mu[a] for a in group], top, group[0] == 0 and sparse)


def as_rows(x: Any, order: list[int], cut: int) -> Matrix:
    """An array with its axes in this order as a matrix of contiguous rows; a copy if it cannot be seen so.

    Examples
    --------
    >>> x = np.zeros((6, 10), np.float32)
    >>> as_rows(x[:, :8], [0, 1], 1).pitch, as_rows(x.T, [1, 0], 1).pitch, as_rows(x[:, ::2], [0, 1], 1).pitch
    (10, 10, 5)
    """
    view = x.transpose(order)
    rows, columns = (_joint_step(view, axes) for axes in (range(cut), range(cut, view.ndim)))
    if rows is None or columns != 1:
        view = namespace(x).ascontiguousarray(view)
        rows = prod(view.shape[cut:])
    return Matrix(view, rows)


def _joint_step(x: Any, axes: range) -> int | None:
    """Entries from one place of neighbouring axes to the next; None if they do not join."""
    joint = reach = None
    for a in reversed(axes):
        step = x.strides[a] // x.itemsize
        if x.shape[a] == 1:
            continue
        if joint is None:
            joint = step
        elif step != reach:
            return None
        reach = step * x.shape[a]
    return 1 if joint is None else int(joint)


def _least(todo: Pass, mu: list[Any]) -> Any:
    """The least accumulator of a group of axes at each of its places."""
    least = namespace(mu[0]).ascontiguousarray(mu[0])
    for right in mu[1:]:
        joint = zeros(least, least.size * right.size, todo.native)
        count, inner = np.int64(joint.size), np.int64(right.size)
        right = namespace(right).ascontiguousarray(right)
        _flat(todo, "sm3_least", joint.size, (joint, least, right, count, inner))
        least = joint
    return least


def _flat(todo: Pass, name: str, threads: int, args: tuple[Any, ...], listed: bool = False) -> None:
    if threads == 0:
        return
    kernel = sm3_bind.small(name, todo.native, BLOCK, listed)
    todo.device.launch(kernel, (-(-threads // BLOCK),), (BLOCK,), args)


def _matrix(todo: Pass, given: list[Matrix], row: Any, column: Any, row_most: Any, column_most: Any) -> None:
    """The pass itself."""
    g = given[1].array
    rows, columns = row_most.size, column_most.size
    block, vec, deep = todo.tile
    vec = aligned([x.array for x in given], vec)
    while columns % vec or any(x.pitch % vec for x in given):
        vec //= 2
    width = min(block, 1 << (-(-columns // vec) - 1).bit_length())
    height = block // width
    across = -(-columns // (width * vec))
    # Few rows are shared out more finely, so that no processor waits.
    wanted = -(-rows * across // (height * BUSY * todo.device.processors))
    deep = max(1, min(deep, wanted))
    grid = across * -(-rows // (height * deep))
    sparse = todo.indices is not None
    kernel = sm3_bind.matrix(todo.mean, todo.decay, given[0].array.dtype, g.dtype, block, vec, sparse)
    args = (
        *(x.array for x in given),
        row,
        column,
        row_most,
        column_most,
        *([todo.indices] if sparse else []),
        np.int64(rows),
        np.int64(columns),
        *(np.int64(x.pitch) for x in given),
        np.int32(deep),
        np.int32(across),
        *todo.numbers,
    )
    todo.device.launch(kernel, (grid,), (width, height), args)


def _finish(todo: Pass, mu: list[Any], row_most: Any, column_most: Any) -> None:
    """The accumulators of a matrix, both in one launch."""
    sparse = todo.indices is not None
    # Rows without a gradient may hold a column's maximum.
    args = (
        mu[0],
        row_most,
        *([todo.indices] if sparse else []),
        np.int64(row_most.size),
        np.int32(todo.ratchet),
        mu[1],
        column_most,
        np.int64(column_most.size),
        np.int32(todo.ratchet or sparse),
    )
    _flat(todo, "sm3_finish", row_most.size + column_most.size, args, sparse)


def _fold(todo: Pass, lengths: list[int], mu: list[Any], most: Any, listed: bool) -> None:
    """The accumulators of the axes of a group from its maxima."""
    for k, x in enumerate(mu):
        outer, inner = prod(lengths[:k]), prod(lengths[k + 1 :])
        if listed:
            nothing = most[:0], np.int64(0), np.int32(0)
            args = (x, most, todo.indices, np.int64(most.size), np.int32(todo.ratchet), x, *nothing)
            _flat(todo, "sm3_finish", most.size, args, listed=True)
        elif lengths[k]:
            keep = np.int32(todo.ratchet or todo.indices is not None)
            sizes = (np.int64(n) for n in (outer, lengths[k], inner))
            _flat(todo, "sm3_fold", 32 * lengths[k], (x, most, *sizes, keep))
