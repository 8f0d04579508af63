r"""From regret to risk: the mean of the iterates on independent losses, exactly.

N. Cesa-Bianchi, A. Conconi and C. Gentile, "On the generalization ability of on-line learning algorithms",
IEEE Trans. Information Theory 50, 2004 (constants as recalled).

x_t depends on z_1, ..., z_{t-1} only, so E f(z_t, x_t) = E F(x_t), and F(mean of x_t) <= mean of F(x_t) for a
convex F. The expectation is taken over all 2^T sequences of outcomes, each a coordinate of the tensor that is
played (:func:`..problems.all_sequences`); for linear losses both sides are equal.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ...rules.sgd import SGD
from ..chain import Check, Link
from ..geometry import Array
from ..play import Game, Round, Trace
from ..problems import Samples
from . import DIAMETER, Bound


class Averages:
    """Sums over the rounds, for every sequence: of x_t, of f_t(x_t), and of f_t(x_{t+1})."""

    def __init__(self, samples: Samples) -> None:
        self.samples = samples
        self.x: Any = 0.0
        self.x_after: Any = 0.0
        self.paid: Any = 0.0
        self.paid_after: Any = 0.0
        self.least: Any = 0.0
        self.last: Any = 0.0

    def see(self, r: Round) -> None:
        """One round."""
        z, f = self.samples.outcomes[r.t - 1], self.samples.loss
        self.x, self.x_after, self.last = self.x + r.x, self.x_after + r.x_next, r.x
        self.paid, self.paid_after = self.paid + f(z, r.x), self.paid_after + f(z, r.x_next)
        self.least = self.least + f(z, np.full(r.x.shape, self.samples.best))

    def checks(self) -> list[Check]:
        """None."""
        return []


@dataclass(frozen=True, kw_only=True)
class InMean(Bound):
    """Any player, any convex losses; the last link adds the regret bound of tuned gradient descent."""

    id: ClassVar[str] = "online_to_batch.mean"
    statement: ClassVar[str] = (
        "independent convex losses: E F(mean x_t) - F(u) <= E R(u) / T for every fixed u"
    )
    source: ClassVar[str] = "Cesa-Bianchi, Conconi and Gentile 2004 (as recalled); proof above"
    kind: ClassVar[str] = "formula"
    D: ClassVar[str] = DIAMETER

    def gate(self, game: Game, T: int) -> str:
        """All sequences of T outcomes."""
        if not isinstance(game, Samples):
            return "the game is not made of independent losses"
        return "" if game.rounds == T else f"the sequences have {game.rounds} rounds"

    def rule(self, game: Game, T: int) -> Any:
        """Gradient descent on [-1, 1] from 0, for every sequence."""
        return SGD(learning_rate=1 / (game.G_inf * math.sqrt(T)))

    def observers(self, game: Game, T: int) -> list[Any]:
        """Sums for every sequence."""
        assert isinstance(game, Samples)
        return [Averages(game)]

    def chain(self, trace: Trace, u: Array) -> list[Link]:
        """Risk of the mean <= mean regret <= the rate."""
        game, seen = trace.game, trace.observers["Averages"]
        assert isinstance(game, Samples)
        T, p = trace.T, game.weights
        risk = np.sum(p * game.risk(seen.x / T)) - game.risk(game.best)
        regret = np.sum(p * (seen.paid - seen.least)) / T
        return [
            Link("excess risk", risk, ""),
            Link("C", regret, "x_t does not know z_t; F is convex"),
            Link("rate", game.G_inf / math.sqrt(T), "R <= G sqrt T on [-1, 1] from 0"),
        ]

    def slack(self, trace: Trace) -> Any:
        """Means of 2^T numbers of size at most 2, and of T rounds."""
        return 16 * (trace.T + np.size(trace.game.x1)) * max(trace.unit, 2.0**-53)


@dataclass(frozen=True, kw_only=True)
class Ahead(InMean):
    """Scoring x_{t+1} on f_t lets the player look: the regret says nothing then."""

    id: ClassVar[str] = "online_to_batch.ahead"
    statement: ClassVar[str] = "FALSE: the same with the regret of x_{t+1} on f_t, and the mean of x_2, ..."
    source: ClassVar[str] = "a common slip: the loss is read after the step"
    errata: ClassVar[str] = "x_{t+1} knows z_t"
    known_false: ClassVar[bool] = True

    def chain(self, trace: Trace, u: Array) -> list[Link]:
        """Both sides, one round ahead."""
        game, seen = trace.game, trace.observers["Averages"]
        assert isinstance(game, Samples)
        T, p = trace.T, game.weights
        risk = np.sum(p * game.risk(seen.x_after / T)) - game.risk(game.best)
        regret = np.sum(p * (seen.paid_after - seen.least)) / T
        return [Link("excess risk", risk, ""), Link("C", regret, "x_{t+1} is taken not to know z_t")]


@dataclass(frozen=True, kw_only=True)
class LastIterate(InMean):
    """With a drift the last iterate does better than the mean; without one it is worse."""

    id: ClassVar[str] = "online_to_batch.last"
    statement: ClassVar[str] = "FALSE: E F(x_T) - F(u) <= E R(u) / T, the last iterate in place of the mean"
    source: ClassVar[str] = "a common slip; refuted here by enumeration"
    errata: ClassVar[str] = "true on average over t of E F(x_t), not of the last one"
    known_false: ClassVar[bool] = True

    def chain(self, trace: Trace, u: Array) -> list[Link]:
        """Risk of x_T against the regret."""
        game = trace.game
        assert isinstance(game, Samples)
        links = super().chain(trace, u)
        last = trace.observers["Averages"].last
        risk = np.sum(game.weights * game.risk(last)) - game.risk(game.best)
        return [Link("excess risk of x_T", risk, ""), *links[1:2]]


@dataclass(frozen=True, kw_only=True)
class Tail(InMean):
    """The probability is exact, so nothing is sampled."""

    id: ClassVar[str] = "online_to_batch.tail"
    statement: ClassVar[str] = (
        "losses in an interval of length M: P(F(mean x_t) > mean f_t(x_t) + M sqrt(ln(1 / delta) / (2 T))) "
        "<= delta"
    )
    source: ClassVar[str] = "Hoeffding and Azuma"
    errata: ClassVar[str] = "the published radius, M sqrt(2 ln(1 / delta) / T) as recalled, is twice as long"
    delta: float = 0.2

    def chain(self, trace: Trace, u: Array) -> list[Link]:
        """The weight of the sequences that are beyond."""
        game, seen, T = trace.game, trace.observers["Averages"], trace.T
        assert isinstance(game, Samples)
        radius = game.span * math.sqrt(math.log(1 / self.delta) / (2 * T))
        beyond = game.risk(seen.x / T) > seen.paid / T + radius
        return [
            Link("probability", float(np.sum(game.weights[beyond])), ""),
            Link("C", self.delta, "martingale differences in an interval of length M"),
        ]


BOUNDS: tuple[Bound, ...] = (InMean(), Ahead(), LastIterate(), Tail())
