"""MicroAdam's one kernel, for entries in registers or in memory, and what it needs of shared memory."""

from __future__ import annotations

import functools
from string import Template
from typing import Any, NamedTuple

from .kernel import Kernel, defined, text, types_of

#: Bins of Top-K's histogram; candidates that it ranks at once (``microadam_select.cuh``).
BINS, LISTED = 2048, 128
_VALUES = {"bfloat16": "Bfloat16", "float32": "float", "float64": "double"}
#: How the error is kept, by the text's numbers.
NO_ERROR, EXACT, BYTES, PACKED = range(4)
_CODES = "unsigned char *code_all, Value *low_all, Value *high_all, const Real levels,"
_ERROR = {NO_ERROR: "", EXACT: "Real *exact_all,", BYTES: _CODES, PACKED: _CODES}


class Form(NamedTuple):
    """What a kernel is compiled for.

    ``block`` threads; ``runs`` of eight entries a thread in registers, or 0 where entries are in memory,
    which is not shared memory if ``scratch``; ``bucket``: its entries, known in registers only; ``vec``
    entries of the gradient at once; ``error``: how it is kept; ``value``: dtype of the window; whether weight
    decay is in the gradient (``l2``), and whether every weight is stepped (``dense``); ``share`` entries of
    the window that a thread holds; blocks that are ``resident`` on a processor at once, as far as registers
    go.
    """

    block: int
    runs: int
    scratch: bool
    bucket: int
    vec: int
    error: int
    value: str
    l2: bool
    dense: bool
    share: int
    resident: int


@functools.lru_cache(maxsize=256)
def microadam(form: Form, weight: Any, gradient: Any) -> Kernel:
    """The kernel: ``microadam.cu`` and the parts before it."""
    place = "registers" if form.runs else "memory"
    files = ("select", "window", place)
    given = {"error": _ERROR[form.error], "scratch": " Real *scratch," if form.scratch else ""}
    source = Template(text("microadam.cu")).substitute(given)
    parts = [text("common.cuh"), *(text(f"microadam_{name}.cuh") for name in files), source]
    sizes = {
        "BLOCK": form.block,
        "RUNS": form.runs,
        "SCRATCH": int(form.scratch),
        "BUCKET": form.bucket,
        "VEC": form.vec,
        "ERROR": form.error,
        "L2": int(form.l2),
        "DENSE": int(form.dense),
        "SHARE": form.share,
        "RESIDENT": form.resident,
    }
    types = {**types_of(weight, gradient), "VALUE": _VALUES[form.value]}
    return Kernel("microadam", "\n".join(parts), defined(**types, **sizes))


def shared_bytes(runs: int, scratch: bool, capacity: int, itemsize: int) -> int:
    """Dynamic shared memory of a block of threads, for Top-K blocks of up to ``capacity`` entries.

    Examples
    --------
    >>> shared_bytes(2, False, 4096, 4), shared_bytes(0, True, 32768, 4)
    (34304, 21504)
    """
    sums, early = 2 * itemsize * capacity, 4 * BINS + LISTED * (4 + itemsize)
    maps = 3 * capacity // 8
    if runs:
        return max(sums, early) + maps
    return (0 if scratch else sums) + early + maps
