"""The gradients of one step on a device: :class:`memopt_ref.gradients.Gradients` with the same bits.

CuPy's own arithmetic takes subnormal numbers for zero, so that each of these has a kernel: scale, policy for
NaN and infinity, factor (``prepare.cu``); the search for what is not finite (``largest.cu``); the global norm
(``row_sums.cu``).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import numpy as np

from memopt_ref import clipping
from memopt_ref.errors import BackendError, NonFiniteError
from memopt_ref.nonfinite import prepare as on_host
from memopt_ref.parts.row_sparse import RowSparse
from memopt_ref.parts.slots import compute_dtype
from memopt_ref.parts.sums import LEAF, along_rows

from ..largest import infinity, number
from .arrays import address, kept, namespace, place, zeros
from .device import Device, device_of
from .kernel import Kernel, defined, text, types_of

#: Threads of a block; entries that each reads in the search for the largest.
BLOCK, EACH = 256, 8
F64 = np.dtype(np.float64)


class Gradients:
    """Gradients as they came, and their preparation: scale, policy for NaN and infinity, clipping.

    Parameters
    ----------
    raw : mapping of path to array
        Of one device, dense, never written.
    parameters : mapping of path to array
    scale : float
        Finite and positive.
    nonfinite : str
        One of the policies.

    Raises
    ------
    BackendError
        A RowSparse that is to be changed first.
    """

    def __init__(
        self, raw: Mapping[str, Any], parameters: Mapping[str, Any], scale: float, nonfinite: str
    ) -> None:
        self.raw, self._parameters, self.scale, self._nonfinite = dict(raw), parameters, scale, nonfinite
        self.factor = 1.0
        if self.changed and any(isinstance(g, RowSparse) for g in raw.values()):
            advice = "Scale its rows yourself, or pass a dense gradient."
            raise BackendError("RowSparse", "a scale or a policy", "rows that are taken as they are", advice)

    @property
    def zero(self) -> bool:
        """Whether NaN and infinity become 0."""
        return self._nonfinite == "zero"

    @property
    def changed(self) -> bool:
        """Whether the rules see other numbers than those that came, but for the cast."""
        return self.scale != 1.0 or self.factor != 1.0 or self.zero

    def all_finite(self) -> bool:
        """Whether the step may go on; raises NonFiniteError under ``"raise"``. The host waits for it."""
        if self._nonfinite in ("zero", "propagate"):
            return True
        alike: dict[tuple[Any, Any], list[str]] = {}
        for path, g in self.raw.items():
            alike.setdefault((g.dtype, self._parameters[path].dtype), []).append(path)
        bad = [path for (_, wide), paths in alike.items() for path in self._bad(paths, wide)]
        if bad and self._nonfinite == "raise":
            path = next(p for p in self.raw if p in bad)
            more = f", and {len(bad) - 1} more leaves like it" if len(bad) > 1 else ""
            got = f"a gradient with entries that are not finite{more}"
            advice = (
                'Nothing has changed. Lower the loss scale, or choose another policy than nonfinite="raise".'
            )
            raise NonFiniteError(path or "gradient", got, "finite gradients", advice)
        return not bad

    def _bad(self, paths: Sequence[str], parameter: Any) -> list[str]:
        """Those of some leaves of one dtype that hold NaN or infinity once cast and scaled."""

        def fits(top: int, dtype: Any) -> bool:
            """Rounding and a positive scale keep the order of magnitudes: the largest tells."""
            if top >= infinity(dtype):
                return False
            return bool(np.isfinite(on_host(number(top, dtype), parameter, self.scale, "propagate")[0]))

        rows = {p: g.rows if isinstance(g := self.raw[p], RowSparse) else g for p in paths}
        dtype = rows[paths[0]].dtype
        if fits(largest(list(rows.values())), dtype):
            return []
        return [path for path in paths if not fits(largest([rows[path]]), dtype)]

    def clip(self, max_norm: float) -> None:
        """Multiply all gradients with one factor, so that their norm is at most ``max_norm``."""
        parts = [self.prepared(path) if self.changed else self._rows(path) for path in self.raw]
        self.factor = clipping.factor(norm(parts), max_norm)

    def _rows(self, path: str) -> Any:
        g = self.raw[path]
        return g.rows if isinstance(g, RowSparse) else g

    def prepared(self, path: str) -> Any:
        """The gradient that a rule sees, in the compute dtype."""
        g = self.raw[path]
        dtype = compute_dtype(self._parameters[path].dtype)
        if isinstance(g, RowSparse):
            if self.factor == 1.0:
                return g
            raise BackendError("RowSparse", "clipping", "rows that are taken as they are", "Make it dense.")
        if not self.changed and g.dtype == dtype:
            return g
        return prepared(g, dtype, self.scale, self.zero, self.factor)

    def for_kernel(self, path: str) -> Any:
        """The same, but for the cast, which kernels do on their way."""
        return self.prepared(path) if self.changed else self.raw[path]


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
