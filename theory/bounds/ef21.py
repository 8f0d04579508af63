r"""EF21 on a smooth function: small gradients in the mean, and a Lyapunov function under strong convexity.

P. Richtarik, I. Sokolov and I. Fatkhullin, "EF21: a new, simpler, theoretically better, and practically
faster error feedback", NeurIPS 2021, Theorems 1 and 2 (step sizes as in the authors' code, constants as
recalled and checked here).

With alpha = 1 - ||C(x) - x||^2 / ||x||^2, theta = 1 - sqrt(1 - alpha), beta = (1 - alpha) / theta, and G_t =
|d_t - grad f(x_t)|^2,

    G_{t+1} <= (1 - theta) G_t + beta L^2 |x_{t+1} - x_t|^2

(Young's inequality with the best weight), and the descent lemma for the step along d closes the recursion.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ...parts.compressors import Compressor, TopK
from ...rules.error_feedback import EF21
from ..chain import Check, Link, Watch
from ..geometry import Array
from ..play import Game, Round, Trace
from ..problems import Problem
from . import START, Bound


@dataclass(frozen=True)
class Constants:
    """Alpha, theta and beta of a compressor.

    Examples
    --------
    >>> found = Constants(0.75)
    >>> found.theta, found.beta, found.root
    (0.5, 0.5, 1.0)
    """

    alpha: float

    @property
    def theta(self) -> float:
        """1 - sqrt(1 - alpha)."""
        return 1 - math.sqrt(1 - self.alpha)

    @property
    def beta(self) -> float:
        """(1 - alpha) / theta."""
        return (1 - self.alpha) / self.theta

    @property
    def root(self) -> float:
        """sqrt(beta / theta) = (1 + sqrt(1 - alpha)) / alpha - 1."""
        return math.sqrt(self.beta / self.theta)


class Lyapunov:
    """Psi_t = f - f* + (gamma / theta) G_t round by round, the squared slopes, and G's own recursion."""

    def __init__(self, problem: Problem, gamma: float, of: Constants, rate: float) -> None:
        self.problem, self.gamma, self.of, self.rate = problem, gamma, of, rate
        self.slopes, self.first, self.psi = 0.0, math.nan, math.nan
        self.start: float = math.nan
        self.last: Any = None
        self.falls = Watch("Lyapunov", "Psi_{t+1} <= (1 - gamma mu) Psi_t: the descent lemma along d")
        self.follows = Watch("recursion", "G_{t+1} <= (1 - theta) G_t + beta L^2 |x_{t+1} - x_t|^2")

    def see(self, r: Round) -> None:
        """One round; d is compared with the gradient that it has just been corrected by."""
        slope = self.problem.slope(r.x)
        self.slopes += float(np.sum(slope**2))
        if "d" not in r.values:
            return
        gap = float(np.sum((np.asarray(r.values["d"]).astype(r.x.dtype) - slope) ** 2))
        psi = float(self.problem.value(r.x)) - self.problem.least + self.gamma / self.of.theta * gap
        # Squares of differences of numbers that were rounded to u.
        noise = 64 * np.size(r.x) * r.unit * (psi + float(np.sum(slope**2)))
        if self.last is None:
            self.start, self.first = psi, gap
        else:
            before, x, earlier = self.last
            moved = (self.problem.smoothness**2) * float(np.sum((r.x - x) ** 2))
            self.follows.note(r.t, gap - (1 - self.of.theta) * earlier - self.of.beta * moved, noise)
            self.falls.note(r.t, psi - self.rate * before, noise)
        self.psi, self.last = psi, (psi, r.x, gap)

    def checks(self) -> list[Check]:
        """The recursion, and the fall."""
        return [self.follows.check(), self.falls.check()]


