r"""AMSGrad, and what is claimed for Adam.

S. Reddi, S. Kale and S. Kumar, "On the convergence of Adam and beyond", ICLR 2018, Algorithm 2 and Theorem 4;
T. P. Tran and L. T. Phong, arXiv:1904.03590 (the gap in its proof); A. Alacaoglu, Y. Malitsky, P.
Mertikopoulos and V. Cevher, ICML 2020 (the same idea as below, as recalled); D. P. Kingma and J. Ba, ICLR
2015, Theorem 4.1 (false).

Constant beta. g_t = (m_t - b m_{t-1}) / (1 - b), so that for every u

    sum <g_t, x_t - u> = sum <m_t, x_t - u> + b/(1-b) [<m_T, x_T - u> + sum_{t<T} <m_t, x_t - x_{t+1}>]

The first sum is decomposed in H_t = sqrt(v_hat_t) / alpha_t, which does not decrease; the bracket is at most
b/(1-b) [1/2 |x_T - u|^2_{H_T} + 1/2 |m_T|^2 + sum_{t<T} |m_t|^2] in dual norms, as a projection shortens
steps. Together (B):

    D^2 / (2 (1-b)) tr H_T + (1+b) / (2 (1-b)) sum_{t<T} |m_t|^2 + 1 / (2 (1-b)) |m_T|^2

and by Cauchy and Schwarz m_t^2 / sqrt(v_t) <= (1-b)^2 / sqrt((1-b2)(1 - b^2/b2)) sum_j b^(t-j) |g_j|, which
gives C. Every moment in C is computed here from the gradients.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ...rules.adam import Adam
from ...rules.amsgrad import AMSGrad
from ...rules.sgd import SGD
from ...schedules import Exponential, InverseSqrt
from ..chain import Check, Link
from ..geometry import Array
from ..ledger import Ledger
from ..moments import Moments, Momentum, ScheduledLedger
from ..play import Game, Trace
from . import START, Bound, MirrorBound
from .adagrad import convexity, root_sum


@dataclass(frozen=True, kw_only=True)
class ConstantBeta(MirrorBound):
    """What people run: beta1 constant, alpha_t = alpha / sqrt(t), no bias correction, eps = 0."""

    id: ClassVar[str] = "amsgrad.constant"
    statement: ClassVar[str] = (
        "beta1^2 < beta2: R <= D^2 sqrt(T) / (2 alpha (1 - b)) sum_i sqrt(v_hat_T) + (1 + b)/2 "
        "alpha sqrt(1 + ln T) / sqrt((1 - b^2/b2)(1 - b2)) sum_i |g_{1:T,i}|"
    )
    source: ClassVar[str] = "proof in this file's docstring"
    errata: ClassVar[str] = "Theorem 4 itself is vacuous for constant beta1: its middle term grows like T^1.5"
    norm: ClassVar[str] = "linf"
    alpha: float = 1.0
    beta1: float = 0.9
    beta2: float = 0.99

    def gate(self, game: Game, T: int) -> str:
        """The condition on the declared betas."""
        if not self.beta1**2 < self.beta2:
            return "beta1^2 is not below beta2"
        return super().gate(game, T)

    def rule(self, game: Game, T: int) -> Any:
        """AMSGrad in the paper's form."""
        return AMSGrad(learning_rate=InverseSqrt(self.alpha), beta1=self.beta1, beta2=self.beta2)

    def observers(self, game: Game, T: int) -> list[Any]:
        """The ledger along m, the momentum's own sum, and v_hat from the gradients."""
        return [
            Ledger(game.domain, game.comparators, direction="m_hat"),
            Momentum(self.beta1),
            Moments(self.alpha, self.beta1, self.beta2),
        ]

    def chain(self, trace: Trace, u: Array) -> list[Link]:
        """R <= R_lin <= A <= B <= C."""
        ledger, b = trace.observers["Ledger"], self.beta1
        D = trace.game.domain.widths()
        links = self.head(trace, u)
        links[-1] = Link("A", ledger.upper(u) + trace.observers["Momentum"](u), links[-1].lemma)
        before = ledger.dual - ledger.last_dual
        B = (ledger.potential(D, "linf") + (1 + b) * before + ledger.last_dual) / (1 - b)
        return [
            *links,
            Link("B", B, "H_t does not decrease, |x_t - u| <= D, a projection shortens steps, and Young"),
            Link("C", self.closed(trace, D), "m^2 / sqrt(v) by Cauchy and Schwarz, v <= v_hat"),
        ]

    def closed(self, trace: Trace, D: Array) -> Any:
        """C."""
        b, b2, T = self.beta1, self.beta2, trace.T
        v_hat = trace.observers["Moments"].v_hat
        first = math.sqrt(T) / (2 * self.alpha * (1 - b)) * np.sum(D**2 * np.sqrt(v_hat))
        scale = (1 + b) / 2 * self.alpha / math.sqrt((1 - b * b / b2) * (1 - b2))
        return first + scale * math.sqrt(1 + math.log(T)) * root_sum(trace.gamma)

    def checks(self, trace: Trace) -> list[Check]:
        """Momentum's sum equals the residual."""
        u = trace.hindsight().u
        residual, exact = trace.observers["Ledger"].residual(u), trace.observers["Momentum"](u)
        off = abs(float(residual - exact))
        lemma = "g_t = (m_t - b m_{t-1}) / (1 - b)"
        step = trace.T if off > self.slack(trace) else None
        return [*super().checks(trace), Check("momentum", off, step, lemma)]


