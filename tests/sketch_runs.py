"""Row-sparse problems for the tests of the count-sketch rules."""

from __future__ import annotations

import numpy as np

from memopt_ref.parts.row_sparse import RowSparse

N, D = 12, 3


def row_gradients(steps, n=N, d=D, active=4, seed=0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        items = np.sort(rng.choice(n, active, replace=False))
        yield RowSparse(items, rng.standard_normal((active, d)).astype(dtype), (n, d))


def run(rule, grads, w=None, dtype=np.float64):
    """Weights and all values after each step."""
    w = np.zeros((N, D), dtype) if w is None else w
    state, trace = rule.init(w), []
    for g in grads:
        trace.append(rule.values(w, g, state))
        w, state = rule.update(w, g, state)
    return w, state["leaves"][""], trace
