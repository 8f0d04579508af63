"""Sums in the order of :mod:`memopt_ref.parts.sums`, their first level: leaves along rows, runs down columns.

What is summed is a line of text about one entry, so that squares, updates and accumulators share one loop:

    strips  four rows at once over whole leaves of 512: four streams keep the memory busy, a column's sum is
            loaded once for all four, and 32 leaves are joined together; see also :mod:`.leaf_vectors`
    edges   the rows left over, and what is left at the end of every row, as many rows together as there is
            room for

The later levels are short: NumPy adds them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numba
import numpy as np

from memopt_ref.parts.sums import LANES, LEAF

from . import (
    leaf_vectors,
    scalar,  # noqa: F401  (registers what expressions may call)
)
from .bind import KERNEL, compiled_function
from .memory import as_float32, as_float64, as_int64, call_kernel
from .options import STRICT
from .prefetch import prefetch
from .vectors import available, fetch

#: What weight decay does to an entry before anything else, as ``Rule.decayed`` has it: its w, its g.
DECAY = {
    "none": ("{w}", "{g}"),
    "l2": ("{w}", "({g} + decay * {w})"),
    "factor": ("({w} * decay)", "{g}"),
}
#: Lanes that are joined together.
ROOM = 4096
STRIP = leaf_vectors.ROWS

#: The first integers of a kernel's table: size of the panel, leaves of a whole row, addresses of the panel's
#: leaf sums and column sums, of a number a row and one a column, of room for lanes, twice.
HEAD = ("rows", "columns", "pitch", "join", "leaves", "runs", "row", "column", "lanes", "spare")
ROWS, COLUMNS, PITCH, JOIN, LEAVES, RUNS, ROW, COLUMN, LANE, SPARE = range(len(HEAD))
PLACES = {name: k for k, name in enumerate(HEAD)}

#: Joins neighbours of ``many`` times ``wide`` lanes until one is left of each, two levels at once as long as
#: it pays. A function of its own: it is compiled once for all loops. If source and target took turns behind
#: one name, nothing would be vectorised.
JOIN_TEXT = """
def loop(lanes, spare, many, wide):
    here, there = pointer(lanes), pointer(spare)
    left = many * wide
    if wide >= 16:
        left >>= 2
        for k in range(left):
            there[k] = (here[4 * k] + here[4 * k + 1]) + (here[4 * k + 2] + here[4 * k + 3])
        left >>= 2
        for k in range(left):
            here[k] = (there[4 * k] + there[4 * k + 1]) + (there[4 * k + 2] + there[4 * k + 3])
    while left > many:
        left >>= 1
        for k in range(left):
            there[k] = here[2 * k] + here[2 * k + 1]
        for k in range(left):
            here[k] = there[k]
