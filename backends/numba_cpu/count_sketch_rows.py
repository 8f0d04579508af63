"""What happens to the columns of one row: QUERY, the increment, UPDATE, and the step of the weights.

Loops over contiguous numbers of one type, a piece of a row that stays in the first cache; the formulas are
the rule's own functions, compiled. The C functions below take the address of a table of words, the columns of
which are named here, the row's place among the active ones, the number of columns, and the address of
numbers: 1, -1, 0, 2, the depth, the factor of the increment, the weight decay, and what the whole table is
multiplied with when it is cleaned and when all of it decays.
"""

from __future__ import annotations

import functools
import types as python_types
from typing import Any

import numba
import numpy as np

from memopt_ref.parts import scalar as reference
from memopt_ref.rules import sketch_state
from memopt_ref.rules.elementwise import Expression, parameters

from . import scalar  # noqa: F401  (registers what expressions may call)
from .bind import DECAY, KERNEL, compiled_function
from .count_sketch_plan import ALONE, FIRST, MIDDLE, NEGATIVE
from .memory import as_float32, as_float64, as_int64, as_uint8, as_uint32, call_kernel
from .options import STRICT
from .pieces import LINE
from .prefetch import prefetch

momentum_delta = numba.njit(**STRICT)(sketch_state.momentum_delta)
mean_delta = numba.njit(**STRICT)(sketch_state.mean_delta)

#: How QUERY combines the rows of a sketch.
MEDIAN, MIN, MEAN = range(3)
COMBINATIONS = ("median", "min", "mean")

#: The words of one moment: address of the sketch's table, bytes from bucket to bucket, their number, depth;
WORDS = 23
TABLE, PITCH, BUCKETS, DEPTH = range(4)
#: addresses of the places of the first active row and of what it finds there, bytes to those of the next;
PLACES, HELD, NEXT = range(4, 7)
#: how QUERY combines; whether decay is lazy, a momentum's, each row's own; whether the increment is taken
#: times a number, the update is conservative, and the moment is that of the squares;
COMBINE, LAZY, MOMENTUM, BY_ROW, FRESH, CONSERVATIVE, SQUARES = range(7, 14)
#: addresses of QUERY's loop, of space for a few rows and one for each row of the sketch, of the sums held
#: aside, of the gradient's row, of the weights' or 0; bytes a number; the address of a row of -0; the place
#: among the active rows of the one that comes next; the address of the numbers.
QUERY, SPACE, ASIDE, GRADIENT, WEIGHTS, SIZE, NOTHING, SOON, NUMBERS = range(14, 23)
#: The numbers.
COUNT = 9
ONE, MINUS, ZERO, TWO, DEEP, FACTOR, DECAYED, CLEANED, KEPT = range(COUNT)
#: Rows of that space: QUERY's answer, the increment, the gradient with decay, its square.
ANSWER, STEP, ENTERING, SQUARE, SPARE = range(5)

# Bound anew in every copy of the templates.
pointer = as_float32


@numba.njit(**STRICT)
def _lesser(x: Any, y: Any) -> Any:
    return reference.minimum(x, y)


@numba.njit(**STRICT)
def _greater(x: Any, y: Any) -> Any:
    return reference.maximum(x, y)


@numba.njit(**STRICT)
def median_of_three(a: Any, b: Any, c: Any, p: Any, q: Any, r: Any, out: Any, n: int) -> None:
    """The median of p a, q b and r c, signs p, q and r."""
    for i in range(n):
        x, y, z = p * a[i], q * b[i], r * c[i]
        out[i] = _greater(_lesser(x, y), _lesser(_greater(x, y), z))


@numba.njit(**STRICT)
def least_of_three(a: Any, b: Any, c: Any, out: Any, n: int) -> None:
    """The least of three rows."""
    for i in range(n):
        out[i] = _lesser(_lesser(a[i], b[i]), c[i])


@numba.njit(**STRICT)
def lowered(out: Any, to: Any, n: int) -> None:
    """At most another row."""
    for i in range(n):
        out[i] = _lesser(out[i], to[i])


@numba.njit(**STRICT)
def raised(out: Any, to: Any, n: int) -> None:
    """At least another row."""
    for i in range(n):
        out[i] = _greater(out[i], to[i])


@numba.njit(**STRICT)
def scaled(a: Any, factor: Any, out: Any, n: int) -> None:
    """A row times a number; a sign, mostly."""
    for i in range(n):
        out[i] = factor * a[i]


@numba.njit(**STRICT)
def multiplied(out: Any, factor: Any, n: int) -> None:
    """A row times a number, in place."""
    for i in range(n):
        out[i] = out[i] * factor


@numba.njit(**STRICT)
def plus_scaled(a: Any, x: Any, factor: Any, out: Any, n: int) -> None:
    """a + factor x."""
    for i in range(n):
        out[i] = a[i] + factor * x[i]


@numba.njit(**STRICT)
def added(out: Any, x: Any, factor: Any, n: int) -> None:
    """The same in place: the loop above would see two rows that overlap, and go entry by entry."""
    for i in range(n):
        out[i] = out[i] + factor * x[i]


