"""The gradients of one step by path, and what is done to them before the rules see them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from . import clipping
from .nonfinite import all_finite, prepare
from .parts.row_sparse import RowSparse


class Gradients:
    """Gradients as they came, and their preparation: scale, policy for NaN and infinity, clipping.

    Parameters
    ----------
    raw : mapping of path to array or RowSparse
        Never written. RowSparse ones are scaled and coalesced at once, dense ones when they are asked for, so
        that only one copy is there at a time; a kernel that prepares a dense one itself needs none.
    parameters : mapping of path to array
    scale : float
        Finite and positive.
    nonfinite : str
        One of the policies.
    """

    def __init__(
        self, raw: Mapping[str, Any], parameters: Mapping[str, Any], scale: float, nonfinite: str
    ) -> None:
        self._parameters, self.scale, self._nonfinite, self.factor = parameters, scale, nonfinite, 1.0
        self.raw = {p: self._scaled(p, g) if isinstance(g, RowSparse) else g for p, g in raw.items()}

    def _scaled(self, path: str, g: Any) -> Any:
        return prepare(g, self._parameters[path].dtype, self.scale, self._nonfinite)

    @property
    def zero(self) -> bool:
        """Whether NaN and infinity become 0."""
        return self._nonfinite == "zero"

    @property
    def changed(self) -> bool:
        """Whether the rules see other numbers than those that came, but for the cast."""
        return self.scale != 1.0 or self.factor != 1.0 or self.zero

    def all_finite(self) -> bool:
        """Whether the step may go on; raises NonFiniteError under ``"raise"``."""
        return all_finite(self.raw, self._parameters, self.scale, self._nonfinite)

    def clip(self, max_norm: float) -> None:
        """Multiply all gradients with one factor, so that their norm is at most ``max_norm``."""
        total = clipping.norm(self.raw, lambda path, part: self._scaled(str(path), part))
        self.factor = clipping.factor(total, max_norm)

    def prepared(self, path: str) -> Any:
        """The gradient that a rule sees, in the compute dtype."""
        g = self.raw[path]
        ready = g if isinstance(g, RowSparse) else self._scaled(path, g)
        return clipping.times(ready, self.factor)

    def for_kernel(self, path: str) -> Any:
        """The same, but for the cast, which kernels do on their way."""
        g = self.raw[path]
        if self.changed or isinstance(g, RowSparse):
            return self.prepared(path)
        return np.asarray(g)
