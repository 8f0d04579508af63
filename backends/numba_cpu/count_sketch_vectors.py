"""All active rows of a block of columns and their sketches of three rows, sixteen float32 at a time.

The same numbers in the same operations as in :mod:`.count_sketch_rows`, in one loop: the buckets of a row are
read, asked and brought up to date while they are in registers, and the weights are stepped as soon as no
bucket of the row waits for another row; what belongs to the next row is sent for meanwhile, a cache line of
each at a time, so that memory is seldom idle. What a bucket takes part in, taking its increment at once or
holding a sum aside, is only where the loop reads and writes: ``to = base + (sum + increment)``, with a row of
-0, which changes no number it is added to, in the place of what is not there.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numba
import numpy as np

from memopt_ref.rules.elementwise import Expression, parameters

from . import count_sketch_rows as rows
from .bind import DECAY, KERNEL, compiled_function
from .count_sketch_plan import ALONE, FIRST, MIDDLE
from .count_sketch_rows import (
    ASIDE,
    FACTOR,
    HELD,
    NEXT,
    NOTHING,
    NUMBERS,
    PLACES,
    bucket,
    finish_numbers,
)
from .memory import as_float32, as_float64, as_int64, as_uint8, as_uint32
from .options import STRICT
from .pieces import closed, opened, there
from .vectors import (
    LANES,
    everywhere,
    fetch,
    floats_at,
    greater,
    larger,
    lesser,
    ordered,
    put_floats,
    smaller,
)


class Kept(NamedTuple):
    """How a moment is kept, as far as its loop differs; see the words of :mod:`.count_sketch_rows`."""

    least: bool
    lazy: bool
    momentum: bool
    fresh: bool


class Form(NamedTuple):
    """What the loops of a step do.

    Parameters
    ----------
    expression : function
        Steps the weights.
    mean, decay : str
        As for :func:`.count_sketch_rows.finish_text`.
    m, v : Kept or None
        The sketched moments.
    """

    expression: Expression
    mean: str
    decay: str
    m: Kept | None
    v: Kept | None

    @property
    def kept(self) -> dict[str, Kept]:
        """The sketched moments by their names."""
        return {name: kept for name, kept in (("m", self.m), ("v", self.v)) if kept is not None}


def serves(depth: int, native: Any, manner: Any, combinations: Any) -> bool:
    """Whether the loops serve a step: three rows of float32, an increment for all, medians and minima."""
    alike = manner.delta_from == "query" or manner.decay != "lazy"
    plain = alike and not manner.conservative and "mean" not in combinations
    return depth == 3 and native == np.float32 and plain


@numba.njit(**STRICT)
def median(x: Any, y: Any, z: Any) -> Any:
    """The median of three, NaN if one is. Where none is, one instruction each compares them."""
    if ordered(x, y, z):
        return larger(smaller(x, y), smaller(larger(x, y), z))
    return greater(lesser(x, y), lesser(greater(x, y), z))


@numba.njit(**STRICT)
def least(x: Any, y: Any, z: Any) -> Any:
    """The least of three, NaN if one is."""
    if ordered(x, y, z):
        return smaller(smaller(x, y), z)
    return lesser(lesser(x, y), z)


@numba.njit(**STRICT)
def buckets(words: Any, i: int) -> Any:
    """The addresses of the three buckets of the active row ``i``."""
    places = as_uint32(words[PLACES] + i * words[NEXT])
    return bucket(words, places[0]), bucket(words, places[1]), bucket(words, places[2])


@numba.njit(**STRICT)
def signs(words: Any, i: int) -> Any:
    """1 or -1 in all lanes for each of them."""
    places, numbers = as_uint32(words[PLACES] + i * words[NEXT]), as_float32(words[NUMBERS])
    p, q, r = (rows.sign(places[0], numbers), rows.sign(places[1], numbers), rows.sign(places[2], numbers))
    return everywhere(p), everywhere(q), everywhere(r)


@numba.njit(**STRICT)
def roads(words: Any, i: int, j: int, row: int, pitch: int) -> Any:
    """Where an increment's base and sum are read, and where it is written."""
    held, nothing = as_uint32(words[HELD] + i * words[NEXT])[j], words[NOTHING]
    total = words[ASIDE] + np.int64(held >> np.uint32(2)) * pitch
    if held == ALONE:
        return row, nothing, row
    if held % np.uint32(4) == FIRST:
        return nothing, nothing, total
    if held % np.uint32(4) == MIDDLE:
        return nothing, total, total
    return row, total, row