@dataclass(frozen=True, kw_only=True)
class Scheduled(Bound):
    """beta1_t = beta1 lambda^(t-1) (or any schedule below beta1): Theorem 4's corrected form.

    With w_t = 1 / (1 - beta1_t), g_t = w_t m_t - w_t beta1_t m_{t-1}: the first part is decomposed in w_t
    H_t, which need not grow, the second is Young's (A <= B). Abel's summation leaves the *positive*
    variation of w_t H_t, which is at most H_T plus sum beta1_t H_t / (1 - beta1) (B <= B_T).
    """

    id: ClassVar[str] = "amsgrad.scheduled"
    statement: ClassVar[str] = (
        "R <= D^2 sqrt(T) / (2 alpha) sum sqrt(v_hat_T) + D^2 / (1 - b) sum_t sum_i b_t sqrt(v_hat_t) "
        "/ alpha_t "
        "+ alpha sqrt(1 + ln T) / ((1 - b)^2 (1 - b / sqrt b2) sqrt(1 - b2)) sum_i |g_{1:T,i}|"
    )
    source: ClassVar[str] = "Reddi, Kale and Kumar 2018, Theorem 4, re-derived without monotone weights"
    errata: ClassVar[str] = (
        "the published proof takes w_t sqrt(v_hat_t) / alpha_t for monotone: see amsgrad.abel"
    )
    norm: ClassVar[str] = "linf"
    alpha: float = 1.0
    beta1: float = 0.9
    beta2: float = 0.99
    decay: float = 0.99

    def gate(self, game: Game, T: int) -> str:
        """A diameter, and beta1 < sqrt(beta2)."""
        if not game.domain.bounded:
            return "the domain has no diameter"
        return "" if self.beta1 < math.sqrt(self.beta2) else "beta1 is not below sqrt(beta2)"

    def rule(self, game: Game, T: int) -> Any:
        """AMSGrad with both schedules."""
        beta1: Any = Exponential(self.beta1, self.decay) if self.beta1 else 0.0
        return AMSGrad(learning_rate=InverseSqrt(self.alpha), beta1=beta1, beta2=self.beta2)

    def observers(self, game: Game, T: int) -> list[Any]:
        """The ledger weighted by w_t, and v_hat from the gradients."""
        ledger = ScheduledLedger(game.domain, game.comparators, self.beta1, self.decay)
        return [ledger, Moments(self.alpha, self.beta1, self.beta2, self.decay)]

    def chain(self, trace: Trace, u: Array) -> list[Link]:
        """R_lin <= A <= B <= B_T <= C."""
        ledger, D2 = trace.observers["ScheduledLedger"], trace.game.domain.widths() ** 2
        spent, shares = ledger.dual + ledger.spent, ledger.shares / (1 - self.beta1)
        B = np.sum(D2 * (ledger.rises + ledger.pulled)) / 2 + spent
        B_T = np.sum(D2 * (ledger.h / 2 + shares)) + spent
        return [
            *convexity(trace, u),
            Link("A", ledger.upper(u) + ledger.cross(u), "x_{t+1} is the projection in the norm of H_t"),
            Link("B", B, "|x_t - u| <= D where w_t H_t rises, and Young"),
            Link("B_T", B_T, "H_t does not decrease: w_t H_t rises by H_T + sum b_t H_t / (1 - b) at most"),
            Link("C", self.closed(trace), "m^2 / sqrt(v) by Cauchy and Schwarz, v <= v_hat"),
        ]

    def checks(self, trace: Trace) -> list[Check]:
        """What the momentum owes equals the residual."""
        u, ledger = trace.hindsight().u, trace.observers["ScheduledLedger"]
        off = abs(float(ledger.residual(u) - ledger.cross(u)))
        step = trace.T if off > self.slack(trace) else None
        lemma = "g_t = w_t (m_t - b_t m_{t-1})"
        return [*super().checks(trace), Check("momentum", off, step, lemma)]

    def slack(self, trace: Trace) -> Any:
        """As of mirror descent, in w_t H_t."""
        ledger = trace.observers["ScheduledLedger"]
        if ledger.last is None:
            return super().slack(trace)
        size = np.sum(ledger.rises + ledger.pulled) * trace.game.comparators.diameter("l2") ** 2
        return super().slack(trace) + 4 * (trace.T + 8) * trace.unit * (size + 2 * abs(ledger.dual))

    def coefficients(self) -> tuple[float, float]:
        """Of the first two terms, without D^2."""
        return 1 / (2 * self.alpha), 1 / (1 - self.beta1)

    def closed(self, trace: Trace) -> Any:
        """C."""
        moments, T, b, b2 = trace.observers["Moments"], trace.T, self.beta1, self.beta2
        D2 = trace.game.domain.widths() ** 2
        first, second = self.coefficients()
        third = self.alpha * math.sqrt(1 + math.log(T))
        third /= (1 - b) ** 2 * (1 - b / math.sqrt(b2)) * math.sqrt(1 - b2)
        C = first * math.sqrt(T) * np.sum(D2 * np.sqrt(moments.v_hat)) + second * np.sum(
            D2 * moments.weighted
        )
        return C + third * root_sum(trace.gamma)


