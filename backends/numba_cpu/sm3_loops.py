"""SM3-II on a matrix, in one pass: the rule's expressions bound into loops, which :mod:`.sm3_drive` calls.

The loops step entries and leave what the new accumulators are made of:

    pairs   long rows, two distant ones at once, the maxima of rows and columns in the same loop: two streams
            of each array keep the memory busy, and a column's accumulator is loaded once for both
    lanes   short rows of whole vectors of sixteen float32
    runs    other short rows, several as one run of entries; maxima of rows follow while it is in the first
            cache
    single  a vector, whose accumulators are its own entries'

A maximum of non-negative numbers is that of their images as unsigned integers. So it is exact, a NaN of
either sign wins, and it is vectorised. Every task owns a block of rows and columns, and its own maxima.
"""

from __future__ import annotations

import functools
from typing import Any

import numba
import numpy as np

from memopt_ref.parts import scalar as reference
from memopt_ref.rules.sm3 import accumulated, descended, descended_along_mean

from .bind import DECAY, KERNEL, compiled_function
from .memory import as_float32, as_float64, as_int64, as_uint32, as_uint64
from .options import STRICT
from .scalar import choose
from .vectors import (
    everywhere,
    floats_at,
    greatest_of,
    images_of,
    integers_at,
    larger_integers,
    lesser,
    put_floats,
    put_integers,
)

#: Rows shorter than this are stepped as runs of several, of so many entries.
SHORT, RUN = 64, 1024

NUMBERS = {
    False: ("learning_rate", "kept", "fresh", "eps_root", "eps"),
    True: ("learning_rate", "momentum", "share", "kept", "fresh", "eps_root", "eps"),
}
#: Those that change nothing in the paper's rule, as constants whose arithmetic the compiler drops: it is a
#: sixth of the time. x + 0 it would keep, for the sake of -0; as denominators both zeros are alike.
NEUTRAL = {"kept": "1", "fresh": "1", "eps_root": "-0.0", "eps": "-0.0"}


def _entry(names: dict[str, str], mean: bool, decay: str) -> list[str]:
    """Lines that step one entry; ``names`` says what w, g, m, the least accumulator and nu are called."""
    w, g = (text.replace("w[i]", names["w"]).replace("g[i]", names["g"]) for text in DECAY[decay])
    m, along = (f"{names['m']}, ", "momentum, share, ") if mean else ("", "")
    nu = names["nu"]
    return [
        f"        entering = {g}",
        f"        ({nu},) = accumulated({names['least']}, entering, kept, fresh)",
        f"        out = descended({w}, entering, {nu}, {m}learning_rate, {along}eps_root, eps)",
        f"        {names['w']} = out[0]",
        *([f"        {names['m']} = out[1]"] if mean else []),
    ]


def _head(words: list[str], pointers: list[str], images: list[str], mean: bool, neutral: bool) -> list[str]:
    """The loop's first lines: plain integers of the table, addresses of numbers, of their images; numbers."""
    given = NEUTRAL if neutral else {}
    table = [
        *(f"{name} = addresses[{{}}]" for name in words),
        *(f"{name} = pointer(addresses[{{}}])" for name in pointers),
        *(f"{name} = image(addresses[{{}}])" for name in images),
    ]
    return [
        "def loop(table, start, stop, numbers):",
        "    addresses, values = as_int64(table), as_float64(numbers)",
        *("    " + line.format(k) for k, line in enumerate(table)),
        *(
            f"    {name} = number({given.get(name, f'values[{k}]')})"
            for k, name in enumerate([*NUMBERS[mean], "decay"])
        ),
    ]


#: The tables of the loops: integers, arrays of numbers, arrays of images.
PAIRS = ("width", "listed", "apart", "down_w", "down_g", "down_m"), ("column", "row"), ("tops", "high")
RUNS = ("width", "rows"), ("row", "spread", "across"), ("high", "peaks", "nu_images")


def pairs_text(mean: bool, decay: str, neutral: bool) -> str:
    """The loop over pairs of rows: ``start`` to ``stop``, each with the one ``apart`` further down.

    ``listed`` is the address of the row numbers of w and m, or 0; ``down`` are steps from row to row.
    """
    words, numbers, images = PAIRS
    arrays = "wgm" if mean else "wg"
    lines = [
        *_head([*words], [*numbers, *arrays], [*images], mean, neutral),
        "    picked, nothing = as_int64(listed), bits(number(0))",
        "    for k in range(start, stop):",
        "        k2 = k + apart",
        "        i1, i2 = (picked[k], picked[k2]) if listed != 0 else (k, k2)",
        *(f"        w{r}, m{r} = i{r} * down_w, i{r} * down_m" for r in "12"),
        "        g1, g2 = k * down_g, k2 * down_g",
        "        row1, row2, high1, high2 = row[k], row[k2], nothing, nothing",
        "        for j in range(width):",
    ]
    # All is read before anything is written: rows a multiple of 4096 bytes apart would wait for one another.
    lines += [f"            {name}_{r} = {name}[{name}{r} + j]" for r in "12" for name in arrays]
    for r in "12":
        names = {name: f"{name}_{r}" for name in "wgm"}
        entry = _entry({**names, "least": f"minimum(row{r}, column[j])", "nu": f"nu{r}"}, mean, decay)
        lines += ["    " + line for line in entry]
        lines += [f"            bits{r} = bits(nu{r})", f"            high{r} = larger(high{r}, bits{r})"]
    lines += [
        f"            {name}[{name}{r} + j] = {name}_{r}" for r in "12" for name in arrays if name != "g"
    ]
    lines += ["            tops[j] = larger(tops[j], larger(bits1, bits2))"]
    lines += ["        high[k], high[k2] = high1, high2"]
    return "\n".join(lines) + "\n"