@dataclass(frozen=True, kw_only=True)
class MeanGradient(Bound):
    """Smooth losses that need not be convex, exact gradients."""

    id: ClassVar[str] = "ef21.mean"
    statement: ClassVar[str] = (
        "f L-smooth, gamma = 1 / (L (1 + sqrt(beta / theta))): mean |grad f(x_t)|^2 <= 2 (f_1 - f*) / "
        "(gamma T) + |d_1 - grad f(x_1)|^2 / (theta T)"
    )
    source: ClassVar[str] = "Richtarik, Sokolov and Fatkhullin 2021, Theorem 1 (constants as recalled)"
    kind: ClassVar[str] = "formula"
    corollary: ClassVar[bool] = True
    D: ClassVar[str] = START
    compressor: Compressor = TopK(k=1)

    def of(self, game: Game) -> Constants:
        """The compressor's constants."""
        return Constants(self.compressor.contraction(game.shape))

    def gamma(self, game: Game) -> float:
        """The largest rate of the theorem."""
        return 1 / (game.smoothness * (1 + self.of(game).root))

    def gate(self, game: Game, T: int) -> str:
        """A smooth function and its exact gradients."""
        if not isinstance(game, Problem) or math.isinf(game.smoothness):
            return "no declared problem"
        return "the gradients are noisy" if game.noisy else ""

    def rule(self, game: Game, T: int) -> Any:
        """EF21."""
        return EF21(learning_rate=self.gamma(game), compressor=self.compressor)

    def observers(self, game: Game, T: int) -> list[Any]:
        """Without strong convexity Psi (with twice the weight of f) does not rise."""
        assert isinstance(game, Problem)
        return [Lyapunov(game, self.gamma(game), self.of(game), 1.0)]

    def first_gap(self, game: Problem) -> float:
        """|d_1 - grad f(x_1)|^2 for d_1 = C(grad f(x_1))."""
        g = game.slope(game.x1)
        return float(np.sum((self.compressor(g) - g) ** 2))

    def chain(self, trace: Trace, u: Array) -> list[Link]:
        """Left and right side."""
        game, T = trace.game, trace.T
        assert isinstance(game, Problem)
        C = 2 * (float(game.value(game.x1)) - game.least) / (self.gamma(game) * T)
        C += self.first_gap(game) / (self.of(game).theta * T)
        left = Link("mean |grad f|^2", trace.observers["Lyapunov"].slopes / T, "")
        return [left, Link("C", C, "the descent lemma along d, and G's recursion, summed")]

    def checks(self, trace: Trace) -> list[Check]:
        """The recursion of G alone."""
        return [check for check in super().checks(trace) if check.name == "recursion"]


@dataclass(frozen=True, kw_only=True)
class PolyakLojasiewicz(MeanGradient):
    """Linear convergence, and at every step."""

    id: ClassVar[str] = "ef21.pl"
    statement: ClassVar[str] = (
        "f L-smooth and mu-PL, gamma = min(1 / (L (1 + sqrt(2 beta / theta))), theta / (2 mu)): Psi_t = "
        "f - f* + (gamma / theta) |d_t - grad f|^2 <= (1 - gamma mu)^(t-1) Psi_1, and at every step"
    )
    source: ClassVar[str] = "Richtarik, Sokolov and Fatkhullin 2021, Theorem 2 (constants as recalled)"

    def gate(self, game: Game, T: int) -> str:
        """Strong convexity, which implies PL."""
        return super().gate(game, T) or ("" if game.mu > 0 else "mu is not declared")

    def gamma(self, game: Game) -> float:
        """The largest rate of the theorem."""
        of = self.of(game)
        return min(1 / (game.smoothness * (1 + math.sqrt(2) * of.root)), of.theta / (2 * game.mu))

    def observers(self, game: Game, T: int) -> list[Any]:
        """Psi falls by 1 - gamma mu."""
        assert isinstance(game, Problem)
        gamma = self.gamma(game)
        return [Lyapunov(game, gamma, self.of(game), 1 - gamma * game.mu)]

    def chain(self, trace: Trace, u: Array) -> list[Link]:
        """Psi_T against its first value, from x_1 and the compressor alone."""
        game, gamma = trace.game, self.gamma(trace.game)
        assert isinstance(game, Problem)
        start = float(game.value(game.x1)) - game.least + gamma / self.of(game).theta * self.first_gap(game)
        C = (1 - gamma * game.mu) ** (trace.T - 1) * start
        return [Link("Psi_T", trace.observers["Lyapunov"].psi, ""), Link("C", C, "Psi falls at every step")]

    def checks(self, trace: Trace) -> list[Check]:
        """Both."""
        return Bound.checks(self, trace)

    def slack(self, trace: Trace) -> Any:
        """T factors and T sums of n squares."""
        C = self.chain(trace, trace.game.x1)[-1].value
        return 64 * trace.T * np.size(trace.game.x1) * trace.unit * C


BOUNDS: tuple[Bound, ...] = (MeanGradient(), PolyakLojasiewicz())
