r"""Regret through a virtual iterate: what error feedback and momentum still owe.

A rule that moves late still moves. With e_t what the step owes after round t - 1 and x~_t = x_t - e_t,

    x~_{t+1} = x~_t - gamma g_t - zeta_t            zeta_t = 0 but for rounding, or the noise of a quantiser

so for any points and any u, exactly,

    sum <g_t, x_t - u>  =  A(u)  =  (|x_1 - u|^2 - |x~_{T+1} - u|^2) / (2 gamma) + sum <g_t, e_t>
                                    + sum |gamma g_t + zeta_t|^2 / (2 gamma) - sum <zeta_t, x~_t - u> / gamma

and what is owed is bounded by the gradients alone: |e_{t+1}| <= q (|e_t| + gamma |g_t|) gives |e_t| <= gamma
G q / (1 - q). Error feedback with ||C(x) - x|| <= q ||x|| is one case; the heavy ball, which owes gamma beta
m, is the case C = (1 - beta) I.

A projection would break the second line, so these bounds speak of play without one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from .bounds import START, Bound
from .bounds.adagrad import convexity
from .chain import Check, Link, Watch
from .geometry import Array, Domain
from .play import Game, Round, Trace

#: What is owed after a round; None if the player does not show it.
Owed = Callable[[Round], Any]


class Virtual:
    """The exact decomposition above, and its conditions.

    Parameters
    ----------
    gamma : float
        The whole step that a gradient is due.
    q : float
        What is owed contracts by this factor.
    owed : function of Round
    comparators : Domain
        The u that rounding is measured against.
    noise : float
        |zeta_t| <= noise (|e_t| + gamma |g_t|); 0 for rules that keep everything.
    part : float
        |e_{t+1}| <= part q / (1 - q) gamma G; 1 but for Nesterov's step.
    """

    def __init__(
        self, gamma: float, q: float, owed: Owed, comparators: Domain, noise: float = 0.0, part: float = 1.0
    ) -> None:
        self.gamma, self.q, self.owed, self.noise, self.part = gamma, q, owed, noise, part
        self.comparators = comparators
        self.e: Any = 0.0
        self.cross: Any = 0
        self.dual: Any = 0
        self.least: Any = 0
        self.drift: Any = 0
        self.fixed: Any = 0
        self.limit: Any = 0
        self.loose: Any = 0
        self.debts: Any = 0
        self.slack: Any = 0
        self.mass: Any = 0
        self.x1: Any = None
        self.end: Any = np.nan
        self.exact = Watch("virtual iterate", "x - e takes the steps of plain gradient descent")
        self.small = Watch("error", "|e| <= q (|e| + gamma |g|): the compressor contracts, nothing is lost")

    def see(self, r: Round) -> None:
        """Enter one round."""
        after = self.owed(r)
        if after is None:
            self.cross = self.dual = self.end = np.nan
            return
        self.x1 = r.x if self.x1 is None else self.x1
        before, n = r.x - self.e, np.size(r.x)
        self.end = r.x_next - after
        step = self.gamma * r.g
        zeta = before - self.end - step
        # p = e + gamma g, x - D and p - D are one rounding an entry each; C's own sums cancel.
        size = np.abs(r.x) + np.abs(r.x_next) + np.abs(self.e) + np.abs(after) + np.abs(step)
        length = np.sqrt(np.sum(r.g * r.g))
        noise = self.noise * (np.sqrt(np.sum(self.e * self.e) * 1.0) + self.gamma * length)
        beyond = np.sqrt(np.sum(zeta * zeta)) - noise - 8 * r.unit * np.sum(size)
        good = self.exact.note(r.t, beyond)
        self.cross = self.cross + np.sum(r.g * self.e)
        if self.noise:
            self.drift, self.fixed = self.drift + zeta, self.fixed + np.sum(zeta * before)
            step = step + zeta
        elif good and r.unit:
            self.slack = self.slack + self.comparators.spread(zeta, before) / self.gamma
        self.dual = self.dual + np.sum(step * step)
        self.debts = self.debts + length * self.limit
        self.limit = self.q * (self.limit + self.gamma * length)
        # C's own sums of n terms round: a factor 1 + n ulp a round, which the recursion carries on.
        self.loose = (self.q + 8 * n * r.unit) * (self.loose + self.gamma * length)
        owed = np.sqrt(np.sum(after * after))
        self.small.note(r.t, owed - self.part * self.loose - 8 * n * r.unit * owed)
        self.mass = self.mass + (np.sum(size) + 1) * (np.sum(np.abs(r.g)) + np.sum(size) / self.gamma)
        self.e = after

    def upper(self, u: Array) -> Any:
        """A(u)."""
        x1 = 0 if self.x1 is None else self.x1
        trip = np.sum((x1 - u) ** 2) - np.sum((self.end - u) ** 2)
        noise = self.fixed - np.sum(self.drift * u)
        return (trip + self.dual - 2 * noise) / (2 * self.gamma) + self.cross

    def checks(self) -> list[Check]:
        """Virtual iterate, error."""
        return [self.exact.check(), self.small.check()]


@dataclass(frozen=True, kw_only=True)
class VirtualBound(Bound):
    """Any rate, without projection; ``eta`` None is the rate that balances the two terms of C."""

    D: ClassVar[str] = START
    eta: float | None = None

    def contraction(self, game: Game) -> float:
        """The factor q."""
        raise NotImplementedError

    def part(self, game: Game) -> float:
        """See :class:`Virtual`."""
        return 1.0

    def noise(self, game: Game) -> float:
        """See :class:`Virtual`."""
        return 0.0

    def owed(self, game: Game, T: int) -> Owed:
        """What the player owes after a round."""
        raise NotImplementedError

    def drag(self, game: Game) -> float:
        """The part of gamma G that is owed at most."""
        q = self.contraction(game)
        return self.part(game) * q / (1 - q)

    def cost(self, game: Game) -> float:
        """K of C = D^2 / (2 gamma) + K gamma G^2 T."""
        return 0.5 + self.drag(game)

    def gamma(self, game: Game, T: int) -> float:
        """D / (G sqrt(2 K T)), or as given."""
        if self.eta is not None:
            return self.eta
        return game.comparators.radius(game.x1) / (game.G * math.sqrt(2 * self.cost(game) * T))

    def gate(self, game: Game, T: int) -> str:
        """No projection, and G."""
        if game.domain.bounded:
            return "a projection breaks the virtual iterate: play everywhere"
        if math.isinf(game.G):
            return "G is not declared"
        return "" if self.contraction(game) < 1 else "nothing contracts: q = 1"

    def observers(self, game: Game, T: int) -> list[Any]:
        """The decomposition."""
        gamma, q, noise = self.gamma(game, T), self.contraction(game), self.noise(game)
        return [Virtual(gamma, q, self.owed(game, T), game.comparators, noise, self.part(game))]

    def chain(self, trace: Trace, u: Array) -> list[Link]:
        """R <= R_lin <= A <= B <= debts <= C."""
        game, seen = trace.game, trace.observers["Virtual"]
        gamma, start = self.gamma(game, trace.T), np.sum((game.x1 - u) ** 2)
        links = [*convexity(trace, u), Link("A", seen.upper(u), "an identity")]
        if not self.noise(game):
            B = (start + seen.dual) / (2 * gamma)
            debts = B + self.part(game) * seen.debts
            links.append(Link("B", B + seen.cross, "drop |x~_{T+1} - u|^2"))
            links.append(Link("debts", debts, "Cauchy and Schwarz, |e_{t+1}| <= q (|e_t| + gamma |g_t|)"))
        return [*links, Link("C", self.closed(trace, start, gamma), self.last)]

    last: ClassVar[str] = "|g_t| <= G, |e| <= q gamma G / (1 - q)"

    def closed(self, trace: Trace, start: Any, gamma: float) -> Any:
        """|x_1 - u|^2 / (2 gamma) + K gamma G^2 T; of the tuned rate D G sqrt(2 K T)."""
        game, T, K = trace.game, trace.T, self.cost(trace.game)
        if self.corollary:
            return game.comparators.radius(game.x1) * game.G * math.sqrt(2 * K * T)
        return start / (2 * gamma) + K * gamma * game.G**2 * T