"""


def quick(wide: bool) -> bool:
    """Whether loops in float64, or else float32, are written in vectors."""
    return not wide and available()


def head(arrays: Sequence[str], numbers: Sequence[str]) -> list[str]:
    """The first lines of a loop over a panel.

    Parameters
    ----------
    arrays : sequence of str
        Each has an address and the elements from one row to the next in the table.
    numbers : sequence of str
        Names of ``numbers``, rounded to the compute dtype.
    """
    start = len(HEAD)
    return [
        "def loop(table, start, stop, numbers):",
        "    addresses, values = as_int64(table), as_float64(numbers)",
        *(f"    {name} = addresses[{k}]" for k, name in enumerate(HEAD[:LEAVES])),
        *(f"    {name} = pointer(addresses[{k}])" for k, name in enumerate(HEAD) if k >= LEAVES),
        f"    lanes_at, spare_at = addresses[{LANE}], addresses[{SPARE}]",
        *(f"    {name} = pointer(addresses[{start + 2 * k}])" for k, name in enumerate(arrays)),
        *(f"    down_{name} = addresses[{start + 2 * k + 1}]" for k, name in enumerate(arrays)),
        *(f"    {name} = number(values[{k}])" for k, name in enumerate(numbers)),
    ]


def row_of(arrays: Sequence[str], entry: Sequence[str], place: str, mark: str) -> list[str]:
    """Where each array's row starts, and the row's own number if the entry has a use for it."""
    own = [f"row{mark} = row[{place}]"] if any("{row}" in line for line in entry) else []
    return [*(f"{name}{mark} = ({place}) * down_{name}" for name in arrays), *own]


def names_at(arrays: Sequence[str], mark: str, j: str) -> dict[str, str]:
    """What an entry's numbers are called: its arrays', its row's, its column's."""
    return {name: f"{name}[{name}{mark} + {j}]" for name in arrays} | {
        "row": f"row{mark}",
        "column": f"column[{j}]",
    }


def leaf_text(
    arrays: Sequence[str],
    numbers: Sequence[str],
    entry: Sequence[str],
    down_columns: bool = False,
    strip: int = STRIP,
    in_vectors: bool = False,
) -> str:
    """The loop over a panel of whole leaves, which leaves the sums of its leaves.

    Parameters
    ----------
    arrays, numbers : sequence of str
        See :func:`head`.
    entry : sequence of str
        Lines in which ``q`` becomes the number that is summed, never -0; ``{w}`` is an entry of the array w,
        ``{row}`` and ``{column}`` are the numbers of its row and column.
    down_columns : bool
        Whether ``runs`` takes the sums down the columns too.
    strip : int
        Rows at once. One where the entry writes an array: each row that is written is compared with each that
        is read before a loop is vectorised, and LLVM gives up if these are many.
    in_vectors : bool
        Whether strips are written in vectors, which only read arrays; see :func:`quick`.
    """
    quickly = in_vectors and strip == STRIP
    lines = [
        *head(arrays, numbers),
        *(leaf_vectors.head(arrays, numbers, PLACES, len(HEAD)) if quickly else []),
        f"    whole = columns // {LEAF}",
        f"    strips = rows // {strip} if whole > 0 else 0",
        *(
            leaf_vectors.strips(arrays, numbers, entry, down_columns)
            if quickly
            else _strips(arrays, entry, down_columns, strip)
        ),
        *_edges(arrays, entry, down_columns, strip),
    ]
    return "\n".join(lines) + "\n"


def _strips(arrays: Sequence[str], entry: Sequence[str], down_columns: bool, strip: int) -> list[str]:
    """The loop over strips of whole leaves."""
    deep = LEAF // LANES
    own = [f"q{r}_{d}" for d in range(deep) for r in range(strip)]
    cells = {name: names_at(arrays, name[1], f"(begin + {int(name[-1]) * LANES} + lane)") for name in own}
    whole = [line.format(**cells[name]).replace("q = ", f"{name} = ") for name in own for line in entry]
    lines = [
        "    for strip in range(strips):",
        f"        i = {strip} * strip",
        *("        " + line for r in range(strip) for line in row_of(arrays, entry, f"i + {r}", str(r))),
        f"        for first in range(0, whole, {ROOM // (strip * LANES)}):",
        f"            many = min({ROOM // (strip * LANES)}, whole - first)",
        "            for k in range(many):",
        f"                begin, base = (first + k) * {LEAF}, k * {strip * LANES}",
        # What comes next is the next leaf of these rows, or the first of the next rows.
        f"                leap, ahead = first + k + 1 == whole, begin + {LEAF}",
        *(f"                next_{name} = {strip} * down_{name} if leap else ahead" for name in arrays),
        f"                for place in range(0, {LEAF}, LINE):",
        *(
            f"                    prefetch({name}, {name}{r} + next_{name} + place)"
            for name in arrays
            for r in range(strip)
        ),
        f"                for lane in range({LANES}):",
        *("                    " + line for line in whole),
    ]
    for d in range(deep if down_columns else 0):
        place = f"runs[begin + {d * LANES} + lane]"
        added = "".join(f" + q{r}_{d})" for r in range(strip))
        lines.append(f"                    {place} = {'(' * strip}{place}{added}")
    for r in range(strip):
        total = " + ".join(f"q{r}_{d}" for d in range(deep))
        lines.append(f"                    lanes[base + {r * LANES} + lane] = {total}")
    return [
        *lines,
        f"            call_kernel(join, lanes_at, spare_at, {strip} * many, {LANES})",
        "            for k in range(many):",
        *(
            f"                leaves[(i + {r}) * pitch + first + k] = lanes[{strip} * k + {r}]"
            for r in range(strip)
        ),
    ]


def _edges(arrays: Sequence[str], entry: Sequence[str], down_columns: bool, strip: int) -> list[str]:
    """The loop over what is no strip."""
    return [
        f"    for leaf in range((columns + {LEAF - 1}) // {LEAF}):",
        f"        begin = leaf * {LEAF}",
        f"        length = min({LEAF}, columns - begin)",
        "        wide = 1",
        f"        while wide < length and wide < {LANES}:",
        "            wide *= 2",
        f"        together = {ROOM} // wide",
        f"        for top in range({strip} * strips if leaf < whole else 0, rows, together):",
        "            many = min(together, rows - top)",
        "            for k in range(many):",
        "                base = k * wide",
        *("                " + line for line in row_of(arrays, entry, "top + k", "0")),
        "                for lane in range(wide):",
        "                    lanes[base + lane] = number(0)",
        "                for down in range(begin, begin + length, wide):",
        "                    for lane in range(min(wide, begin + length - down)):",
        *(
            "                        " + line.format(**names_at(arrays, "0", "(down + lane)"))
            for line in entry
        ),
        "                        lanes[base + lane] = lanes[base + lane] + q",
        *(["                        runs[down + lane] = runs[down + lane] + q"] if down_columns else []),
        "            call_kernel(join, lanes_at, spare_at, many, wide)",
        "            for k in range(many):",
        "                leaves[(top + k) * pitch + leaf] = lanes[k]",
    ]


def each_text(arrays: Sequence[str], numbers: Sequence[str], entry: Sequence[str]) -> str:
    """The loop over a panel's entries that sums nothing; see :func:`leaf_text` for ``entry``."""
    lines = [
        *head(arrays, numbers),
        "    for i in range(rows):",
        *("        " + line for line in row_of(arrays, entry, "i", "0")),
        "        for j in range(columns):",
        *("            " + line.format(**names_at(arrays, "0", "j")) for line in entry),
    ]
    return "\n".join(lines) + "\n"


