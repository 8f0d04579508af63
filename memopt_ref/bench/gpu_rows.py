"""The rows of a GPU's table: which step, the bytes that count for it, and where it should come out.

A step only moves memory, so its figure is the bytes that it has to move over its time, as a fraction of what
a copy on the same device moves. The marks are aims, set before any of these kernels had run on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import NamedTuple

import numpy as np

from ..rules.adam import Adam, AdamW
from . import rows, tracks
from .rows import Row

#: float32 entries of a dense tensor, where there is memory for them.
ENTRIES = 2**28
#: Rows of :func:`memopt_ref.bench.rows.rows` that are measured here too.
SHARED = ("SGD", "AdaGrad", "Adam", "SM3", "Adafactor", "MicroAdam")
#: Entries of one of 200 small tensors.
SMALL = 2**12


class Target(NamedTuple):
    """What a row is held to.

    ``bytes`` an entry are what the step has to move, by the rule's own slots if None. ``bar`` and ``goal``
    are fractions of the copy's bandwidth at least; ``torch_bar`` and ``torch_goal`` multiples at most of the
    time of ``peer``, torch's fused optimizer of that name.
    """

    peer: str
    bar: float | None = None
    goal: float | None = None
    torch_bar: float | None = None
    torch_goal: float | None = None
    bytes: float | None = None


TARGETS = {
    "SGD": Target("SGD", 0.88, 0.92),
    "AdaGrad": Target("AdaGrad", 0.88, 0.92),
    "Adam": Target("Adam", 0.88, 0.92, 1.0),
    "AdamW": Target("AdamW", 0.88, 0.92, 1.0),
    "SM3": Target("Adam", 0.80, 0.90, 0.5),
    # The gradient is read twice, since RMS(U) needs the factors of this very step.
    "Adafactor": Target("Adam", 0.65, 0.80, bytes=20.0),
    # Bound by instructions; of w only what the window touches is moved.
    "MicroAdam": Target("Adam", torch_bar=1.0, torch_goal=0.6, bytes=10.1),
    "200 small tensors": Target("Adam", torch_bar=1.0),
}


def gpu_rows(entries: int = ENTRIES) -> tuple[Row, ...]:
    """The rows, those that the processor's table has among them.

    Examples
    --------
    >>> [row.name for row in gpu_rows(2**12)] == list(TARGETS)
    True
    """
    shared = {row.name: row for row in rows.rows(entries) if row.name in SHARED}
    own = {
        "AdamW": Row("AdamW", AdamW(learning_rate=1e-3), ((entries,),), "AdamW"),
        "200 small tensors": Row("200 small tensors", Adam(learning_rate=1e-3), ((SMALL,),) * 200, "Adam"),
    }
    return tuple({**shared, **own}[name] for name in TARGETS)


def entries_of(row: Row) -> int:
    """Entries of all tensors of a row."""
    return sum(map(prod, row.shapes))


def bytes_of(row: Row) -> float:
    """Bytes an entry that count for a row.

    Examples
    --------
    >>> [bytes_of(row) for row in gpu_rows(2**20)[:4]]
    [12.0, 20.0, 28.0, 28.0]
    """
    told = TARGETS[row.name].bytes
    return round(tracks.least_bytes_moved(row.rule, row.shapes[0]), 2) if told is None else told


def needed(row: Row) -> int:
    """Bytes of a device's memory for the row: ours, torch's Adam beside it, and the copy's two arrays."""
    state = sum(
        slot.nbytes for shape in row.shapes for slot in row.rule.slots(shape, np.dtype(np.float32)).values()
    )
    return 4 * (2 + 4 + 2) * entries_of(row) + state


def fitting(free: int, entries: int = ENTRIES, rows: Callable[[int], tuple[Row, ...]] = gpu_rows) -> int:
    """The most entries, halved from ``entries``, with which every row takes four fifths of this memory.

    Examples
    --------
    >>> fitting(80 * 2**30) == ENTRIES, fitting(8 * 2**30) == ENTRIES // 2
    (True, True)
    """
    while entries > 2**12 and max(map(needed, rows(entries))) > 0.8 * free:
        entries //= 2
    return entries
