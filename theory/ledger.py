"""The ledger: running sums of the exact decomposition of mirror descent."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..parts.metric import Metric
from .chain import Affine, Check, Watch
from .geometry import Array, Domain
from .play import Round


def dense(metric: Metric) -> Array:
    """H as a matrix on flattened tensors."""
    basis = np.eye(1)
    for q in metric.bases:
        basis = np.kron(basis, q)
    h = np.ravel(metric.weights)
    return np.diag(h) if not metric.bases else (basis * h) @ basis.T


class Ledger:
    """The four parts of the decomposition, and the checks on its way, for mirror descent.

    Parameters
    ----------
    domain : Domain
        Where the iterates are projected.
    comparators : Domain
        The u that slack is measured against.
    direction : str
        What the rule steps along: ``"g"``, or the name of a value (``"m_hat"``) of a rule with momentum.
    mu : float
        Strong convexity of the losses: the metric must grow by at least mu a round.
    """

    #: Above this size a matrix metric is not compared with its predecessor.
    LARGEST = 64

    def __init__(
        self, domain: Domain, comparators: Domain, direction: str = "g", mu: float | None = None
    ) -> None:
        self.domain, self.comparators, self.direction, self.mu = domain, comparators, direction, mu
        self.a, self.vi, self.residual = Affine(), Affine(), Affine()
        self.dual: Any = 0
        self.last_dual: Any = 0
        self.contraction: Any = 0
        self.slack: Any = 0
        self.mass: Any = 0
        self.sum_x: Any = 0
        self.sum_x2: Any = 0
        self.rounds = 0
        self.last: Metric | None = None
        self.honest = Watch("metric", "x_t - y_t = H_t^{-1} m_t: the step is the one the metric says")
        self.projected = Watch("projection", "x_{t+1} is the projection of y_t in the norm of H_t")
        self.monotone = Watch("monotone", "H_t - H_{t-1} is positive semi-definite")

    def see(self, r: Round) -> None:
        """Enter one round."""
        metric, x, y, x_next = r.metric, r.x, r.y, r.x_next
        if metric is None:
            self.dual = self.contraction = np.nan
            return
        step, move, pushed = x - y, x - x_next, x_next - y
        m, moved = metric.mul(step), metric.mul(move)
        active = bool(np.any(pushed))
        q = metric.mul(pushed) if active else 0 * m
        self.a.constant = self.a.constant + np.sum(moved * (x + x_next)) / 2
        self.a.slope = self.a.slope + moved
        self.last_dual = np.sum(m * step) / 2
        self.dual = self.dual + self.last_dual
        self.contraction = self.contraction - np.sum(q * pushed) / 2
        self.vi.add(q, x_next)
        self.residual.add(r.g - m, x)
        self.sum_x, self.sum_x2 = self.sum_x + x, self.sum_x2 + np.sum(x * x)
        self.rounds += 1
        self.mass = self.mass + np.sum((np.abs(moved) + np.abs(q) + np.abs(m)) * (np.abs(x) + np.abs(y) + 1))
        self._check(r, metric, m, step, q, active)
        self.last = metric

    def _check(self, r: Round, metric: Metric, m: Array, step: Array, q: Array, active: bool) -> None:
        target = r.g if self.direction == "g" else np.asarray(r.values[self.direction]).astype(m.dtype)
        off = target - m
        top = np.max(metric.weights, initial=0)
        n = 1 if metric.kind in ("scalar", "diagonal") else np.size(r.x)
        # y = fl(x - fl(lr fl(g / d))), h = fl(d / lr): at most u |y| + 5 u |step|, and |y| <= |x| + |step|.
        if n == 1:
            limit = r.unit * metric.weights * (np.abs(r.x) + 8 * np.abs(step))
            good = self.honest.note(r.t, np.max(np.abs(off) - limit, initial=0))
        else:
            good = self.honest.note(r.t, np.sqrt(np.sum(off * off)) - self._matrix_limit(r, metric, m, step))
        if good and r.unit:
            self.slack = self.slack + self.comparators.spread(off, r.x)
        if active:
            gap = np.sum(q * r.x_next) - self.domain.least(q)
            # Every coordinate of the projection is right to a few ulp in the eigenbasis.
            size = np.sqrt(np.sum(r.x_next**2)) + np.sqrt(np.sum(r.y**2)) if r.unit else 0
            limit = 16 * n * r.unit * top * size * self.domain.diameter("l2")
            if self.projected.note(r.t, gap, limit):
                self.slack = self.slack + max(gap, 0)
        self._grow(r, metric, top)

    def _matrix_limit(self, r: Round, metric: Metric, m: Array, step: Array) -> Any:
        """For eigendecompositions; a pseudo-inverse leaves out at most sqrt(n ulp) of the largest root."""
        n, top = np.size(r.x), np.max(metric.weights, initial=0)
        held = metric.weights[metric.weights > 0]
        least = np.min(held, initial=top)
        scale = np.sqrt(np.sum(r.x**2)) + 8 * np.sqrt(np.sum(step**2))
        limit = 8 * n * r.unit * (top * scale + top / least * np.sqrt(np.sum(m * m)))
        if held.size < n:
            limit = limit + np.sqrt(2 * n * r.unit) * top * r.player.learning_rate
        return limit

    def _grow(self, r: Round, metric: Metric, top: Any) -> None:
        before, mu = self.last, self.mu or 0.0
        if not metric.bases:
            grown = metric.weights if before is None else metric.weights - before.weights
            fall = np.max(np.where(metric.weights > 0, mu - grown, 0 * grown), initial=0)
            # Roots, quotients and maxima round monotonically; only the subtraction of mu needs a tolerance.
            self.monotone.note(r.t, fall / top if top else 0, 4 * r.unit if mu else 0)
        elif np.size(r.x) <= self.LARGEST and before is not None:
            lowest = np.linalg.eigvalsh(dense(metric) - dense(before))[0]
            # Eigenvalues below n ulp of the largest are noise, and with k axes roots are of order 2k: each
            # axis of each of the two metrics errs by (n ulp)^(1/2k) of its largest entry.
            k = len(metric.bases)
            limit = 2 * k * (2 * np.size(r.x) * r.unit) ** (1 / (2 * k))
            self.monotone.note(r.t, -lowest / top if top else 0, limit)

    def upper(self, u: Array) -> Any:
        """The upper side of the decomposition, at u."""
        return self.a(u) + self.dual

    def height(self) -> Any:
        """The weight of a scalar metric at the last round."""
        return np.nan if self.last is None else np.max(self.last.weights, initial=0)

    def distances(self, u: Array) -> Any:
        """Sum of |x_t - u|^2."""
        return self.sum_x2 - 2 * np.sum(self.sum_x * u) + self.rounds * np.sum(u * u)

    def parts(self, u: Array) -> dict[str, Any]:
        """The four parts at u; their sum is the linear regret."""
        return {
            "A": self.upper(u),
            "contraction": self.contraction,
            "projection": self.vi(u),
            "residual": self.residual(u),
        }

    def checks(self) -> list[Check]:
        """Metric, projection, monotone."""
        return [self.honest.check(), self.projected.check(), self.monotone.check()]

    def potential(self, D: Any, kind: str) -> Any:
        """1/2 sum of |x_t - u|^2 in H_t - H_{t-1}, bounded by a diameter: level B's first term.

        ``kind`` says which diameter ``D`` is: "l2" pairs with the scalar (or the trace of a matrix) metric,
        "linf" with one weight a coordinate (D may be one number a coordinate).
        """
        metric = self.last
        if metric is None:
            return np.nan
        if kind == "l2" and metric.kind == "scalar":
            return self.height() * D**2 / 2
        return np.sum(metric.weights * D**2) / 2