def runs_text(mean: bool, decay: str, neutral: bool) -> str:
    """The loop over a run of whole rows; ``across`` has the columns' accumulators again for each row.

    nu is left in ``spread``, of which ``nu_images`` is another view; ``peaks`` are maxima at each place of a
    run.
    """
    words, numbers, images = RUNS
    names = {name: f"{name}[i]" for name in "wgm"} | {"least": "minimum(spread[i], across[i])", "nu": "nu"}
    lines = [
        *_head([*words], [*numbers, *("wgm" if mean else "wg")], [*images], mean, neutral),
        "    nothing = bits(number(0))",
        "    for k in range(rows):",
        "        value, begin = row[k], k * width",
        "        for j in range(width):",
        "            spread[begin + j] = value",
        "    for i in range(rows * width):",
        *_entry(names, mean, decay),
        "        spread[i] = nu",
        "        peaks[i] = larger(peaks[i], bits(nu))",
        "    for k in range(rows):",
        "        begin = k * width",
        # From 0 on: of a row of 16, 15 would be a remainder to the vectoriser.
        "        best = nothing",
        "        for j in range(width):",
        "            best = larger(best, nu_images[begin + j])",
        "        high[k] = best",
    ]
    return "\n".join(lines) + "\n"


def lanes_text(mean: bool, decay: str, neutral: bool) -> str:
    """The same, where a row is one vector or several. Its table is that of the run."""
    words, numbers, images = RUNS
    arrays = "wgm" if mean else "wg"
    names = {name: name for name in "wgm"} | {"least": "minimum(value, floats_at(across + j))", "nu": "nu"}
    places = [*words, *numbers, *(f"{name}_at" for name in arrays), *images]
    lines = [
        *_head(places, [], [], mean, neutral),
        "    accumulators, largest = pointer(row), image(high)",
        "    nothing, here = bits(number(0)), 0",
        "    for k in range(rows):",
        "        value, best = number(accumulators[k]), nothing",
        "        for j in range(0, 4 * width, 64):",
        f"            {', '.join(arrays)} = {', '.join(f'floats_at({name}_at + here)' for name in arrays)}",
        *("    " + line for line in _entry(names, mean, decay)),
        *(f"            put_floats({name}_at + here, {name})" for name in arrays if name != "g"),
        "            image_of_nu = bits(nu)",
        "            put_integers(peaks + j, larger(integers_at(peaks + j), image_of_nu))",
        "            best = larger(best, image_of_nu)",
        "            here += 64",
        "        largest[k] = greatest_of(best)",
    ]
    return "\n".join(lines) + "\n"


def single_text(mean: bool, decay: str, neutral: bool) -> str:
    """The loop over a vector. Its table: w, g (and m), and the accumulators, in whose place nu is left."""
    names = {name: f"{name}[i]" for name in "wgm"} | {"least": "nu[i]", "nu": "new"}
    lines = [
        *_head([], [*("wgm" if mean else "wg"), "nu"], [], mean, neutral),
        "    for i in range(start, stop):",
        *_entry(names, mean, decay),
        "        nu[i] = new",
    ]
    return "\n".join(lines) + "\n"


#: Integers in the table of pairs.
WORDS = len(PAIRS[0])


@numba.njit(**STRICT)
def minimum(x: Any, y: Any) -> Any:
    """The smaller of two numbers."""
    return reference.minimum(x, y)


@numba.njit(**STRICT)
def larger(x: Any, y: Any) -> Any:
    """The larger of two images."""
    return choose(x > y, x, y)


@numba.njit(**STRICT)
def _bits32(x: Any) -> Any:
    return np.float32(x).view(np.uint32)


@numba.njit(**STRICT)
def _bits64(x: Any) -> Any:
    return np.float64(x).view(np.uint64)


@numba.njit(**STRICT)
def _lanes(x: Any) -> Any:
    return everywhere(np.float32(x))


_TEXTS = {"pairs": pairs_text, "runs": runs_text, "lanes": lanes_text, "single": single_text}
#: What the names in a text mean where they are about vectors.
_VECTORS = {
    "number": _lanes,
    "bits": images_of,
    "minimum": lesser,
    "larger": larger_integers,
    "floats_at": floats_at,
    "integers_at": integers_at,
    "put_floats": put_floats,
    "put_integers": put_integers,
    "greatest_of": greatest_of,
}


@functools.cache
def loop(shape: str, mean: bool, decay: str, wide: bool, neutral: bool = False) -> Any:
    """A compiled loop: its shape, with momentum or without, in float64 or float32; see :data:`NEUTRAL`."""
    namespace = {
        "__name__": __name__,
        "as_int64": as_int64,
        "as_float64": as_float64,
        "pointer": as_float64 if wide else as_float32,
        "image": as_uint64 if wide else as_uint32,
        "number": np.float64 if wide else np.float32,
        "bits": _bits64 if wide else _bits32,
        "minimum": minimum,
        "larger": larger,
        "accumulated": numba.njit(**STRICT)(accumulated),
        "descended": numba.njit(**STRICT)(descended_along_mean if mean else descended),
    } | (_VECTORS if shape == "lanes" else {})
    exec(compile(_TEXTS[shape](mean, decay, neutral), f"<{shape} of sm3>", "exec"), namespace)  # noqa: S102
    form = "mean" if mean else "plain"
    form += "-neutral" if neutral else ""
    return compiled_function(
        namespace["loop"], KERNEL, f"sm3-{shape}-{form}-{decay}-float{64 if wide else 32}"
    )
