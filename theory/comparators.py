"""Comparators of linear losses that nobody projects on: spectral balls and polytopes.

A bound holds against every u, so a game may be played on one set and scored against another. That needs a
linear oracle alone. Where the oracle is a linear programme its value is certified: the multipliers of the
dual, made feasible, bound the minimum from below whatever the solver's accuracy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import HyperparameterError
from ..parts.metric import Metric
from .geometry import Array, Domain


@dataclass(frozen=True, eq=False)
class Comparators(Domain):
    """A bounded convex set with a linear oracle and no projection."""

    def project(self, y: Array, metric: Metric | None = None) -> Array:
        """A set to be compared with, not to be played on."""
        wanted = "a set with a projection"
        raise HyperparameterError(f"{type(self).__name__}.project", "a game's domain", wanted, "Use a ball.")


@dataclass(frozen=True, eq=False)
class SpectralBall(Comparators):
    """Matrices whose largest singular value is at most r: the minimum is - r times the nuclear norm.

    Examples
    --------
    >>> ball = SpectralBall(2.0, (2, 2))
    >>> float(ball.least(np.diag([3.0, -4.0])))
    -14.0
    """

    r: float
    size: tuple[int, int]

    @property
    def shape(self) -> tuple[int, ...]:
        """As given."""
        return self.size

    def argmin(self, c: Array) -> Array:
        """- r U V', from the singular vectors of c."""
        u, s, v = np.linalg.svd(c, full_matrices=False)
        return -self.r * (u * (s > 0)) @ v

    def diameter(self, norm: str) -> float:
        """2 r sqrt(rank) in the Frobenius norm; 2 r in an entry."""
        return 2 * self.radius(np.zeros(self.size), norm)

    def widths(self) -> Array:
        """2 r at every entry."""
        return np.full(self.size, 2 * self.r)

    def radius(self, x: Array, norm: str = "l2") -> float:
        """Exact at 0, which is where games begin; elsewhere by the triangle inequality."""
        off = float(np.sqrt(np.sum(x * x)) if norm == "l2" else np.max(np.abs(x), initial=0.0))
        return off + self.r * (float(np.sqrt(min(self.size))) if norm == "l2" else 1.0)


@dataclass(frozen=True, eq=False)
class Polytope(Comparators):
    """low <= x <= high and rows x <= tops: a linear programme with a certificate.

    ``rows`` has one row an inequality, over the flattened entries; the box makes every dual value a bound.

    Examples
    --------
    >>> half = Polytope(-np.ones(2), np.ones(2), np.array([[-1.0, -1.0]]), np.zeros(1))
    >>> half.argmin(np.array([1.0, 3.0])), half.gap(np.array([1.0, 3.0]), np.array([1.0, -1.0]))
    (array([ 1., -1.]), 0.0)
    """

    low: Array
    high: Array
    rows: Array
    tops: Array

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the two corners."""
        return tuple(self.low.shape)

    def _solved(self, c: Array) -> Any:
        from scipy.optimize import linprog

        span = list(zip(self.low.ravel(), self.high.ravel(), strict=True))
        return linprog(np.ravel(c), A_ub=self.rows, b_ub=self.tops, bounds=span, method="highs")

    def argmin(self, c: Array) -> Array:
        """A vertex, clipped to the box."""
        return np.clip(self._solved(c).x, self.low.ravel(), self.high.ravel()).reshape(self.shape)

    def floor(self, c: Array) -> float:
        """A lower bound on the minimum: for any y >= 0, min over the box of <c + rows' y, x> - <tops, y>."""
        y = np.maximum(-np.asarray(self._solved(c).ineqlin.marginals), 0.0)
        slope = np.ravel(c) + self.rows.T @ y
        inside = np.where(slope > 0, self.low.ravel(), self.high.ravel())
        return float(np.sum(slope * inside) - np.sum(self.tops * y))

    def gap(self, c: Array, x: Array) -> float:
        """<c, x> minus the floor."""
        return max(float(np.sum(c * x)) - self.floor(c), 0.0)

    def diameter(self, norm: str) -> float:
        """At most that of the box."""
        widths = self.widths()
        return float(np.sqrt(np.sum(widths**2)) if norm == "l2" else np.max(widths, initial=0.0))

    def widths(self) -> Array:
        """At most those of the box."""
        return self.high - self.low

    def radius(self, x: Array, norm: str = "l2") -> float:
        """At most to the farthest corner of the box."""
        far = np.maximum(np.abs(self.high - x), np.abs(x - self.low))
        return float(np.sqrt(np.sum(far**2)) if norm == "l2" else np.max(far, initial=0.0))
