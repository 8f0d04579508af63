"""Convex sets: projection in a metric, minimum of a linear function, diameters.

A projection in H is argmin over the set of <x - y, H (x - y)>. Diagonal metrics on a box need a clip, on a
ball one root of a monotone function (the secular equation), on a simplex a sort. Any other metric on a ball
is rotated into its eigenbasis first; on a box it is a bounded least-squares problem.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import HyperparameterError
from ..parts.metric import Metric

Array = Any


@dataclass(frozen=True, eq=False)
class Domain:
    """A convex set of tensors of one shape."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of a member."""
        raise NotImplementedError

    def project(self, y: Array, metric: Metric | None = None) -> Array:
        """The nearest member in the metric's norm; None is the Euclidean norm."""
        raise NotImplementedError

    def argmin(self, c: Array) -> Array:
        """A member that minimises <c, x>: the linear oracle."""
        raise NotImplementedError

    def diameter(self, norm: str) -> float:
        """The largest distance of two members, ``norm`` being "l2" or "linf"."""
        raise NotImplementedError

    def widths(self) -> Array:
        """The extent along every coordinate, in the shape of a member."""
        raise NotImplementedError

    def radius(self, x: Array, norm: str = "l2") -> float:
        """The largest distance from ``x`` to a member."""
        raise NotImplementedError

    @property
    def bounded(self) -> bool:
        """Whether the diameter is finite."""
        return True

    def least(self, c: Array) -> Any:
        """The minimum of <c, x>."""
        return np.sum(c * self.argmin(c))

    def gap(self, c: Array, x: Array) -> Any:
        """How far <c, x> may be above the minimum, x being what ``argmin`` found; 0 where that is exact."""
        return 0.0

    def breadth(self, c: Array) -> Any:
        """The maximum over members x, u of <c, x - u>."""
        return -self.least(c) - self.least(-c)

    def spread(self, c: Array, x: Array) -> Any:
        """The maximum over members u of |<c, x - u>|."""
        at = np.sum(c * x)
        return max(at - self.least(c), -self.least(-c) - at, 0)


