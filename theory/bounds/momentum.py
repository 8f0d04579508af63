r"""Gradient descent with momentum, through its virtual iterate.

B. T. Polyak, "Some methods of speeding up the convergence of iteration methods", 1964; E. Ghadimi, H. R.
Feyzmahdavian and M. Johansson, "Global convergence of the heavy-ball method for convex optimization", ECC
2015 (the virtual iterate, as recalled; the proof is in :mod:`..virtual`).

With m <- beta m + g and w <- w - eta m every gradient moves w by gamma = eta / (1 - beta) in the end. What is
still owed is e = gamma beta m for the heavy ball and gamma beta^2 m for Nesterov's step. Momentum cannot help
against an adversary: the bound is sqrt((1 + beta) / (1 - beta)) times that of gradient descent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ...rules.sgd import SGD
from ..play import Game, Round
from ..virtual import Owed, VirtualBound
from . import Bound


@dataclass(frozen=True, kw_only=True)
class HeavyBall(VirtualBound):
    """Any rate; R = A is an identity."""

    id: ClassVar[str] = "momentum.eta"
    statement: ClassVar[str] = (
        "no projection, gamma = eta / (1 - b): R(u) <= |x_1 - u|^2 / (2 gamma) "
        "+ gamma G^2 T (1/2 + b / (1 - b))"
    )
    source: ClassVar[str] = "proof in memopt_ref.theory.virtual"
    last: ClassVar[str] = "|g_t| <= G, |m| <= G / (1 - b)"
    eta: float | None = 0.05
    beta: float = 0.9
    nesterov: ClassVar[bool] = False

    def contraction(self, game: Game) -> float:
        """The momentum."""
        return self.beta

    def part(self, game: Game) -> float:
        """Nesterov's step pays one part more at once."""
        return self.beta if self.nesterov else 1.0

    def rule(self, game: Game, T: int) -> Any:
        """SGD with momentum."""
        eta = (1 - self.beta) * self.gamma(game, T)
        return SGD(learning_rate=eta, momentum=self.beta, nesterov=self.nesterov)

    def owed(self, game: Game, T: int) -> Owed:
        """gamma beta m, or gamma beta^2 m."""
        factor = self.gamma(game, T) * self.beta * self.part(game)

        def owed(r: Round) -> Any:
            return factor * np.asarray(r.values["m"]).astype(r.x.dtype) if "m" in r.values else None

        return owed


@dataclass(frozen=True, kw_only=True)
class HeavyBallTuned(HeavyBall):
    """The rate that balances the two terms."""

    id: ClassVar[str] = "momentum.tuned"
    statement: ClassVar[str] = (
        "no projection, gamma = D / (G sqrt(T (1 + b) / (1 - b))): R <= D G sqrt(T (1 + b) / (1 - b))"
    )
    corollary: ClassVar[bool] = True
    eta: float | None = None


@dataclass(frozen=True, kw_only=True)
class NesterovTuned(HeavyBallTuned):
    """Nesterov's step owes less by the factor beta."""

    id: ClassVar[str] = "momentum.nesterov"
    statement: ClassVar[str] = "Nesterov's step, tuned: R <= D G sqrt(T (1 - b + 2 b^2) / (1 - b))"
    nesterov: ClassVar[bool] = True


BOUNDS: tuple[Bound, ...] = (HeavyBall(), HeavyBallTuned(), NesterovTuned())
