"""Ledgers of followers of the regularised leader: FTRL-Proximal, and dual averaging with any matrix."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..parts.metric import Metric
from .chain import Check, Watch
from .geometry import Array
from .ledger import dense
from .play import Round


class LeaderLedger:
    """The decomposition for follow-the-regularised-leader: FTRL-Proximal and dual averaging.

    psi_t(x) = 1/2 sum_{s<=t} |x - c_s|^2 in H_s - H_{s-1}, with centres c_s = x_s ("iterate") or x_1
    ("origin"), and Phi_t = <g_{1:t}, x_{t+1}> + psi_t(x_{t+1}), the leader's value. Then for every u

        sum <g_t, x_t - u>  <=  A(u) = psi_T(u) - Phi_T + sum <g_t, x_t>        as Phi_T <= the value at u
        <g_t, x_t> + Phi_{t-1} - Phi_t  <=  1/2 |g_t|^2                         stability, every round

    in the dual norm of H_t for centres at the iterates, and of H_{t-1} around the origin (as recalled from H.
    B. McMahan, "A survey of algorithms and analysis for adaptive online learning", arXiv:1403.3465; the proof
    is the strong convexity of the leader's objective). Diagonal metrics.
    """

    def __init__(self, centre: str, start: Array) -> None:
        self.centre, self.start = centre, start
        self.h: Any = 0
        self.hc: Any = 0
        self.hc2: Any = 0
        self.total: Any = 0
        self.earned: Any = 0
        self.phi: Any = 0
        self.dual: Any = 0
        self.mass: Any = 0
        self.mirror: Any = None
        self.stable = Watch("stability", "a leader moves little: strong convexity of its objective")
        self.monotone = Watch("monotone", "H_t - H_{t-1} is positive semi-definite")

    def psi(self, u: Array) -> Any:
        """The regulariser at u, so far."""
        return (np.sum(self.h * u * u) - 2 * np.sum(self.hc * u) + np.sum(self.hc2)) / 2

    def see(self, r: Round) -> None:
        """Enter one round."""
        if r.metric is None:
            self.earned = self.dual = np.nan
            return
        h, before = r.metric.weights, self.h
        c = r.x if self.centre == "iterate" else self.start
        sigma = h - before
        top = np.max(h, initial=0)
        self.monotone.note(r.t, np.max(-sigma, initial=0))
        norm = h if self.centre == "iterate" else before
        if r.t == 1 and self.centre == "origin":
            # psi_0 = delta |x - x_1|^2 / (2 lr) is the part of H_1 that is no gradient.
            norm = 0 * h + r.player.beta / r.player.learning_rate
        spent = np.sum(np.where(norm > 0, r.g * r.g / np.where(norm > 0, norm, 1), 0 * r.g)) / 2
        self.h, self.hc, self.hc2 = h + 0 * r.x, self.hc + sigma * c, self.hc2 + sigma * c * c
        self.total = self.total + r.g
        phi = np.sum(self.total * r.x_next) + self.psi(r.x_next)
        earned = np.sum(r.g * r.x)
        self.mass = self.mass + np.abs(earned) + np.sum(np.abs(self.hc * r.x_next)) * 2.0**-6 + np.abs(phi)
        excess = earned + self.phi - phi - spent
        noise = 0.0
        if r.unit:
            size = (
                np.sum(np.abs(self.total * r.x_next)) + np.sum(h * (r.x_next**2 + c * c)) + np.abs(self.phi)
            )
            noise = 32 * (r.t + np.size(r.x)) * r.unit * size
        self.stable.note(r.t, excess / top if top else 0, noise / top if top else 0)
        self.earned, self.phi, self.dual = self.earned + earned, phi, self.dual + spent

    def upper(self, u: Array) -> Any:
        """psi_T(u) - Phi_T + sum <g_t, x_t>."""
        return self.psi(u) - self.phi + self.earned

    @property
    def slack(self) -> Any:
        """The leader's value is a difference of large sums."""
        return 0

    def checks(self) -> list[Check]:
        """Stability, monotone."""
        return [self.stable.check(), self.monotone.check()]


class OriginLedger:
    """The same with all centres at x_1 and any matrix: psi_t(x) = 1/2 |x - x_1|^2 in H_t.

    Stability is in the norm of H_{t-1}, that of the first round being ``first`` I.
    """

    def __init__(self, start: Array, first: float) -> None:
        self.start, self.first = start, first
        self.last: Metric | None = None
        self.total: Any = 0
        self.earned: Any = 0
        self.phi: Any = 0
        self.dual: Any = 0
        self.mass: Any = 0
        self.stable = Watch("stability", "a leader moves little: strong convexity of its objective")
        self.monotone = Watch("monotone", "H_t - H_{t-1} is positive semi-definite")

    def see(self, r: Round) -> None:
        """Enter one round."""
        if r.metric is None:
            self.earned = self.dual = np.nan
            return
        before, top = self.last, np.max(r.metric.weights, initial=0)
        spent = np.sum(r.g * r.g) / self.first / 2 if before is None else before.dual(r.g) / 2
        d = r.x_next - self.start
        self.total = self.total + r.g
        phi = np.sum(self.total * r.x_next) + r.metric.quad(d) / 2
        earned = np.sum(r.g * r.x)
        size = np.sum(np.abs(self.total * r.x_next)) + top * np.sum(d * d) + np.abs(self.phi) + spent
        n = np.size(r.x)
        # Eigenvalues and products of n x n matrices err by a few n ulp of the norm.
        noise = 64 * (r.t + n) * r.unit * size
        self.stable.note(r.t, earned + self.phi - phi - spent, noise)
        if before is not None:
            lowest = np.linalg.eigvalsh(dense(r.metric) - dense(before))[0]
            # A root errs by the root of n ulp where its matrix is singular.
            self.monotone.note(r.t, -lowest / top if top else 0, 2 * (2 * n * r.unit) ** 0.5)
        self.mass = self.mass + np.abs(earned) + np.abs(phi) + top * np.sum(d * d)
        self.earned, self.phi, self.dual, self.last = self.earned + earned, phi, self.dual + spent, r.metric

    def psi(self, u: Array) -> Any:
        """The regulariser at u, after the last round."""
        return np.nan if self.last is None else self.last.quad(u - self.start) / 2

    def upper(self, u: Array) -> Any:
        """psi_T(u) - Phi_T + sum <g_t, x_t>."""
        return self.psi(u) - self.phi + self.earned

    @property
    def slack(self) -> Any:
        """The leader's value is a difference of large sums."""
        return 0

    def checks(self) -> list[Check]:
        """Stability, monotone."""
        return [self.stable.check(), self.monotone.check()]