#: The table of a loop: addresses of the words of M and V; of how the weights, the gradient and a dense mean
#: lie (see :mod:`.count_sketch_drive`), and of a row for each that cannot be used in its place; of the active
#: rows and how they go through the sketches (see :mod:`.count_sketch_plan`); whether the gradient has its
#: rows where the weights have theirs; the first column.
TASK = (
    *("m_words", "v_words", "w_array", "g_array", "mean_array", "own_w", "own_g", "own_mean"),
    *("items", "order", "ready", "closing", "later", "listed", "left"),
)
#: Lines of the loops: over sixteen columns after sixteen, and their weights.
EACH, WEIGHTS = f"for k in range(0, pitch, {4 * LANES}):", "w = floats_at(w_at + k)"
_POINTERS = {
    **dict.fromkeys(("m_words", "v_words", "w_array", "g_array", "mean_array", "items"), "as_int64"),
    **dict.fromkeys(("order", "closing", "later"), "as_uint32"),
    "ready": "as_uint8",
}


def _asked(x: str, kept: Kept, name: str) -> str:
    """QUERY of the three values ``name`` of a moment: the least of three has no signs."""
    if kept.least:
        return f"least({', '.join(f'{x}{j}_{name}' for j in '123')})"
    return f"median({', '.join(f'{x}{j}_sign * {x}{j}_{name}' for j in '123')})"


def _found(x: str) -> list[str]:
    """Where the buckets of the active row ``i`` are, and those of the row ``after``."""
    names = [", ".join(f"{x}{j}_{name}" for j in "123") for name in ("old_at", "sign", "soon")]
    values = (f"buckets({x}_words, i)", f"signs({x}_words, i)", f"buckets({x}_words, after)")
    return [f"{name} = {value}" for name, value in zip(names, values, strict=True)]


def _followed(x: str, kept: Kept) -> list[str]:
    """QUERY, the increment and UPDATE of sixteen columns, but for writing it."""
    lines = [f"step = {'entering * entering' if x == 'v' else 'entering'}"]
    if kept.lazy:
        lines += [f"old = {_asked(x, kept, 'old')}"]
        lines += [f"step = {'momentum' if kept.momentum else 'mean'}_delta(old, step, {x}_factor)"]
    elif kept.fresh:
        lines += [f"step = {x}_factor * step"]
    for j in "123":
        step = "step" if kept.least else f"{x}{j}_sign * step"
        lines += [f"{x}{j}_new = {x}{j}_base + ({x}{j}_sum + {step})"]
    return lines


def _finished(form: Form) -> list[str]:
    """The step of sixteen weights."""
    inside = {"v": "greater(v, zero)", "w": DECAY[form.decay][0].replace("[i]", ""), "g": "entering"}
    inside["m"] = {"estimate": "m", "slot": "mean", "none": "entering"}[form.mean]
    call = ", ".join(inside.get(name, name) for name in parameters(form.expression))
    slot = form.mean == "slot"
    return [
        *(f"{x} = {_asked(x, kept, 'new')}" for x, kept in form.kept.items()),
        *(["mean = beta1 * floats_at(mean_at + k) + fresh1 * entering"] if slot else []),
        f"out = expression({call})",
        f"put_floats(w_at + k, out[{form.expression.returns.index('w')}])",  # type: ignore[attr-defined]
        *(["put_floats(mean_at + k, mean)"] if slot else []),
    ]


def _indented(lines: list[str]) -> list[str]:
    return ["    " + line for line in lines]


def _entering(form: Form) -> str:
    return f"entering = {DECAY[form.decay][1].replace('[i]', '')}"


def _sent_for(form: Form) -> list[str]:
    places = [f"{x}{j}_soon" for x in form.kept for j in "123"]
    return [f"fetch({place} + k)" for place in (*places, "g_soon", "w_soon")]


def _columns(form: Form) -> list[str]:
    """What a row that is met does with sixteen of its columns."""
    lines = _sent_for(form)
    # All is read before anything is written: rows a multiple of 4096 bytes apart would wait for one another.
    lines += ["g = floats_at(g_at + k)"]
    lines += [WEIGHTS, _entering(form)] if form.decay == "l2" else [_entering(form)]
    for x, kept in form.kept.items():
        parts = (*(["old"] if kept.lazy else []), "base", "sum")
        lines += [f"{x}{j}_{part} = floats_at({x}{j}_{part}_at + k)" for j in "123" for part in parts]
    for x, kept in form.kept.items():
        lines += _followed(x, kept)
    lines += ["if stepped:", *_indented([WEIGHTS, *_finished(form)])]
    return lines + [f"put_floats({x}{j}_to + k, {x}{j}_new)" for x in form.kept for j in "123"]


