"""Does a kernel still have its place? Ratios against a committed table, with margins from repeated runs.

Every kernel is stepped in one thread over arrays that stay in the caches, in turn with ``w -= lr * g`` over
as many entries and with the reference. The least of many short rounds counts, so that somebody else's work
on the machine, which comes and goes, falls out; a row that lost is measured again before it is believed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

from ..backends import select
from ..backends.timing import interleaved
from ..errors import FileFormatError
from ..rules.base import Rule
from .limit import limit
from .tracks import normal, rule

SHAPE = (512, 512)
ROUNDS = 40
#: Times that a row is measured before it has lost its place.
TRIES = 3
#: The narrowest margin: what two builds of one kernel may differ by for no reason of ours.
LEAST_MARGIN = 1.25

#: Rows by their lasting names, as in :data:`.tracks.RULES`.
ROWS = (
    *("SGD", "AdaGrad", "RMSProp", "Adam", "AMSGrad", "SM3", "SM3 momentum"),
    *("Adafactor", "RowWiseAdaGrad", "MicroAdam", "CountSketchAdam"),
)


class Place(NamedTuple):
    """Two ratios that a kernel must not exceed: to the limit and to the reference."""

    limit: float
    numpy: float


def _step(made: Rule, backend: str) -> Callable[[], None]:
    w, g = normal(SHAPE, 1), normal(SHAPE, 2, 1e-2)
    state = made.init_leaf(w)
    choice = select(made, w.shape, w.dtype, backend=backend)
    now = made.at(1)
    return lambda: choice.step(now, w, g, state)


def measure(names: Iterable[str] = ROWS, rounds: int = ROUNDS) -> dict[str, Place]:
    """The ratios of today's kernels, in one thread."""
    import numba

    threads = numba.get_num_threads()
    numba.set_num_threads(1)
    try:
        return {name: _place(rule(name), rounds) for name in names}
    finally:
        numba.set_num_threads(threads)


def _place(made: Rule, rounds: int) -> Place:
    plain = limit(prod(SHAPE), pieces=1)
    fast = interleaved({"kernel": _step(made, "auto"), "limit": plain}, "limit", rounds)
    slow = interleaved({"numpy": _step(made, "numpy"), "limit": plain}, "limit", max(3, rounds // 8))
    return Place(fast["kernel"].ratio, fast["kernel"].seconds / slow["numpy"].seconds)


def record(repeats: int, tell: Callable[[int], None] = lambda done: None) -> dict[str, Any]:
    """The table: least ratios over repeated runs, and a margin of twice the spread that was seen.

    Parameters
    ----------
    repeats : int
        At least 3. Some of them should have company.
    tell : function of (runs done)
        Progress.
    """
    runs = []
    for k in range(repeats):
        runs.append(measure())
        tell(k + 1)
    rows = {}
    for name in ROWS:
        places = [run[name] for run in runs]
        rows[name] = {
            field: {"ratio": _digits(min(seen)), "margin": _digits(_margin(seen))}
            for field in Place._fields
            for seen in [[getattr(place, field) for place in places]]
        }
    return {"shape": list(SHAPE), "repeats": repeats, "rows": rows}


def _margin(seen: list[float]) -> float:
    return max(LEAST_MARGIN, 1 + 2 * (max(seen) / min(seen) - 1))


def _digits(value: float) -> float:
    return float(f"{value:.3g}")


class Lost(NamedTuple):
    """A row that lost its place: what it came to, and what is allowed."""

    name: str
    against: str
    ratio: float
    allowed: float

    def __str__(self) -> str:
        return f"{self.name}: {self.ratio:.3g} times {self.against}, at most {self.allowed:.3g} is allowed"


def check(
    table: Mapping[str, Any], measured: Callable[[list[str]], Mapping[str, Place]] = measure
) -> tuple[list[Lost], dict[str, Place]]:
    """The rows that lost their place in each of three tries, and the best ratios of all."""
    best: dict[str, Place] = {}
    lost: list[Lost] = []
    for _ in range(TRIES):
        again = sorted({row.name for row in lost}) if best else list(table["rows"])
        for name, place in measured(again).items():
            before = best.get(name, place)
            best[name] = Place(*map(min, before, place))
        lost = list(_lost(table["rows"], best))
        if not lost:
            break
    return lost, best


def _lost(rows: Mapping[str, Any], best: Mapping[str, Place]) -> Iterable[Lost]:
    for name, place in best.items():
        for against, ratio in zip(Place._fields, place, strict=True):
            allowed = rows[name][against]["ratio"] * rows[name][against]["margin"]
            if ratio > allowed:
                yield Lost(name, against, ratio, allowed)


def read(path: Path) -> dict[str, Any]:
    """A table that :func:`record` made.

    Raises
    ------
    FileFormatError
        It is none.
    """
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        for row in found["rows"].values():
            for field in Place._fields:
                float(row[field]["ratio"]) * float(row[field]["margin"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        advice = "Write it with: memopt bench --write-gate FILE."
        raise FileFormatError(
            str(path), f"{type(error).__name__}: {error}", "a table of ratios", advice
        ) from error
    return found