@numba.njit(**STRICT)
def settled(row: Any, total: Any, x: Any, sign: Any, n: int) -> None:
    """row + (total + sign x): the last increment joins the others, and their sum the bucket."""
    for i in range(n):
        row[i] = row[i] + (total[i] + sign * x[i])


@numba.njit(**STRICT)
def divided(out: Any, by: Any, n: int) -> None:
    """A row divided by a number."""
    for i in range(n):
        out[i] = out[i] / by


@numba.njit(**STRICT)
def sorted_pair(a: Any, b: Any, n: int) -> None:
    """The lesser numbers first."""
    for i in range(n):
        x, y = a[i], b[i]
        a[i], b[i] = _lesser(x, y), _greater(x, y)


@numba.njit(**STRICT)
def squared(a: Any, out: Any, n: int) -> None:
    """Squares of a row."""
    for i in range(n):
        out[i] = a[i] * a[i]


@numba.njit(**STRICT)
def increment(old: Any, d: Any, factor: Any, momentum: bool, out: Any, n: int) -> None:
    """The lazy increment towards d from what QUERY answered."""
    if momentum:
        for i in range(n):
            out[i] = momentum_delta(old[i], d[i], factor)
    else:
        for i in range(n):
            out[i] = mean_delta(old[i], d[i], factor)


@numba.njit(**STRICT)
def bucket(words: Any, place: Any) -> int:
    """The address of a place in the sketch's table."""
    address: int = words[TABLE] + np.int64(place & ~NEGATIVE) * words[PITCH]
    return address


@numba.njit(**STRICT)
def sign(place: Any, numbers: Any) -> Any:
    """1 or -1."""
    return numbers[np.int64(place >> np.uint32(31))]


@numba.njit(**STRICT)
def update(row: Any, x: Any, sign: Any, held: Any, total: Any, n: int) -> None:
    """UPDATE of one bucket, or of the sum ``total`` that it holds aside."""
    if held == ALONE:
        added(row, x, sign, n)
    elif held % 4 == FIRST:
        scaled(x, sign, total, n)
    elif held % 4 == MIDDLE:
        added(total, x, sign, n)
    else:
        settled(row, total, x, sign, n)


def query(table: int, i: int, n: int, values: int) -> None:
    """QUERY of the active row ``i``."""
    words, numbers = as_int64(table), pointer(values)
    places, depth, how = as_uint32(words[PLACES] + i * words[NEXT]), words[DEPTH], words[COMBINE]
    pitch = n * words[SIZE]
    out = pointer(words[SPACE] + ANSWER * pitch)
    if depth == 3 and how != MEAN:
        a, b, c = places[0], places[1], places[2]
        x, y, z = pointer(bucket(words, a)), pointer(bucket(words, b)), pointer(bucket(words, c))
        if how == MIN:
            least_of_three(x, y, z, out, n)
        else:
            median_of_three(x, y, z, sign(a, numbers), sign(b, numbers), sign(c, numbers), out, n)
    elif how != MEDIAN:
        scaled(pointer(bucket(words, places[0])), sign(places[0], numbers), out, n)
        for j in range(1, depth):
            row = pointer(bucket(words, places[j]))
            if how == MIN:
                lowered(out, row, n)
            else:
                added(out, row, sign(places[j], numbers), n)
        if how == MEAN:
            divided(out, numbers[DEEP], n)
    else:
        # Odd-even transposition.
        rows, half = words[SPACE] + SPARE * pitch, depth // 2
        for j in range(depth):
            scaled(pointer(bucket(words, places[j])), sign(places[j], numbers), pointer(rows + j * pitch), n)
        for turn in range(depth):
            for j in range(turn % 2, depth - 1, 2):
                sorted_pair(pointer(rows + j * pitch), pointer(rows + (j + 1) * pitch), n)
        upper = pointer(rows + half * pitch)
        if depth % 2 == 1:
            scaled(upper, numbers[ONE], out, n)
        else:
            plus_scaled(pointer(rows + (half - 1) * pitch), upper, numbers[ONE], out, n)
            divided(out, numbers[TWO], n)