def _columns_later(form: Form) -> list[str]:
    """What a row that had to wait does with sixteen of its columns."""
    lines = _sent_for(form)
    lines += [f"{x}{j}_new = floats_at({x}{j}_old_at + k)" for x in form.kept for j in "123"]
    return [*lines, "g = floats_at(g_at + k)", WEIGHTS, _entering(form), *_finished(form)]


def _rows(form: Form) -> list[str]:
    """What happens to the row at the place ``p`` of the order, and to those that have waited for it."""
    arrays = ("w", "mean") if form.mean == "slot" else ("w",)
    to_step = [f"{name}_at = opened({name}_array, row, left, n, own_{name})" for name in arrays]
    back = [f"closed({name}_array, row, left, n, own_{name}, {name}_at)" for name in arrays]
    gradient = "g_at = opened(g_array, row if listed else i, left, n, own_g)"
    found = [line for x in form.kept for line in _found(x)]
    lines = ["i, after = order[p], order[min(p + 1, rows - 1)]", "row, next_row = items[i], items[after]"]
    # The weights and the gradient may begin in the middle of a cache line.
    soon = ["g_soon = there(g_array, next_row if listed else after, left)", "fetch(g_soon + pitch - 4)"]
    soon += ["w_soon = there(w_array, next_row, left)", "fetch(w_soon + pitch - 4)"]
    lines += ["stepped = ready[i] != 0", gradient, *soon]
    lines += to_step if form.decay == "l2" else ["if stepped:", *_indented(to_step)]
    lines += found
    for x in form.kept:
        for k, j in enumerate("123"):
            ways = ", ".join(f"{x}{j}_{part}" for part in ("base_at", "sum_at", "to"))
            lines += [f"{ways} = roads({x}_words, i, {k}, {x}{j}_old_at, pitch)"]
    lines += [EACH, *_indented(_columns(form)), "if stepped:", *_indented(back)]
    now = ["i, after = later[q], later[min(q + 1, last - 1)]", "row, next_row = items[i], items[after]"]
    now += [gradient, *soon, *to_step, *found]
    now += [EACH, *_indented(_columns_later(form)), *back, "q += 1"]
    return [*lines, "last = q + closing[p]", "while q < last:", *_indented(now)]


def text(form: Form) -> str:
    """The loop that takes all active rows through their sketches and steps them.

    A row that waits for another is stepped once that is done with, when it is mostly still near.
    """
    names = finish_numbers(form.expression, form.mean)
    lines = ["addresses, values = as_int64(table), as_float64(numbers)"]
    for k, name in enumerate(TASK):
        lines += [f"{name} = {_POINTERS.get(name, '')}(addresses[{k}])"]
    lines += [f"{name} = everywhere(number(values[{k}]))" for k, name in enumerate([*names, "decay"])]
    lines += [f"{x}_factor = everywhere(as_float32({x}_words[{NUMBERS}])[{FACTOR}])" for x in form.kept]
    lines += ["zero, pitch, w_at, mean_at, q = everywhere(number(0)), 4 * n, own_w, own_mean, 0"]
    lines += ["for p in range(rows):", *_indented(_rows(form))]
    return "\n".join(["def loop(table, rows, n, numbers):", *_indented(lines)]) + "\n"


#: What the loops call.
CALLED = {
    "number": np.float32,
    "as_int64": as_int64,
    "as_uint8": as_uint8,
    "as_uint32": as_uint32,
    "as_float32": as_float32,
    "as_float64": as_float64,
    "everywhere": everywhere,
    "fetch": fetch,
    "floats_at": floats_at,
    "put_floats": put_floats,
    "greater": greater,
    "median": median,
    "least": least,
    "buckets": buckets,
    "signs": signs,
    "roads": roads,
    "there": there,
    "opened": opened,
    "closed": closed,
    "momentum_delta": rows.momentum_delta,
    "mean_delta": rows.mean_delta,
}


@functools.cache
def loop(form: Form) -> Any:
    """The loop, compiled, with an ``address``."""
    source = text(form)
    namespace = {"__name__": __name__, **CALLED, "expression": numba.njit(**STRICT)(form.expression)}
    exec(compile(source, f"<loop of {form.expression.__name__}>", "exec"), namespace)  # noqa: S102
    marks = ["".join("01"[flag] for flag in kept) if kept else "none" for kept in (form.m, form.v)]
    parts = ["sketch", form.expression.__name__, form.mean, form.decay, *marks]
    return compiled_function(namespace["loop"], KERNEL, "-".join([*parts, "vectors"]))
