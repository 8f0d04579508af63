"""What is done to the gradients of one step on a device, with the host's bits.

CuPy's own arithmetic takes subnormal numbers for zero, so that each of these has a kernel: scale, policy for
NaN and infinity, factor (``prepare.cu``); the search for what is not finite (``largest.cu``); the global norm
(``row_sums.cu``).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from memopt_ref import clipping
from memopt_ref.parts.sums import LEAF, along_rows

from ..largest import infinity, number
from .arrays import address, kept, namespace, place, zeros
from .device import Device, device_of
from .kernel import Kernel, defined, text, types_of

#: Threads of a block; entries that each reads in the search for the largest.
BLOCK, EACH = 256, 8
F64 = np.dtype(np.float64)


@functools.cache
def kernel(name: str, native: Any, gradient: Any, **definitions: Any) -> Kernel:
    """One of the kernels of this file, for gradients of a dtype."""
    source = text("common.cuh") + "\n" + text(f"{name}.cu")
    return Kernel(name, source, defined(**types_of(native, gradient), BLOCK=BLOCK, **definitions))


def prepared(g: Any, dtype: Any, scale: float, zero: bool, factor: float) -> Any:
    """A gradient, scaled, zeroed and clipped, as a contiguous array of this dtype."""
    with place(g):
        to = zeros(g, g.shape, dtype)
        if g.size:
            wide = "double" if F64 in (g.dtype, dtype) else "float"
            times = np.float64(scale) if wide == "double" else np.float32(scale)
            from_ = namespace(g).ascontiguousarray(g).reshape(g.shape)
            args = (from_, to, np.int64(g.size), times, np.int32(zero), dtype.type(factor))
            launch(device_of(g), kernel("prepare", dtype, g.dtype, WIDE=wide), g.size, args)
    return to


def launch(device: Device, chosen: Kernel, threads: int, args: tuple[Any, ...]) -> None:
    """Run one of these kernels with this many threads in all."""
    device.launch(chosen, (-(-threads // BLOCK),), (BLOCK,), args)


def largest(arrays: Sequence[Any]) -> int:
    """The image of the largest magnitude in arrays of one dtype and device; the host waits for it."""
    arrays = [namespace(x).ascontiguousarray(x) for x in arrays if x.size]
    if not arrays:
        return 0
    like, sizes = arrays[0], np.array([x.size for x in arrays])
    blocks = -(-sizes // (BLOCK * EACH))
    last = np.cumsum(blocks)
    table = np.array([[address(x), x.size, 0] for x in arrays], np.uint64)
    table[:, 2] = last - blocks
    tensor_of = np.repeat(np.arange(len(arrays), dtype=np.int32), blocks)
    with place(like):
        top = zeros(like, 1, np.uint64)
        native = F64 if like.dtype == F64 else np.dtype(np.float32)
        chosen = kernel("largest", native, like.dtype, EACH=EACH)
        args = (kept(like, table), kept(like, tensor_of), top)
        device_of(like).launch(chosen, (int(last[-1]),), (BLOCK,), args, touched=arrays)
        return int(top[0])


def norm(arrays: Sequence[Any]) -> float:
    """Euclidean norm of arrays on a device, as :func:`memopt_ref.clipping.norm` has it."""
    exponent = _exponent([x for x in arrays if x.dtype == F64])
    totals = [_squares(x, exponent) for x in arrays if x.size]
    if not totals:
        return 0.0
    with np.errstate(all="ignore"):
        return math.ldexp(math.sqrt(float(along_rows(np.array(totals, np.float64)))), exponent)


def _exponent(wide: Sequence[Any]) -> int:
    """Power of two by which entries are divided first; 0 when the squares are safe or nothing helps."""
    top = largest(wide) if wide else 0
    if top == 0 or top >= infinity(F64):
        return 0
    exponent = math.frexp(float(number(top, F64)[0]))[1]
    return exponent if abs(exponent) > clipping._SAFE else 0


def _squares(x: Any, exponent: int) -> float:
    """The sum of the squares of an array, in the order of :mod:`memopt_ref.parts.sums`."""
    half = exponent // 2
    powers = np.float64(math.ldexp(1.0, -half)), np.float64(math.ldexp(1.0, half - exponent))
    one = np.float64(1.0)
    with place(x):
        x = namespace(x).ascontiguousarray(x)
        rows, columns, squared = prod(x.shape[:-1]), x.shape[-1] if x.ndim else 1, 1
        while True:
            leaves = max(-(-columns // LEAF), 1)
            sums = zeros(x, rows * leaves, np.float64)
            sizes = (np.int64(n) for n in (rows, columns, leaves))
            args = (x, sums, *sizes, *(powers if squared else (one, one)))
            launch(device_of(x), kernel("row_sums", F64, x.dtype, SQUARED=squared), 32 * sums.size, args)
            if sums.size == 1:
                return float(sums[0])
            x, rows, columns, squared = sums, 1, sums.size, 0
