"""The limit, ready to be timed again and again: each call is one step on arrays of its own.

Our own steps are made in :mod:`.tracks`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from .tracks import normal

Step = Callable[[], Any]
Shapes = Mapping[str, tuple[int, ...]]


def limit(entries: int, pieces: int | None = None) -> Step:
    """``w -= lr * g`` in every thread: read eight bytes, write four, nothing else.

    A loop of its own and no kernel of the backends, so that they are held against something that they are
    not.
    """
    import numba

    from ._limit import descend

    w, g, rate = normal((entries,), 1), normal((entries,), 2, 1e-2), np.float32(1e-3)
    shared = 4 * numba.get_num_threads() if pieces is None else pieces
    return lambda: descend(w, g, rate, shared)