def loop_of(
    name: str,
    text: str,
    wide: bool,
    expressions: Mapping[str, Callable[..., Any]],
    options: tuple[Any, ...] = (),
) -> Any:
    """Compile a loop or find it on disk.

    Parameters
    ----------
    name : str
        The loop's, to which the options and the dtype are added.
    text : str
        Its source.
    wide : bool
        float64, or float32.
    expressions : mapping of str to function
        What the text calls.
    options : tuple
        What the text was made with.
    """
    namespace = {
        "__name__": __name__,
        "as_int64": as_int64,
        "as_float64": as_float64,
        "pointer": as_float64 if wide else as_float32,
        "number": np.float64 if wide else np.float32,
        "call_kernel": call_kernel,
        "prefetch": prefetch,
        "fetch": fetch,
        "LINE": 8 if wide else 16,
        **leaf_vectors.NAMES,
        **{called: numba.njit(**STRICT)(f) for called, f in expressions.items() if f"{called}(" in text},
    }
    exec(compile(text, f"<{name}>", "exec"), namespace)  # noqa: S102
    marks = "".join(f"-{option}" for option in options) + ("-vectors" if "floats_at(" in text else "")
    return compiled_function(namespace["loop"], KERNEL, f"{name}{marks}-float{64 if wide else 32}")


@functools.cache
def join(wide: bool) -> int:
    """The address of the loop that joins lanes."""
    if quick(wide):
        return int(compiled_function(leaf_vectors.join, KERNEL, "join-vectors").address)
    return int(loop_of("join", JOIN_TEXT, wide, {}).address)
