"""One row of a moment in a sketch of three rows, sixteen float32 at a time.

The same numbers in the same operations as in :mod:`.count_sketch_rows`, in one pass: the sketch's three
buckets are read, asked, brought up to date and asked again while they are in registers, and those of the next
row are sent for meanwhile. What a bucket takes part in, taking its increment at once or holding a sum aside,
is only where the pass reads and writes: ``to = base + (sum + increment)``, with a row of -0, which changes no
number it is added to, in the place of what is not there.
"""

from __future__ import annotations

import functools
from typing import Any

import numba
import numpy as np

from . import count_sketch_rows as rows
from .bind import KERNEL, compiled_function
from .count_sketch_plan import ALONE, FIRST, MIDDLE
from .count_sketch_rows import (
    AHEAD,
    ANSWER,
    ASIDE,
    BASES,
    COMBINE,
    DECAYED,
    FACTOR,
    FRESH,
    GRADIENT,
    HELD,
    LAZY,
    MIN,
    MOMENTUM,
    NEXT,
    NOTHING,
    PLACES,
    SOON,
    SPACE,
    SQUARES,
    WEIGHTS,
    bucket,
)
from .memory import as_float32, as_int64, as_uint32
from .options import STRICT
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

#: Bytes of a vector.
VECTOR = 4 * LANES


def serves(depth: int, native: Any, manner: Any, combinations: Any) -> bool:
    """Whether the loops serve a step: three rows of float32, an increment for all, medians and minima."""
    alike = manner.delta_from == "query" or manner.decay != "lazy"
    plain = alike and not manner.conservative and "mean" not in combinations
    return depth == 3 and native == np.float32 and plain


@numba.njit(**STRICT)
def combined(x: Any, y: Any, z: Any, least: bool) -> Any:
    """The least or the median of three, NaN if one is.

    Where none is, one instruction each compares them.
    """
    if ordered(x, y, z):
        if least:
            return smaller(smaller(x, y), z)
        return larger(smaller(x, y), smaller(larger(x, y), z))
    if least:
        return lesser(lesser(x, y), z)
    return greater(lesser(x, y), lesser(greater(x, y), z))


@numba.njit(**STRICT)
def roads(held: Any, row: int, total: int, nothing: int) -> Any:
    """Where an increment's base and sum are read, and where it is written."""
    if held == ALONE:
        return row, nothing, row
    if held % np.uint32(4) == FIRST:
        return nothing, nothing, total
    if held % np.uint32(4) == MIDDLE:
        return nothing, total, total
    return row, total, row


@numba.njit(**STRICT)
def aside(words: Any, held: Any, base: int, pitch: int) -> int:
    """The address of the sum that a bucket holds aside, or of the row of -0."""
    nothing: int = words[NOTHING]
    if held == ALONE:
        return nothing
    address: int = words[ASIDE] + (base + np.int64(held >> np.uint32(2))) * pitch
    return address


@numba.njit(**STRICT)
def sign(place: Any, numbers: Any) -> Any:
    """1 or -1 in all lanes."""
    return everywhere(rows.sign(place, numbers))


def follow(table: int, i: int, n: int, values: int) -> None:
    """One moment of the active row ``i``: QUERY, the increment, UPDATE, and QUERY: the answer is left."""
    words, numbers = as_int64(table), as_float32(values)
    pitch, step, nothing = n * np.int64(4), words[NEXT], words[NOTHING]
    places, held = as_uint32(words[PLACES] + i * step), as_uint32(words[HELD] + i * step)
    soon, later = as_uint32(words[PLACES] + (i + AHEAD) * step), as_uint32(words[HELD] + (i + AHEAD) * step)
    bases, out = as_int64(words[BASES]), words[SPACE] + ANSWER * pitch
    a, b, c = bucket(words, places[0]), bucket(words, places[1]), bucket(words, places[2])
    p, q, r = sign(places[0], numbers), sign(places[1], numbers), sign(places[2], numbers)
    a_base, a_sum, a_to = roads(held[0], a, aside(words, held[0], bases[0], pitch), nothing)
    b_base, b_sum, b_to = roads(held[1], b, aside(words, held[1], bases[1], pitch), nothing)
    c_base, c_sum, c_to = roads(held[2], c, aside(words, held[2], bases[2], pitch), nothing)
    a_soon, a_later = bucket(words, soon[0]), aside(words, later[0], bases[0], pitch)
    b_soon, b_later = bucket(words, soon[1]), aside(words, later[1], bases[1], pitch)
    c_soon, c_later = bucket(words, soon[2]), aside(words, later[2], bases[2], pitch)
    least, lazy, momentum = words[COMBINE] == MIN, words[LAZY] != 0, words[MOMENTUM] != 0
    fresh, squares, weights = words[FRESH] != 0, words[SQUARES] != 0, words[WEIGHTS]
    factor, decay, gradient = everywhere(numbers[FACTOR]), everywhere(numbers[DECAYED]), words[GRADIENT]
    for k in range(0, pitch, VECTOR):
        fetch(a_soon + k)
        fetch(b_soon + k)
        fetch(c_soon + k)
        fetch(a_later + k)
        fetch(b_later + k)
        fetch(c_later + k)
        d = floats_at(gradient + k)
        if weights != 0:
            d = d + decay * floats_at(weights + k)
        if squares:
            d = d * d
        if lazy:
            x, y, z = floats_at(a + k), floats_at(b + k), floats_at(c + k)
            if not least:
                x, y, z = p * x, q * y, r * z
            old = combined(x, y, z, least)
            d = factor * old + d if momentum else factor * (d - old)
        elif fresh:
            d = factor * d
        x = floats_at(a_base + k) + (floats_at(a_sum + k) + p * d)
        y = floats_at(b_base + k) + (floats_at(b_sum + k) + q * d)
        z = floats_at(c_base + k) + (floats_at(c_sum + k) + r * d)
        put_floats(a_to + k, x)
        put_floats(b_to + k, y)
        put_floats(c_to + k, z)
        if not least:
            x, y, z = p * x, q * y, r * z
        put_floats(out + k, combined(x, y, z, least))


def query(table: int, i: int, n: int, values: int) -> None:
    """QUERY of the active row ``i``; the buckets of the one to be asked for next are sent for."""
    words, numbers = as_int64(table), as_float32(values)
    pitch = n * np.int64(4)
    places = as_uint32(words[PLACES] + i * words[NEXT])
    soon = as_uint32(words[PLACES] + words[SOON] * words[NEXT])
    a, b, c = bucket(words, places[0]), bucket(words, places[1]), bucket(words, places[2])
    p, q, r = sign(places[0], numbers), sign(places[1], numbers), sign(places[2], numbers)
    a_soon, b_soon, c_soon = bucket(words, soon[0]), bucket(words, soon[1]), bucket(words, soon[2])
    out, least = words[SPACE] + ANSWER * pitch, words[COMBINE] == MIN
    for k in range(0, pitch, VECTOR):
        fetch(a_soon + k)
        fetch(b_soon + k)
        fetch(c_soon + k)
        x, y, z = floats_at(a + k), floats_at(b + k), floats_at(c + k)
        if not least:
            x, y, z = p * x, q * y, r * z
        put_floats(out + k, combined(x, y, z, least))


@functools.cache
def loop(template: Any) -> Any:
    """One of the two functions, compiled, with an ``address``."""
    return compiled_function(template, KERNEL, f"sketch-{template.__name__}-vectors")
