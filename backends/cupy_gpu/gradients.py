"""The gradients of one step on a device: :class:`memopt_ref.gradients.Gradients` with the same bits.

Row-sparse ones too: where their rows and row numbers lie, their sums and their dense form.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import numpy as np

from memopt_ref import clipping
from memopt_ref.errors import NonFiniteError
from memopt_ref.nonfinite import prepare as on_host
from memopt_ref.parts.row_sparse import RowSparse
from memopt_ref.parts.slots import compute_dtype

from ..largest import infinity, number
from . import engine, prepare
from .arrays import namespace, zeros
from .device import device_of


class Gradients:
    """Gradients as they came, and their preparation: scale, policy for NaN and infinity, clipping.

    Parameters
    ----------
    raw : mapping of path to array or RowSparse
        Of one device, never written. RowSparse ones are scaled and coalesced at once, as on the host; dense
        ones when they are asked for.
    parameters : mapping of path to array
    scale : float
        Finite and positive.
    nonfinite : str
        One of the policies.

    Raises
    ------
    BackendError
        A RowSparse does not lie where its parameter does.
    """

    def __init__(
        self, raw: Mapping[str, Any], parameters: Mapping[str, Any], scale: float, nonfinite: str
    ) -> None:
        self._parameters, self.scale, self._nonfinite = parameters, scale, nonfinite
        self.factor = 1.0
        self.raw = {p: self._summed(p, g) if isinstance(g, RowSparse) else g for p, g in raw.items()}

    def _summed(self, path: str, g: RowSparse) -> RowSparse:
        """Rows that are scaled, then added, then zeroed, where there is anything to do."""
        w = self._parameters[path]
        rows, indices = apart(w, g, self.scale)
        if self.zero:
            rows = prepare.prepared(rows, compute_dtype(w.dtype), 1.0, True, 1.0)
        return RowSparse._of(indices, rows, g.shape)

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
        alike: dict[tuple[Any, Any, float], list[str]] = {}
        for path, g in self.raw.items():
            own = (g.dtype, self._parameters[path].dtype, 1.0 if isinstance(g, RowSparse) else self.scale)
            alike.setdefault(own, []).append(path)
        bad = [path for (_, *how), paths in alike.items() for path in self._bad(paths, *how)]
        if bad and self._nonfinite == "raise":
            path = next(p for p in self.raw if p in bad)
            more = f", and {len(bad) - 1} more leaves like it" if len(bad) > 1 else ""
            got = f"a gradient with entries that are not finite{more}"
            advice = (
                'Nothing has changed. Lower the loss scale, or choose another policy than nonfinite="raise".'
            )
            raise NonFiniteError(path or "gradient", got, "finite gradients", advice)
        return not bad

    def _bad(self, paths: Sequence[str], parameter: Any, scale: float) -> list[str]:
        """Those of some leaves of one dtype that hold NaN or infinity once cast and scaled."""

        def fits(top: int, dtype: Any) -> bool:
            """Rounding and a positive scale keep the order of magnitudes: the largest tells."""
            if top >= infinity(dtype):
                return False
            return bool(np.isfinite(on_host(number(top, dtype), parameter, scale, "propagate")[0]))

        rows = {p: _rows(self.raw[p]) for p in paths}
        dtype = rows[paths[0]].dtype
        if fits(prepare.largest(list(rows.values())), dtype):
            return []
        return [path for path in paths if not fits(prepare.largest([rows[path]]), dtype)]

    def clip(self, max_norm: float) -> None:
        """Multiply all gradients with one factor, so that their norm is at most ``max_norm``."""
        self.factor = clipping.factor(prepare.norm([_rows(self._known(path)) for path in self.raw]), max_norm)

    def _known(self, path: str) -> Any:
        """The gradient that a rule sees; one that the cast does not change as it came."""
        g = self.raw[path]
        wide = g.dtype.itemsize > compute_dtype(self._parameters[path].dtype).itemsize
        return self.prepared(path) if wide or self.changed else g

    def prepared(self, path: str) -> Any:
        """The gradient that a rule sees, in the compute dtype."""
        g = self.raw[path]
        dtype = compute_dtype(self._parameters[path].dtype)
        if isinstance(g, RowSparse):
            if self.factor == 1.0 and g.dtype == dtype:
                return g
            rows = prepare.prepared(g.rows, dtype, 1.0, False, self.factor)
            return RowSparse._of(g.indices, rows, g.shape)
        if not self.changed and g.dtype == dtype:
            return g
        return prepare.prepared(g, dtype, self.scale, self.zero, self.factor)

    def for_kernel(self, path: str) -> Any:
        """The same, but for the cast, which kernels do on their way."""
        return self.prepared(path) if self.changed else self.raw[path]


def _rows(g: Any) -> Any:
    return g.rows if isinstance(g, RowSparse) else g


def apart(w: Any, g: RowSparse, scale: float = 1.0) -> tuple[Any, Any]:
    """The rows, times ``scale``, and row numbers of a gradient; duplicates are summed, in the compute dtype.

    Raises
    ------
    BackendError
        They do not lie where the parameter does.
    """
    for name, x in (("rows", g.rows), ("indices", g.indices)):
        engine.same_place(w, f"RowSparse {name}", x)
    indices, coalesced = namespace(w).ascontiguousarray(g.indices), g.is_coalesced
    if coalesced and scale == 1.0:
        return g.rows, indices
    rows = prepare.prepared(g.rows, compute_dtype(w.dtype), scale, False, 1.0)
    return (rows, indices) if coalesced else summed(indices, rows)


def summed(indices: Any, rows: Any) -> tuple[Any, Any]:
    """Rows and ascending row numbers, each once: ``RowSparse.coalesced`` on a device.

    Examples
    --------
    >>> from memopt_ref.backends.cupy_gpu.device import RecordingDevice, instead
    >>> with instead(RecordingDevice()):
    ...     sums, indices = summed(np.array([2, 0, 2]), np.ones((3, 4), np.float32))
    >>> sums.shape, indices
    ((2, 4), array([0, 2]))
    """
    library = namespace(indices)
    # Row number and place as one number: whatever way it is sorted, places of one row ascend.
    both = indices * indices.size + library.arange(indices.size, dtype=np.int64)
    both.sort()
    sorted_, order = both // indices.size, both % indices.size
    begins = library.flatnonzero(sorted_[1:] != sorted_[:-1]) + 1
    first = zeros(indices, begins.size + 2, np.int64)
    first[1:-1], first[-1] = begins, indices.size
    sums = zeros(rows, (begins.size + 1, *rows.shape[1:]), rows.dtype)
    if sums.size:
        args = (rows, order, first, sums)
        sizes = np.int64(len(sums)), np.int64(prod(rows.shape[1:]))
        kernel = prepare.kernel("sum_rows", rows.dtype, rows.dtype)
        prepare.launch(device_of(rows), kernel, sums.size, (*args, *sizes))
    return sums, sorted_[first[:-1]]


def dense(w: Any, g: RowSparse) -> Any:
    """The gradient as a dense array of the compute dtype."""
    rows, indices = apart(w, g)
    whole = zeros(w, w.shape, compute_dtype(w.dtype))
    whole[indices] = prepare.prepared(rows, whole.dtype, 1.0, False, 1.0)
    return whole
