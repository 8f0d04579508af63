r"""Hedge: exponential weights on the simplex.

Y. Freund and R. E. Schapire 1997; N. Cesa-Bianchi and G. Lugosi, "Prediction, learning, and games", Theorem
2.2 (as recalled). With Phi = -(1/eta) ln sum p_t exp(-eta g_t) per round, the mix losses of Hedge sum to at
most min S + ln N / eta (A); one round's <p, g> - Phi is at most eta / 8 for losses in [0, 1] (Hoeffding's
lemma, C).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ..chain import Check, Link
from ..geometry import Array, Simplex
from ..play import Game, Round, Trace
from ..players import Hedge
from . import START, Bound
from .adagrad import convexity


class MixLoss:
    """Sum of <p_t, g_t> minus the mix loss, for the declared rate."""

    def __init__(self, eta: float) -> None:
        self.eta, self.gap = eta, 0.0

    def see(self, r: Round) -> None:
        """One round."""
        lowest = np.min(r.g)
        mix = lowest - math.log(np.sum(r.x * np.exp(-self.eta * (r.g - lowest)))) / self.eta
        self.gap += float(np.sum(r.x * r.g)) - mix

    def checks(self) -> list[Check]:
        """None."""
        return []


@dataclass(frozen=True, kw_only=True)
class HedgeTuned(Bound):
    """Known horizon."""

    id: ClassVar[str] = "experts.hedge"
    statement: ClassVar[str] = "losses in [0, 1], eta = sqrt(8 ln N / T): R <= sqrt(T ln N / 2)"
    source: ClassVar[str] = "Freund and Schapire 1997, constant as recalled; proof above"
    corollary: ClassVar[bool] = True
    D: ClassVar[str] = START

    def gate(self, game: Game, T: int) -> str:
        """Experts with losses in [0, 1]."""
        if not isinstance(game.domain, Simplex):
            return "the domain is not a simplex"
        return "" if game.G_inf <= 1 else "the losses are not in [0, 1]"

    def _eta(self, game: Game, T: int) -> float:
        return math.sqrt(8 * math.log(game.shape[0]) / T)

    def rule(self, game: Game, T: int) -> Any:
        """The player."""
        return Hedge(self._eta(game, T))

    def observers(self, game: Game, T: int) -> list[Any]:
        """The mix loss at the declared rate."""
        return [MixLoss(self._eta(game, T))]

    def chain(self, trace: Trace, u: Array) -> list[Link]:
        """R <= A <= C."""
        game, T = trace.game, trace.T
        n, eta = game.shape[0], self._eta(game, T)
        A = math.log(n) / eta + trace.observers["MixLoss"].gap
        return [
            *convexity(trace, u),
            Link("A", A, "the weights are exponential in the past losses, at the rate eta"),
            Link("C", math.sqrt(T * math.log(n) / 2), "Hoeffding's lemma, and the tuned rate"),
        ]


BOUNDS: tuple[Bound, ...] = (HedgeTuned(),)
