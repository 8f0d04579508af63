"""The strips of :mod:`.leaf_sums` in vectors of sixteen float32: lanes meet in registers and not in a buffer.

The same sums in the same order. Where the lines about an entry are on numbers there, they are on sixteen of
them here: every name stands for a vector, and whatever :mod:`memopt_ref.parts.scalar` has serves both.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from memopt_ref.parts.sums import LANES, LEAF

from . import vectors

#: Rows at once, and leaves of each of them whose lanes are joined together.
ROWS, LEAVES = 4, 64
#: Bytes of a vector, of all lanes, and of the lanes that two vectors are.
VECTOR, ALL, TWO = 4 * vectors.LANES, 4 * LANES, 8 * vectors.LANES
#: Names in the text, beside those of :mod:`.leaf_sums`.
NAMES = {name: getattr(vectors, name) for name in ("everywhere", "evens", "floats_at", "odds", "put_floats")}


def join(lanes: int, spare: int, many: int, wide: int) -> None:
    """Join neighbours until one is left of each; what lies behind is read, and some of it overwritten."""
    left = many * wide
    while left > many:
        left >>= 1
        for k in range(0, 4 * left, 64):
            x, y = vectors.floats_at(lanes + 2 * k), vectors.floats_at(lanes + 2 * k + 64)
            vectors.put_floats(lanes + k, vectors.evens(x, y) + vectors.odds(x, y))


def _neighbours(x: str, y: str) -> str:
    return f"evens({x}, {y}) + odds({x}, {y})"


def _on_vectors(line: str, arrays: Sequence[str], numbers: Sequence[str], r: int, at: str) -> str:
    """A line about an entry, on the vector that begins so many bytes behind the leaf's first entry."""
    cells = {name: f"floats_at({name}_{r} + {at})" for name in arrays}
    line = line.format(**cells, row=f"row_{r}", column=f"floats_at(column_at + {at})")
    for name in numbers:
        line = re.sub(rf"\b{name}\b", f"all_{name}", line)
    return line


def head(arrays: Sequence[str], numbers: Sequence[str], places: dict[str, int], first: int) -> list[str]:
    """Addresses, and numbers in all lanes; ``places`` are the table's words, arrays from ``first`` on."""
    return [
        f"    column_at, runs_at = addresses[{places['column']}], addresses[{places['runs']}]",
        *(f"    {name}_at = addresses[{first + 2 * k}]" for k, name in enumerate(arrays)),
        *(f"    all_{name} = everywhere({name})" for name in numbers),
    ]


def strips(
    arrays: Sequence[str], numbers: Sequence[str], entry: Sequence[str], down_columns: bool
) -> list[str]:
    """The loop over strips of four rows; see :func:`.leaf_sums.leaf_text` for the arguments."""
    rows, deep = range(ROWS), LEAF // LANES
    lines = ["    for strip in range(strips):", f"        i = {ROWS} * strip"]
    for r in rows:
        lines += [f"        {name}_{r} = {name}_at + 4 * ((i + {r}) * down_{name})" for name in arrays]
        if any("{row}" in line for line in entry):
            lines.append(f"        row_{r} = everywhere(row[i + {r}])")
    lines += [
        f"        for first in range(0, whole, {LEAVES}):",
        f"            many = min({LEAVES}, whole - first)",
        "            for k in range(many):",
        f"                begin, base = 4 * {LEAF} * (first + k), lanes_at + {ROWS * VECTOR} * k",
        # What comes next is the next leaf of these rows, or the first of the next rows.
        f"                leap, ahead = first + k + 1 == whole, begin + 4 * {LEAF}",
        *(f"                next_{name} = 4 * {ROWS} * down_{name} if leap else ahead" for name in arrays),
        f"                for place in range(0, 4 * {LEAF}, 64):",
        *(f"                    fetch({name}_{r} + next_{name} + place)" for name in arrays for r in rows),
        f"                for pair in range(0, {ALL}, {TWO}):",
        "                    here = begin + pair",
    ]
    for half in (0, 1):
        for d in range(deep):
            at = f"here + {d * ALL + half * VECTOR}"
            for r in rows:
                own = [_on_vectors(line, arrays, numbers, r, at) for line in entry]
                lines += ["                    " + line.replace("q = ", f"q{r}_{d} = ") for line in own]
            if down_columns:
                added = "".join(f" + q{r}_{d})" for r in rows)
                total = f"{'(' * ROWS}floats_at(runs_at + {at}){added}"
                lines.append(f"                    put_floats(runs_at + {at}, {total})")
        for r in rows:
            total = " + ".join(f"q{r}_{d}" for d in range(deep))
            lines.append(f"                    lanes{half}_{r} = {total}")
    for r in rows:
        joined = _neighbours(f"lanes0_{r}", f"lanes1_{r}")
        lines.append(f"                    put_floats(spare_at + {r * ALL // 2} + pair // 2, {joined})")
    for r in rows:
        parts = [f"floats_at(spare_at + {r * ALL // 2 + k * VECTOR})" for k in range(4)]
        lines += [
            f"                low = {_neighbours(*parts[:2])}",
            f"                high = {_neighbours(*parts[2:])}",
            f"                put_floats(base + {r * VECTOR}, {_neighbours('low', 'high')})",
        ]
    return [
        *lines,
        f"            call_kernel(join, lanes_at, spare_at, {ROWS} * many, {vectors.LANES})",
        "            for k in range(many):",
        *(f"                leaves[(i + {r}) * pitch + first + k] = lanes[{ROWS} * k + {r}]" for r in rows),
    ]
