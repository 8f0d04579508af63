"""Steps of one tensor, for tests of single rules."""

from __future__ import annotations

import numpy as np


def trajectory(rule, w, gradients):
    """Yield every step's values; ``gradients`` are arrays, or functions of w."""
    state = rule.init_leaf(w)
    for g in gradients:
        values = rule.values(w, g(w) if callable(g) else g, state)
        yield values
        w, state = values["w"], {name: values[name] for name in state}


def normal(*shape: int, seed: int = 0, dtype=np.float64):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)