def follow(table: int, i: int, n: int, values: int) -> None:
    """One moment of the active row ``i``: QUERY, the increment, UPDATE."""
    words, numbers = as_int64(table), pointer(values)
    depth, pitch = words[DEPTH], n * words[SIZE]
    lazy, by_row, momentum = words[LAZY] != 0, words[BY_ROW] != 0, words[MOMENTUM] != 0
    space = words[SPACE]
    old, x, d = pointer(space + ANSWER * pitch), pointer(space + STEP * pitch), pointer(words[GRADIENT])
    if words[WEIGHTS] != 0:
        decayed = pointer(space + ENTERING * pitch)
        plus_scaled(d, pointer(words[WEIGHTS]), numbers[DECAYED], decayed, n)
        d = decayed
    if words[SQUARES] != 0:
        square = pointer(space + SQUARE * pitch)
        squared(d, square, n)
        d = square
    if (lazy and not by_row) or words[CONSERVATIVE] != 0:
        call_kernel(words[QUERY], table, i, n, values)
    if lazy and not by_row:
        increment(old, d, numbers[FACTOR], momentum, x, n)
    elif words[FRESH] != 0:
        scaled(d, numbers[FACTOR], x, n)
    elif not lazy:
        x = d
    soon = as_uint32(words[PLACES] + words[SOON] * words[NEXT])
    for j in range(depth):
        row = as_uint8(bucket(words, soon[j]))
        for line in range(0, pitch, LINE):
            prefetch(row, line)
    places, held = as_uint32(words[PLACES] + i * words[NEXT]), as_uint32(words[HELD] + i * words[NEXT])
    if words[CONSERVATIVE] != 0:
        added(old, x, numbers[ONE], n)
    for j in range(depth):
        row, own = pointer(bucket(words, places[j])), sign(places[j], numbers)
        if words[CONSERVATIVE] != 0:
            raised(row, old, n)
            continue
        if lazy and by_row:
            scaled(row, own, old, n)
            increment(old, d, numbers[FACTOR], momentum, x, n)
        total = pointer(words[ASIDE] + np.int64(held[j] >> np.uint32(2)) * pitch)
        update(row, x, own, held[j], total, n)


def scale(first: int, rows: int, n: int, values: int) -> None:
    """``rows`` rows, from the address in ``first`` on, times the number at ``values``."""
    words, factor = as_int64(first), pointer(values)[0]
    for place in range(rows):
        row = pointer(words[TABLE] + place * words[PITCH])
        multiplied(row, factor, n)


def stir(table: int, i: int, n: int, values: int) -> None:
    """Mark the third word if a row of the gradient holds anything but zeros.

    The words before it are the row's address and the weights', which are added to it, or 0.
    """
    words, numbers = as_int64(table), pointer(values)
    g, w = pointer(words[0]), pointer(words[1])
    found = np.int64(0)
    if words[1] == 0:
        for c in range(n):
            found |= np.int64(g[c] != numbers[ZERO])
    else:
        for c in range(n):
            found |= np.int64(g[c] + numbers[DECAYED] * w[c] != numbers[ZERO])
    words[2] |= found


@functools.cache
def loop(template: Any, wide: bool) -> Any:
    """One of the functions above for float64 or float32, compiled, with an ``address``."""
    bound = {**globals(), "pointer": as_float64 if wide else as_float32}
    copy = python_types.FunctionType(template.__code__, bound, template.__name__)
    return compiled_function(copy, KERNEL, f"sketch-{template.__name__}-float{64 if wide else 32}")


def finish_text(expression: Expression, mean: str, decay: str) -> str:
    """The loop that steps the weights of one row: table w, g, m, v.

    ``mean``: ``"estimate"``: m is QUERY's answer; ``"slot"``: m is a slot and is brought up to date first;
    ``"none"``: the direction is the gradient.
    """
    inside = {"v": "greater(v[i], zero)", "w": DECAY[decay][0], "g": "entering"}
    inside["m"] = {"estimate": "m[i]", "slot": "mean", "none": "entering"}[mean]
    names = finish_numbers(expression, mean)
    call = ", ".join(inside.get(name, name) for name in parameters(expression))
    lines = [
        "def loop(table, start, stop, numbers):",
        "    addresses, values = as_int64(table), as_float64(numbers)",
        *(f"    {name} = pointer(addresses[{k}])" for k, name in enumerate("wgmv")),
        *(f"    {name} = number(values[{k}])" for k, name in enumerate([*names, "decay"])),
        f"    zero = number(values[{len(names) + 1}])",
        "    for i in range(start, stop):",
        f"        entering = {DECAY[decay][1]}",
        *(["        mean = beta1 * m[i] + fresh1 * entering"] if mean == "slot" else []),
        f"        out = expression({call})",
        f"        w[i] = out[{expression.returns.index('w')}]",  # type: ignore[attr-defined]
        *(["        m[i] = mean"] if mean == "slot" else []),
    ]
    return "\n".join(lines) + "\n"


def finish_numbers(expression: Expression, mean: str) -> list[str]:
    """The numbers that the loop takes, in order, without the last, the decay."""
    own = [name for name in parameters(expression) if name not in "wgmv"]
    return [*own, "beta1", "fresh1"] if mean == "slot" else own


@functools.cache
def finisher(expression: Expression, mean: str, decay: str, wide: bool) -> Any:
    """The compiled loop of :func:`finish_text`, with an ``address``."""
    namespace = {
        "__name__": __name__,
        "as_int64": as_int64,
        "as_float64": as_float64,
        "pointer": as_float64 if wide else as_float32,
        "number": np.float64 if wide else np.float32,
        "greater": _greater,
        "expression": numba.njit(**STRICT)(expression),
    }
    text = finish_text(expression, mean, decay)
    exec(compile(text, f"<loop of {expression.__name__}>", "exec"), namespace)  # noqa: S102
    name = f"sketch-{expression.__name__}-{mean}-{decay}-float{64 if wide else 32}"
    return compiled_function(namespace["loop"], KERNEL, name)