@dataclass(frozen=True, kw_only=True)
class Theorem4(Scheduled):
    """The revised published form."""

    id: ClassVar[str] = "amsgrad.thm4"
    statement: ClassVar[str] = (
        "Theorem 4, revised: first term D^2 sqrt(T) / (alpha (1 - b)), second D^2 / (1 - b)^2"
    )
    source: ClassVar[str] = (
        "Reddi, Kale and Kumar, arXiv:1904.09237, Theorem 4 (as recorded in a formalisation)"
    )
    errata: ClassVar[str] = "weaker than amsgrad.scheduled in both terms; vacuous for constant beta1"

    def coefficients(self) -> tuple[float, float]:
        """As revised."""
        return 1 / (self.alpha * (1 - self.beta1)), 1 / (1 - self.beta1) ** 2


@dataclass(frozen=True, kw_only=True)
class Theorem4WithoutAlpha(Scheduled):
    """A printed form without 1/alpha in the first term: false."""

    id: ClassVar[str] = "amsgrad.thm4.noalpha"
    statement: ClassVar[str] = "FALSE: Theorem 4 with first term D^2 sqrt(T) / (1 - b) sum sqrt(v_hat_T)"
    source: ClassVar[str] = (
        "a stored text of the paper; whether the slip is the authors' or the transcription's is unknown"
    )
    errata: ClassVar[str] = "a constant gradient and a small alpha break it by any factor"
    known_false: ClassVar[bool] = True
    beta1: float = 0.0
    beta2: float = 0.9
    alpha: float = 0.01

    def coefficients(self) -> tuple[float, float]:
        """As printed there."""
        return 1 / (1 - self.beta1), 1 / (2 * (1 - self.beta1))


