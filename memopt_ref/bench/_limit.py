"""The plainest step there is, compiled. Loading this loads Numba."""

from __future__ import annotations

from typing import Any

import numba


@numba.njit(error_model="numpy", fastmath=False)  # type: ignore[untyped-decorator, unused-ignore]
def _descend(w: Any, g: Any, rate: Any) -> None:
    for i in range(w.size):
        w[i] -= rate * g[i]


@numba.njit(error_model="numpy", fastmath=False, parallel=True)  # type: ignore[untyped-decorator, unused-ignore]
def descend(w: Any, g: Any, rate: Any, pieces: int) -> None:
    """``w -= rate * g`` over so many pieces, which the threads share."""
    size = -(-w.size // pieces)
    for k in numba.prange(pieces):
        _descend(w[k * size : (k + 1) * size], g[k * size : (k + 1) * size], rate)
