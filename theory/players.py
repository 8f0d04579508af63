"""Algorithms that are played and are no optimizer of this library: they have a rule's methods and no more.

Dual averaging with diagonal matrices is a rule (``FTRLProximal(centre="origin")``), and so is everything else
that a bound speaks of.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ..parts.metric import Metric
from ..parts.roots import eigenpairs
from .geometry import Array, Domain


@dataclass(frozen=True)
class Fixed:
    """A player whose numbers do not change with the round, and that shows no metric."""

    is_scheduled: ClassVar[bool] = False

    @property
    def name(self) -> str:
        """The class name."""
        return type(self).__name__

    def at(self, step: int) -> Any:
        """Itself."""
        return self

    def init_leaf(self, w: Array) -> dict[str, Any]:
        """The sum of gradients."""
        return {"S": np.zeros_like(w)}

    def metric(self, values: Any) -> Metric | None:
        """None."""
        return None


@dataclass(frozen=True)
class Hedge(Fixed):
    """Exponential weights on the simplex: w' = w exp(-eta g) / sum.

    Examples
    --------
    >>> player = Hedge(1.0)
    >>> player.values(np.full(2, 0.5), np.array([1.0, 0.0]), {})["w"].round(4)
    array([0.2689, 0.7311])
    """

    eta: float

    def init_leaf(self, w: Array) -> dict[str, Any]:
        """The weights are the state."""
        return {}

    def values(self, w: Array, g: Array, state: Any) -> dict[str, Any]:
        """One round."""
        raised = w * np.exp(-self.eta * (g - np.min(g)))
        return {"w": raised / np.sum(raised)}


@dataclass(frozen=True)
class FollowTheLeader(Fixed):
    """The best point so far; what regularisation is for."""

    domain: Domain

    def values(self, w: Array, g: Array, state: Any) -> dict[str, Any]:
        """One round."""
        S = state["S"] + g
        return {"w": self.domain.argmin(S), "S": S}


@dataclass(frozen=True)
class FullMatrixDualAveraging(Fixed):
    """w' = x_1 - eta (delta I + (sum g g')^{1/2})^{-1} sum g (Duchi, Hazan and Singer 2011, Figure 1)."""

    eta: float
    delta: float

    def init_leaf(self, w: Array) -> dict[str, Any]:
        """Sums of gradients and of their outer products, and x_1."""
        return {"S": np.zeros_like(w), "G": np.zeros((w.size, w.size)), "x1": w}

    def values(self, w: Array, g: Array, state: Any) -> dict[str, Any]:
        """One round."""
        S, G = state["S"] + g, state["G"] + np.outer(g, g)
        d, q = eigenpairs(G)
        metric = Metric.full((self.delta + np.sqrt(d)) / self.eta, q)
        return {"w": state["x1"] - metric.solve(S), "S": S, "G": G, "x1": state["x1"], "H": metric}

    def metric(self, values: Any) -> Metric:
        """H_t of the regulariser, in which the leader is projected."""
        found: Metric = values["H"]
        return found