def abel(T: int = 16) -> tuple[float, float, float]:
    """Both sides of the proof's Abel step on a scalar sequence: left, right as printed, right as corrected.

    a_t = t, beta = 1/2, beta_t = 1/2 at t = 1 and at even t, else 0, and squared distances 1 at even t, else
    0.

    Examples
    --------
    >>> abel()
    (71.5, 68.5, 81.0)
    """
    beta = 0.5
    rates = [beta if t == 1 or t % 2 == 0 else 0.0 for t in range(1, T + 1)]
    left, before = 0.0, 0.0
    for t, rate in enumerate(rates, 1):
        weighted = t / (1 - rate)
        distance = 1.0 if t % 2 == 0 else 0.0
        left += (weighted - before + rate / (1 - rate) * (t - 1)) * distance / 2
        before = weighted
    spent = sum(rate * t for t, rate in enumerate(rates, 1)) / (1 - beta)
    return left, T / (1 - beta) + spent / 2, T / 2 + spent


@dataclass(frozen=True, kw_only=True)
class AbelStep(Bound):
    """The step of the published proof that needs monotone weights: false as a statement about sequences."""

    id: ClassVar[str] = "amsgrad.abel"
    statement: ClassVar[str] = (
        "FALSE: sum (c_t - c_{t-1}) d_t^2 <= D^2 sum (c_t - c_{t-1}) for c_t that may fall"
    )
    source: ClassVar[str] = "the gap found by Tran and Phong, arXiv:1904.03590"
    errata: ClassVar[str] = "71.5 > 68.5 on 16 terms; with the positive variation: 81"
    known_false: ClassVar[bool] = True
    kind: ClassVar[str] = "formula"
    D: ClassVar[str] = START

    def rule(self, game: Game, T: int) -> Any:
        """No rule enters; something has to be played."""
        return SGD()

    def chain(self, trace: Trace, u: Array) -> list[Link]:
        """Left and right side."""
        left, printed, _ = abel(trace.T)
        return [
            Link("left", left, ""),
            Link("C", printed, "Abel's summation with weights taken for monotone"),
        ]


@dataclass(frozen=True, kw_only=True)
class KingmaBa(Bound):
    """Adam's own theorem: false, refuted by reddi3."""

    id: ClassVar[str] = "adam.thm41"
    statement: ClassVar[str] = (
        "FALSE: R <= D^2 / (2 alpha (1 - b)) sum sqrt(T v_T) + alpha (1 + b) G / ((1 - b) sqrt(1 - b2) "
        "(1 - b^2/sqrt b2)^2) "
        "sum_i |g_{1:T,i}| + sum_i D^2 G sqrt(1 - b2) / (2 alpha (1 - b) (1 - lambda)^2)"
    )
    source: ClassVar[str] = "Kingma and Ba 2015, Theorem 4.1"
    errata: ClassVar[str] = "refuted by Reddi, Kale and Kumar 2018, Theorem 1"
    norm: ClassVar[str] = "linf"
    known_false: ClassVar[bool] = True
    kind: ClassVar[str] = "known-false"
    alpha: float = 0.5
    beta1: float = 0.0
    beta2: float = 0.1
    decay: float = 0.5

    def rule(self, game: Game, T: int) -> Any:
        """Adam with eps = 0."""
        beta1: Any = Exponential(self.beta1, self.decay) if self.beta1 else 0.0
        return Adam(learning_rate=InverseSqrt(self.alpha), beta1=beta1, beta2=self.beta2, eps=0.0)

    def observers(self, game: Game, T: int) -> list[Any]:
        """v from the gradients."""
        return [Moments(self.alpha, self.beta1, self.beta2)]

    def chain(self, trace: Trace, u: Array) -> list[Link]:
        """Endpoints."""
        game, a, b, b2, T = trace.game, self.alpha, self.beta1, self.beta2, trace.T
        D2, G = game.domain.widths() ** 2, game.G_inf
        v = trace.observers["Moments"].v / (1 - b2**T)
        C = np.sum(D2 * np.sqrt(T * v)) / (2 * a * (1 - b))
        scale = a * (1 + b) * G / ((1 - b) * math.sqrt(1 - b2) * (1 - b * b / math.sqrt(b2)) ** 2)
        C = C + scale * root_sum(trace.gamma)
        C = C + np.sum(D2) * G * math.sqrt(1 - b2) / (2 * a * (1 - b) * (1 - self.decay) ** 2)
        return [*convexity(trace, u), Link("C", C, "the theorem")]


BOUNDS: tuple[Bound, ...] = (
    ConstantBeta(),
    Scheduled(),
    Theorem4(),
    Theorem4WithoutAlpha(),
    AbelStep(),
    KingmaBa(),
)
