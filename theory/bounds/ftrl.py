r"""FTRL-Proximal: follow the regularised leader, with centres at the iterates.

H. B. McMahan and M. Streeter, "Adaptive bound optimization for online convex optimization", COLT 2010; H. B.
McMahan, "A survey of algorithms and analysis for adaptive online learning", arXiv:1403.3465 (both as
recalled).

A = psi_T(u) - Phi_T + sum <g_t, x_t>; A <= B = psi_T(u) + 1/2 sum |g_t|^2 in the dual norm of H_t, since the
leader's objective of round t with g_t taken out is still minimised at x_t and is strongly convex in H_t; B <=
C as |x_t - u| <= D and by the sum lemma.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ...rules.ftrl import FTRLProximal
from ..chain import Check, Link, SecondMoment
from ..geometry import Array
from ..leaders import LeaderLedger
from ..play import Game, Trace
from . import Bound
from .adagrad import SUM_LEMMA, convexity

MCMAHAN = "McMahan and Streeter 2010, with the factor 1/2 of McMahan's survey (as recalled); proof above"


@dataclass(frozen=True, kw_only=True)
class Proximal(Bound):
    """Every rate, one diameter a coordinate."""

    id: ClassVar[str] = "ftrl.proximal.eta"
    statement: ClassVar[str] = "R <= sum_i (D_i^2 / (2 alpha) + alpha) sqrt(sum_t g_{t,i}^2), any alpha"
    source: ClassVar[str] = MCMAHAN
    norm: ClassVar[str] = "linf"
    alpha: float | None = None

    def _alpha(self, game: Game) -> float:
        return game.domain.diameter("linf") / math.sqrt(2) if self.alpha is None else self.alpha

    def gate(self, game: Game, T: int) -> str:
        """The rule forgets a starting point other than 0."""
        if not game.domain.bounded:
            return "the domain has no diameter"
        return "x_1 is not 0" if np.any(game.x1) else ""

    def rule(self, game: Game, T: int) -> Any:
        """FTRLProximal without penalties."""
        return FTRLProximal(learning_rate=self._alpha(game), beta=0.0)

    def observers(self, game: Game, T: int) -> list[Any]:
        """The leader's ledger, and gamma <= n."""
        return [LeaderLedger("iterate", game.x1), SecondMoment("n", root=False)]

    def chain(self, trace: Trace, u: Array) -> list[Link]:
        """R_lin <= A <= B <= B_D <= C."""
        ledger = trace.observers["LeaderLedger"]
        b = ledger.psi(u) + ledger.dual
        D = trace.game.domain.widths()
        return [
            *convexity(trace, u),
            Link("A", ledger.upper(u), "x_{T+1} minimises the leader's objective"),
            Link("B", b, "stability in the norm of H_t"),
            Link("B_D", np.sum(ledger.h * D**2) / 2 + ledger.dual, "|x_t - u| <= D"),
            Link("C", np.sum(self.terms(trace.game, trace.gamma)), SUM_LEMMA),
        ]

    def terms(self, game: Game, gamma: Array) -> Array:
        """C, coordinate by coordinate."""
        alpha, D = self._alpha(game), game.domain.widths()
        return (D**2 / (2 * alpha) + alpha) * np.sqrt(gamma)

    def separately(self, game: Game, gamma: Array, T: int) -> Array:
        """A sum over coordinates."""
        return self.terms(game, gamma)


@dataclass(frozen=True, kw_only=True)
class ProximalTuned(Proximal):
    """Its best rate."""

    id: ClassVar[str] = "ftrl.proximal"
    statement: ClassVar[str] = "alpha = D / sqrt 2: R <= sqrt(2) D sum_i sqrt(sum_t g_{t,i}^2)"
    errata: ClassVar[str] = "first published with 2 for sqrt(2)"
    corollary: ClassVar[bool] = True

    def terms(self, game: Game, gamma: Array) -> Array:
        """C, coordinate by coordinate."""
        return game.domain.diameter("linf") * np.sqrt(2 * gamma)


@dataclass(frozen=True, kw_only=True)
class CompetitiveRatio(ProximalTuned):
    """The tuned bound against the best fixed diagonal matrix in hindsight: exactly sqrt(2), on any gradients.

    A fixed q_i >= 0 has the bound sum_i D_i^2 q_i / 2 + S_i / (2 q_i), least at q_i = sqrt(S_i) / D_i. The
    minimum is found by a search over a grid of factors, which can only miss it from above.
    """

    id: ClassVar[str] = "ftrl.ratio"
    statement: ClassVar[str] = (
        "bound of the algorithm = sqrt(2) min over diagonal Q of the bound with Q fixed"
    )
    source: ClassVar[str] = "McMahan and Streeter 2010 (as recalled); proof in the docstring"
    kind: ClassVar[str] = "formula"

    def chain(self, trace: Trace, u: Array) -> list[Link]:
        """The algorithm's bound, and sqrt(2) times the best fixed one."""
        D, S = trace.game.domain.widths(), trace.gamma
        tuned = math.sqrt(2) * np.sum(D * np.sqrt(S))
        q = np.sqrt(S) / D * np.geomspace(0.5, 2.0, 201).reshape(-1, *(1,) * S.ndim)
        held = S > 0
        q = np.where(held, q, 1.0)
        fixed = np.sum(np.min(np.where(held, D**2 * q / 2 + S / (2 * q), 0.0), axis=0))
        return [
            Link("tuned", tuned, ""),
            Link("C", math.sqrt(2) * fixed, "the best fixed diagonal"),
        ]

    def separately(self, game: Game, gamma: Array, T: int) -> None:
        """It bounds no regret."""

    def checks(self, trace: Trace) -> list[Check]:
        """A statement about formulas."""
        return []


BOUNDS: tuple[Bound, ...] = (Proximal(), ProximalTuned(), CompetitiveRatio())
