"""One row: our step, the same with the check for NaN, the limit and the peers, in turn."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from functools import partial
from math import prod
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from ..backends import select
from ..backends.timing import Timing, interleaved
from . import peers, tracks
from .limit import Step, limit
from .machine import Quiet
from .rows import Row

#: What the contestants are called, beside the names of the peers' libraries.
OURS, CHECKED, LIMIT = "memopt", "memopt, checked", "limit"
#: Gradients that take turns, so that a step does not meet the last one again.
TURNS = 61


class Result(NamedTuple):
    """What a row came to.

    ``timings`` holds every contestant; ratios are to ``row.against``, or to the limit if that was not there.
    """

    row: Row
    timings: dict[str, Timing]
    against: str
    kernel: str
    rounds: int
    disturbed: int

    @property
    def ratio(self) -> float:
        """Ours to what the row is held against: of the minima."""
        return self.timings[OURS].seconds / self.timings[self.against].seconds

    @property
    def verdict(self) -> str:
        """``goal``, ``bar``, ``over``, or ``-`` where there is no mark or its peer was not there."""
        if self.row.bar is None or self.against != self.row.against:
            return "-"
        marks = [
            name for name in ("goal", "bar") if (limit := getattr(self.row, name)) and self.ratio <= limit
        ]
        return marks[0] if marks else "over"

    def of_limit(self, name: str) -> float | None:
        """A contestant's time as a multiple of the limit's; None if it was not there."""
        timing = self.timings.get(name)
        return None if timing is None else timing.seconds / self.timings[LIMIT].seconds


def contestants(row: Row, against: Iterable[str], backend: str = "auto") -> dict[str, Step]:
    """The steps that take turns; peers that have no such optimizer, or are not installed, are left out."""
    shapes = {str(k): shape for k, shape in enumerate(row.shapes)}
    dtype = ml_dtypes.bfloat16 if row.dtype == "bfloat16" else np.dtype(row.dtype)
    made: dict[str, Step] = {LIMIT: limit(_moved(row))}
    for name, policy in ((OURS, "propagate"), (CHECKED, "raise")):
        if row.active:
            rows, columns = row.shapes[0]
            made[name] = tracks.row_step(row.rule, rows, row.active, columns, backend, policy)
        else:
            made[name] = tracks.step(row.rule, shapes, backend, policy, dtype, turns=TURNS)
    for library in against:
        step = _peer(library, row, shapes) if peers.installed(library) else None
        if step is not None:
            made[library] = step
    return made


def _moved(row: Row) -> int:
    return row.active * row.shapes[0][1] if row.active else sum(map(prod, row.shapes))


def _peer(library: str, row: Row, shapes: Mapping[str, tuple[int, ...]]) -> Step | None:
    if row.active:
        return (
            peers.torch_sparse_adam(row.shapes[0][0], row.active, row.shapes[0][1])
            if library == "torch"
            else None
        )
    make: Any = peers.PEERS[library]
    if row.dtype != "float32":
        if library != "torch":
            return None
        make = partial(make, dtype=row.dtype)
    found: Step | None = make(row.peer, shapes)
    return found


def measure(row: Row, against: Iterable[str] = (), rounds: int = 15, backend: str = "auto") -> Result:
    """Time a row.

    Parameters
    ----------
    row : Row
    against : iterable of str
        Keys of ``peers.PEERS``.
    rounds : int
        At least 1. A round during which something else ran is played again; see
        :func:`memopt_ref.backends.timing.interleaved`.
    backend : str
        Whose kernels are ours.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peers warn of their own beta features
        steps = contestants(row, against, backend)
        quiet = Quiet()
        found = interleaved(steps, LIMIT, rounds, quiet=quiet)
    held = row.against if row.against in found else LIMIT
    dtype = ml_dtypes.bfloat16 if row.dtype == "bfloat16" else np.dtype(row.dtype)
    choice = select(row.rule, row.shapes[0], dtype, backend=backend)
    return Result(row, found, held, choice.variant.name, quiet.rounds - 1, quiet.disturbed)
