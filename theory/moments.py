"""What the proofs of AMSGrad sum: second moments from the gradients, and the momentum's own part."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from ..parts.metric import Metric
from .chain import Affine, Check
from .geometry import Array, Domain
from .ledger import Ledger
from .play import Round


class Moments:
    """v_hat of AMSGrad (or v of Adam), and sums with it, from the gradients alone.

    ``weighted`` is the sum over rounds of beta1_t sqrt(v_hat_t) / alpha_t.
    """

    def __init__(self, alpha: float, beta1: float, beta2: float, decay: float = 1.0) -> None:
        self.alpha, self.beta1, self.beta2, self.decay = alpha, beta1, beta2, decay
        self.v: Any = 0.0
        self.v_hat: Any = 0.0
        self.weighted: Any = 0.0

    def see(self, r: Round) -> None:
        """One gradient."""
        self.v = self.beta2 * self.v + (1.0 - self.beta2) * (r.g * r.g)
        self.v_hat = np.maximum(self.v_hat, self.v)
        rate, beta = self.alpha / math.sqrt(r.t), self.beta1 * self.decay ** (r.t - 1)
        self.weighted = self.weighted + beta * np.sqrt(self.v_hat) / rate

    def checks(self) -> list[Check]:
        """None: it is no part of the player."""
        return []


class Momentum:
    """The exact form of sum <g_t - m_t, x_t - u> for m <- b m + (1 - b) g from 0."""

    def __init__(self, b: float) -> None:
        self.b = b
        self.moved: Any = 0
        self.pending: Any = 0
        self.mass: Any = 0
        self.m: Any = 0
        self.x: Any = 0

    def see(self, r: Round) -> None:
        """One round; the last one's move is left out at the end."""
        if "m" not in r.values:
            self.moved = self.pending = np.nan
            return
        m = np.asarray(r.values["m"]).astype(r.x.dtype)
        self.pending = np.sum(m * (r.x - r.x_next))
        self.moved = self.moved + self.pending
        self.mass = self.mass + np.sum(np.abs(m)) * 2 / (1 - self.b)
        self.m, self.x = m, r.x

    def __call__(self, u: Array) -> Any:
        """At u."""
        return self.b / (1 - self.b) * (np.sum(self.m * (self.x - u)) + self.moved - self.pending)

    def checks(self) -> list[Check]:
        """See :meth:`ConstantBeta.checks`."""
        return []


class ScheduledLedger(Ledger):
    """The decomposition of sum <w_t m_t, x_t - u> in w_t H_t, w_t = 1 / (1 - b_t), b_t = beta1 decay^(t-1).

    ``cross`` is - sum w_t b_t <m_{t-1}, x_t - u>, the rest of the regret; ``spent`` and ``pulled`` are the
    two halves of Young's inequality for it, ``rises`` the positive variation of w_t H_t, ``shares`` the sum
    of b_t H_t, ``h`` the last H_t.
    """

    def __init__(self, domain: Domain, comparators: Domain, beta1: float, decay: float) -> None:
        super().__init__(domain, comparators, direction="m_hat")
        self.beta1, self.decay = beta1, decay
        self.cross = Affine()
        self.spent: Any = 0
        self.pulled: Any = 0
        self.rises: Any = 0
        self.shares: Any = 0
        self.h: Any = 0
        self.m: Any = 0

    def see(self, r: Round) -> None:
        """Enter one round."""
        if r.metric is None:
            super().see(r)
            self.spent = self.cross.constant = np.nan
            return
        b = self.beta1 * self.decay ** (r.t - 1)
        w, h = 1 / (1 - b), r.metric.weights
        fall = np.max(np.where(h > 0, self.h - h, 0 * h), initial=0)
        top = np.max(h, initial=0)
        self.monotone.note(r.t, fall / top if top else 0)
        owed = w * b * (self.m + 0 * r.x)
        self.cross.add(-owed, r.x)
        self.spent = self.spent + r.metric.dual(owed) / (2 * w * b) if b else self.spent
        self.pulled = self.pulled + w * b * h
        self.shares = self.shares + b * h
        last = 0 if self.last is None else self.last.weights
        self.rises = self.rises + np.maximum(w * h - last, 0)
        m = np.asarray(r.values["m_hat"]).astype(r.x.dtype)
        weighted = Metric.diagonal(w * h)
        super().see(dataclasses.replace(r, metric=weighted, values={**r.values, "m_hat": w * m}))
        self.h, self.m = h, m

    def _grow(self, r: Round, metric: Metric, top: Any) -> None:
        """w_t H_t may fall; H_t itself is looked at before."""
