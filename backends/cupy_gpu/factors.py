"""A second moment as one number a row times one a column: sums, means, and what a step takes of them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from memopt_ref.parts.sums import LEAF, RUN
from memopt_ref.rules.elementwise import Expression, parameters

from . import folds, passes
from .arrays import zeros
from .device import Device
from .kernel import Kernel, text
from .trace import trace

#: Threads of a block.
BLOCK = 256
Extent = tuple[int, int, int]


@functools.cache
def small(name: str, averaged: Expression, before: str, native: Any, clamped: bool = False) -> Kernel:
    """A kernel that knows the rule's mean of squares.

    Parameters
    ----------
    name : str
        Of the kernel, and its file.
    averaged : function
        Of the old mean, the square, and two coefficients.
    before : str
        The file that says what a step takes: ``column_of`` and ``row_of``.
    native : dtype
    clamped : bool
        The definition ``CLAMPED``.
    """
    (result,) = averaged.returns  # type: ignore[attr-defined]
    traced = trace(averaged, (result,))
    takes = ", ".join(f"const Real {x}_" for x in parameters(averaged))
    mean = [
        f"__device__ __forceinline__ Real averaged({takes})",
        "{",
        *(f"    {line}" for line in traced.statements),
        f"    return {traced.results[result]};",
        "}",
    ]
    parts = text(before), "\n".join(mean), text(f"{name}.cu")
    return passes.whole(name, parts, native, native, BLOCK=BLOCK, CLAMPED=int(clamped))


def sums(
    device: Device,
    make: Callable[[int], Kernel],
    arrays: Sequence[Any],
    extent: Extent,
    native: Any,
    numbers: Sequence[Any],
    block: int,
) -> tuple[Any, Any]:
    """Sums along rows and down columns of matrices [matrices, m, n] in one reading.

    ``make`` binds the pass for so many neighbours in a pack; the sums of no entries are 0.
    """
    matrices, m, n = extent
    leaves, strips = -(-n // LEAF), -(-m // RUN)
    if not matrices * m * n:
        row_sums, column_sums = (zeros(arrays[0], x, native) for x in (matrices * m, matrices * n))
        return row_sums, column_sums
    rows, columns = (
        folds.room(arrays[0], shape, native) for shape in ((matrices * m, leaves), (matrices, strips, n))
    )
    sizes = (np.int64(x) for x in (matrices, m, n, leaves, strips))
    grid = -(-matrices * strips * leaves * 32 // block)
    kernel = make(passes.pack(n, arrays))
    device.launch(kernel, (grid,), (block,), (*arrays, rows, columns, *sizes, *numbers))
    return folds.leaves(device, rows), folds.runs(device, columns)


def averages(
    device: Device,
    make: Callable[[str], Kernel],
    row_sums: Any,
    column_sums: Any,
    R: Any,
    C: Any,
    extent: Extent,
    numbers: dict[str, Any],
) -> tuple[Any, Any]:
    """Bring R and C up to date in place; what a step takes of each.

    ``make`` binds a kernel by its name; ``numbers`` holds ``one``, ``beta2``, ``fresh2`` and ``eps1``.
    """
    matrices, m, n = extent
    native, leaves = R.dtype, -(-m // LEAF)
    row, column, parts = (folds.room(R, x, native) for x in (matrices * m, matrices * n, (matrices, leaves)))
    first = -(-32 * matrices * leaves // BLOCK)
    one, wide, tall = numbers["one"], native.type(max(n, 1)), native.type(max(m, 1))
    if blocks := first + -(-matrices * n // BLOCK):
        sizes = (np.int64(x) for x in (matrices, m, n, leaves))
        args = (row_sums, column_sums, R, C, parts, column, *sizes, np.int32(first))
        more = one, wide, tall, numbers["beta2"], numbers["fresh2"]
        device.launch(make("factor_averages"), (blocks,), (BLOCK,), (*args, *more))
    parts = folds.leaves(device, parts, LEAF)
    if first:
        sizes = (np.int64(x) for x in (matrices, m, leaves, parts.shape[-1]))
        args = (R, parts, row, *sizes, one, tall, numbers["eps1"])
        device.launch(make("factor_ratios"), (first,), (BLOCK,), args)
    return row, column