@dataclass(frozen=True, eq=False)
class Box(Domain):
    """low <= x <= high, entry by entry.

    Examples
    --------
    >>> box = Box(-np.ones(2), np.array([1.0, 3.0]))
    >>> box.project(np.array([2.0, 2.0])), box.diameter("linf"), box.argmin(np.array([1.0, -1.0]))
    (array([1., 2.]), 4.0, array([-1.,  3.]))
    """

    low: Array
    high: Array

    @classmethod
    def symmetric(cls, shape: tuple[int, ...], half: float = 1.0) -> Box:
        """|x_i| <= half."""
        return cls(np.full(shape, -half), np.full(shape, half))

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the two corners."""
        return tuple(self.low.shape)

    def project(self, y: Array, metric: Metric | None = None) -> Array:
        """A clip in every diagonal metric; bounded least squares in the others."""
        if metric is None or metric.kind in ("scalar", "diagonal"):
            return np.minimum(np.maximum(y, self.low), self.high)
        return self._least_squares(y, metric)

    def _least_squares(self, y: Array, metric: Metric) -> Array:
        from scipy.optimize import lsq_linear

        inside = np.minimum(np.maximum(y, self.low), self.high)
        if np.array_equal(inside, y):
            return y
        basis = np.stack([metric.back(e, self.shape).ravel() for e in _unit_tensors(metric.weights.shape)], 1)
        root = np.sqrt(metric.weights).reshape(-1, 1) * basis.T
        tight = self.low.ravel() == self.high.ravel()
        low, high = self.low.ravel(), np.where(tight, self.high.ravel() + 1, self.high.ravel())
        solved = lsq_linear(root, root @ y.ravel(), bounds=(low, high), method="bvls", tol=1e-15)
        return np.clip(solved.x, self.low.ravel(), self.high.ravel()).reshape(self.shape)

    def breadth(self, c: Array) -> Any:
        """Edge by edge."""
        return np.sum((self.high - self.low) * np.abs(c))

    def argmin(self, c: Array) -> Array:
        """A corner."""
        return np.where(c > 0, self.low, self.high)

    def diameter(self, norm: str) -> float:
        """Of the diagonal, or the longest edge."""
        widths = self.widths()
        return float(np.sqrt(np.sum(widths**2)) if norm == "l2" else np.max(widths, initial=0.0))

    def widths(self) -> Array:
        """high - low."""
        return self.high - self.low

    def radius(self, x: Array, norm: str = "l2") -> float:
        """To the farthest corner."""
        far = np.maximum(self.high - x, x - self.low)
        return float(np.sqrt(np.sum(far**2)) if norm == "l2" else np.max(far, initial=0.0))


def _unit_tensors(shape: tuple[int, ...]) -> list[Array]:
    return list(np.eye(int(np.prod(shape))).reshape(-1, *shape))


@dataclass(frozen=True, eq=False)
class L2Ball(Domain):
    """|x - centre|_2 <= r (the Frobenius ball for matrices).

    Examples
    --------
    >>> ball = L2Ball(1.0, (2,))
    >>> ball.project(np.array([3.0, 4.0]))
    array([0.6, 0.8])
    >>> ball.project(np.array([0.8, 0.9]), Metric.diagonal(np.array([1.0, 0.0])))
    array([0.8, 0.6])
    """

    r: float
    size: tuple[int, ...]
    centre: Array = 0.0

    @property
    def shape(self) -> tuple[int, ...]:
        """As given."""
        return self.size

    def project(self, y: Array, metric: Metric | None = None) -> Array:
        """Rotate, solve the secular equation, rotate back.

        Where the metric is zero the nearest point is not unique; the limit of small equal weights is taken,
        which shrinks those coordinates into the radius that the others leave.
        """
        d = y - self.centre
        if np.sqrt(np.sum(d * d)) <= self.r:
            return y
        if metric is None or metric.kind == "scalar":
            return self.centre + d * (self.r / np.sqrt(np.sum(d * d)))
        return self.centre + metric.back(_into_ball(metric.into(d), metric.weights, self.r), self.shape)

    def breadth(self, c: Array) -> Any:
        """2 r |c|."""
        return 2 * self.r * np.sqrt(np.sum(c * c))

    def argmin(self, c: Array) -> Array:
        """The point opposite to c."""
        norm = np.sqrt(np.sum(c * c))
        return self.centre - (self.r / norm) * c if norm else self.centre + np.zeros(self.shape)

    def diameter(self, norm: str) -> float:
        """2 r in every norm."""
        return 2.0 * self.r

    def widths(self) -> Array:
        """2 r along every coordinate."""
        return np.full(self.shape, 2.0 * self.r)

    def radius(self, x: Array, norm: str = "l2") -> float:
        """The distance to the centre, and r more."""
        d = x - self.centre
        return float(self.r + (np.sqrt(np.sum(d * d)) if norm == "l2" else np.max(np.abs(d), initial=0.0)))


def _into_ball(y: Array, h: Array, r: float) -> Array:
    """Argmin of sum h (z - y)^2 over |z| <= r, for |y| > r and h >= 0."""
    held = h > 0
    rest = r * r - np.sum(np.where(held, y, 0.0) ** 2)
    if rest >= 0:
        loose = np.sqrt(np.sum(np.where(held, 0.0, y) ** 2))
        return np.where(held, y, y * (np.sqrt(rest) / loose)) if loose * loose > rest else y
    y = np.where(held, y, 0.0)
    # Newton on 1/r - 1/|z(l)|, z = h y / (h + l), rises to the root from the left: it stops when it no longer
    # rises in floating point.
    multiplier = 0.0
    for _ in range(100):
        z = h * y / np.where(held, h + multiplier, 1.0)
        norm = np.sqrt(np.sum(z * z))
        slope = np.sum(z * z / np.where(held, h + multiplier, 1.0))
        following = multiplier + (norm / r - 1.0) * norm * norm / slope
        if not following > multiplier:
            break
        multiplier = following
    return z * (r / norm)


@dataclass(frozen=True, eq=False)
class Simplex(Domain):
    """x_i >= 0 with sum 1.

    Examples
    --------
    >>> Simplex(2).project(np.array([1.5, 0.5])), Simplex(2).argmin(np.array([2.0, 1.0]))
    (array([1., 0.]), array([0., 1.]))
    """

    n: int

    @property
    def shape(self) -> tuple[int, ...]:
        """A vector."""
        return (self.n,)

    def project(self, y: Array, metric: Metric | None = None) -> Array:
        """z_i = max(0, y_i - l / h_i), l by sorting the h_i y_i; diagonal metrics with h > 0 only."""
        h = np.ones(self.n) if metric is None else metric.weights
        if metric is not None and (metric.kind not in ("scalar", "diagonal") or not np.all(h > 0)):
            wanted = "a positive diagonal metric"
            raise HyperparameterError("Simplex.project", f"a {metric.kind} metric", wanted, "Use a ball.")
        order = np.argsort(-h * y, kind="stable")
        top = np.cumsum(y[order]) - 1.0
        level = top / np.cumsum(1.0 / h[order])
        last = np.flatnonzero((h * y)[order] > level)[-1]
        return np.maximum(y - level[last] / h, 0.0)

    def argmin(self, c: Array) -> Array:
        """The best vertex."""
        return np.eye(self.n)[np.argmin(c)]

    def diameter(self, norm: str) -> float:
        """Of two vertices."""
        return float(np.sqrt(2.0)) if norm == "l2" else 1.0

    def widths(self) -> Array:
        """1 along every coordinate."""
        return np.ones(self.n)

    def radius(self, x: Array, norm: str = "l2") -> float:
        """To the farthest vertex."""
        d = np.abs(np.eye(self.n) - x)
        return float(np.max(np.sqrt(np.sum(d * d, 1)) if norm == "l2" else np.max(d, 1)))


@dataclass(frozen=True, eq=False)
class Everywhere(Domain):
    """No constraint.

    Examples
    --------
    >>> Everywhere((2,)).project(np.array([7.0, 8.0])), Everywhere((2,)).bounded
    (array([7., 8.]), False)
    """

    size: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """As given."""
        return self.size

    @property
    def bounded(self) -> bool:
        """Not bounded."""
        return False

    def project(self, y: Array, metric: Metric | None = None) -> Array:
        """Every point is a member."""
        return y

    def argmin(self, c: Array) -> Array:
        """A linear function has no minimum here."""
        wanted = "a bounded set"
        raise HyperparameterError("Everywhere.argmin", "no constraint", wanted, "Give the game a comparator.")

    def diameter(self, norm: str) -> float:
        """Infinite."""
        return float("inf")

    def widths(self) -> Array:
        """Infinite."""
        return np.full(self.shape, np.inf)

    def radius(self, x: Array, norm: str = "l2") -> float:
        """Infinite."""
        return float("inf")
