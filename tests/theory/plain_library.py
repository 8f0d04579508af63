"""A library in plain NumPy that another project might have written: torch's interface, and optax's."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np


class Descent:
    """Parameters with ``data`` and ``grad``, and ``step()``."""

    def __init__(self, params, lr=0.1, *, decay=False):
        if lr <= 0:
            raise ValueError("lr must be positive")
        self.params, self.lr, self.decay, self.t = list(params), lr, decay, 0

    def step(self):
        self.t += 1
        rate = self.lr / np.sqrt(self.t) if self.decay else self.lr
        for p in self.params:
            p.data -= rate * p.grad


def descent(learning_rate=0.1):
    """A pair of functions."""
    return SimpleNamespace(
        init=lambda w: {"seen": 0},
        update=lambda g, state, w=None: (-learning_rate * g, {"seen": state["seen"] + 1}),
    )


def nothing():
    return object()
