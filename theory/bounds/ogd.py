r"""Online gradient descent, and gradient descent with one self-confident rate.

M. Zinkevich, "Online convex programming and generalized infinitesimal gradient ascent", ICML 2003; E. Hazan,
"Introduction to online convex optimization", Theorems 3.1 and 3.3 (constants as recalled); P. Auer, N.
Cesa-Bianchi and C. Gentile, "Adaptive and self-confident on-line learning algorithms", JCSS 64, 2002 (as
recalled).

Proof, with H_t = 1 / eta_t: R <= A drops what the projection gains; A <= B telescopes |x_t - u|^2 <= D^2
against a rate that does not rise, or drops it altogether when the losses are strongly convex; B <= C sums the
rates: sum 1/sqrt(t) <= 2 sqrt(T) - 1, sum 1/t = h(T), sum a_t / sqrt(a_1 + ... + a_t) <= 2 sqrt(a_1 + ... +
a_T).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ...rules.adagrad_forms import AdaGradNorm
from ...rules.sgd import SGD
from ...schedules import InverseSqrt, InverseTime
from ..chain import Link
from ..geometry import Array
from ..ledger import Ledger
from ..play import Game, Trace
from . import START, Bound, MirrorBound

RATES = "the rates' sum"


@dataclass(frozen=True, kw_only=True)
class Constant(MirrorBound):
    """Any constant rate; without projection R = A, an identity."""

    id: ClassVar[str] = "ogd.const"
    statement: ClassVar[str] = "R(u) <= |x_1 - u|^2 / (2 eta) + (eta / 2) sum |g_t|^2, any eta"
    source: ClassVar[str] = "Zinkevich 2003; proof above"
    D: ClassVar[str] = START
    eta: float | None = None

    def _eta(self, game: Game, T: int) -> float:
        return game.comparators.radius(game.x1) / (game.G * math.sqrt(T)) if self.eta is None else self.eta

    def gate(self, game: Game, T: int) -> str:
        """The tuned rate needs G."""
        return "G is not declared" if self.eta is None and math.isinf(game.G) else ""

    def rule(self, game: Game, T: int) -> Any:
        """SGD with this rate."""
        return SGD(learning_rate=self._eta(game, T))

    def chain(self, trace: Trace, u: Array) -> list[Link]:
        """B = |x_1 - u|^2 h / 2 + 1/2 sum of dual norms."""
        eta = self._eta(trace.game, trace.T)
        square = np.sum((trace.game.x1 - u) ** 2)
        ledger: Ledger = trace.observers["Ledger"]
        b = Link("B", ledger.height() * square / 2 + ledger.dual, "constant H, drop |x_{T+1} - u|^2")
        return [
            *self.head(trace, u),
            b,
            Link("C", square / (2 * eta) + eta / 2 * trace.square, "H = 1 / eta"),
        ]

    def separately(self, game: Game, gamma: Array, T: int) -> Array:
        """Both ends of the domain are as far from x_1."""
        eta = self._eta(game, T)
        return game.comparators.radius(game.x1) ** 2 / (2 * eta) + eta / 2 * gamma


@dataclass(frozen=True, kw_only=True)
class Tuned(Constant):
    """The rate that balances the two terms; attained by :func:`..games.zigzag_run`."""

    id: ClassVar[str] = "ogd.tuned"
    statement: ClassVar[str] = "eta = D / (G sqrt T): R <= D G sqrt T, D >= |x_1 - u|"
    source: ClassVar[str] = "Zinkevich 2003, constant as recalled; proof above; attained, so not improvable"
    corollary: ClassVar[bool] = True

    def chain(self, trace: Trace, u: Array) -> list[Link]:
        """C from G, D and T alone."""
        links = super().chain(trace, u)[:-1]
        return [*links, Link("C", self.closed(trace.game, trace.T), "|g_t| <= G and the tuned rate")]

    def closed(self, game: Game, T: int) -> float:
        """C."""
        return game.comparators.radius(game.x1) * game.G * math.sqrt(T)

    def separately(self, game: Game, gamma: Array, T: int) -> Array:
        """The same for all gradients."""
        return self.closed(game, T) + 0 * gamma


@dataclass(frozen=True, kw_only=True)
class Anytime(MirrorBound):
    """eta / sqrt(t) for every eta."""

    id: ClassVar[str] = "ogd.anytime"
    statement: ClassVar[str] = "eta_t = eta / sqrt t: R <= D^2 sqrt(T) / (2 eta) + eta G^2 (sqrt T - 1/2)"
    source: ClassVar[str] = "Zinkevich 2003, Theorem 1 (as recalled, for eta = 1); proof above"
    eta: float | None = None

    def _eta(self, game: Game) -> float:
        return game.domain.diameter("l2") / game.G if self.eta is None else self.eta

    def gate(self, game: Game, T: int) -> str:
        """G enters the statement."""
        return super().gate(game, T) or ("G is not declared" if math.isinf(game.G) else "")

    def rule(self, game: Game, T: int) -> Any:
        """SGD with eta / sqrt(t)."""
        return SGD(learning_rate=InverseSqrt(self._eta(game)))

    def chain(self, trace: Trace, u: Array) -> list[Link]:
        """R <= R_lin <= A <= B <= C."""
        D = trace.game.domain.diameter("l2")
        return [
            *self.head(trace, u),
            self.level_b(trace, D, "l2"),
            Link("C", self.closed(trace.game, trace.T), RATES),
        ]

    def closed(self, game: Game, T: int) -> float:
        """C."""
        D, eta = game.domain.diameter("l2"), self._eta(game)
        return D * D * math.sqrt(T) / (2 * eta) + eta * game.G**2 * (math.sqrt(T) - 0.5)

    def separately(self, game: Game, gamma: Array, T: int) -> Array:
        """The same for all gradients."""
        return self.closed(game, T) + 0 * gamma


@dataclass(frozen=True, kw_only=True)
class Zinkevich(Anytime):
    """The first published form: dimensionally odd, kept for fidelity."""

    id: ClassVar[str] = "ogd.zinkevich"
    statement: ClassVar[str] = "eta_t = 1 / sqrt t: R <= D^2 sqrt(T) / 2 + (sqrt T - 1/2) G^2"
    source: ClassVar[str] = "Zinkevich 2003, Theorem 1 (as recalled)"
    corollary: ClassVar[bool] = True
    eta: float | None = 1.0


@dataclass(frozen=True, kw_only=True)
class Sqrt(Anytime):
    """The textbook rate."""

    id: ClassVar[str] = "ogd.sqrt"
    statement: ClassVar[str] = "eta_t = D / (G sqrt t): R <= 3/2 D G sqrt T"
    source: ClassVar[str] = "Hazan, Introduction to online convex optimization, Theorem 3.1 (as recalled)"
    corollary: ClassVar[bool] = True

    def closed(self, game: Game, T: int) -> float:
        """C."""
        return 1.5 * game.domain.diameter("l2") * game.G * math.sqrt(T)


@dataclass(frozen=True, kw_only=True)
class Sqrt2(Anytime):
    """The better constant without knowledge of T."""

    id: ClassVar[str] = "ogd.sqrt2"
    statement: ClassVar[str] = "eta_t = D / (G sqrt(2 t)): R <= sqrt(2) D G sqrt T"
    source: ClassVar[str] = "proof above"
    corollary: ClassVar[bool] = True

    def _eta(self, game: Game) -> float:
        return game.domain.diameter("l2") / (game.G * math.sqrt(2))

    def closed(self, game: Game, T: int) -> float:
        """C."""
        return math.sqrt(2 * T) * game.domain.diameter("l2") * game.G


@dataclass(frozen=True, kw_only=True)
class StronglyConvex(MirrorBound):
    """1 / (mu t) on mu-strongly convex losses: no diameter is needed."""

    id: ClassVar[str] = "ogd.sc"
    statement: ClassVar[str] = (
        "mu-strongly convex, eta_t = 1 / (mu t): R <= G^2 / (2 mu) (1 + 1/2 + ... + 1/T)"
    )
    source: ClassVar[str] = "Hazan, Agarwal and Kale 2007 (as recalled); Hazan, Theorem 3.3; proof above"
    errata: ClassVar[str] = "often printed with 1 + ln T; exactly the value of the game (as recalled)"
    corollary: ClassVar[bool] = True
    D: ClassVar[str] = START

    def gate(self, game: Game, T: int) -> str:
        """The losses must be strongly convex, with bounded gradients."""
        if game.mu <= 0:
            return "the losses are not strongly convex"
        return "G is not declared" if math.isinf(game.G) else ""

    def rule(self, game: Game, T: int) -> Any:
        """SGD with 1 / (mu t)."""
        return SGD(learning_rate=InverseTime(1.0 / game.mu, 1.0))

    def observers(self, game: Game, T: int) -> list[Any]:
        """The metric has to grow by mu a round."""
        return [Ledger(game.domain, game.comparators, mu=game.mu)]

    def chain(self, trace: Trace, u: Array) -> list[Link]:
        """The quadratic part of the losses pays for the growth of H."""
        ledger: Ledger = trace.observers["Ledger"]
        paid = trace.game.mu / 2 * ledger.distances(u)
        head = self.head(trace, u)
        links = [Link("R", head[0].value, "")] if trace.losses is not None else []
        lemma = "f(u) >= f(x) + <g, u - x> + mu/2 |u - x|^2"
        links.append(Link("R_sc", trace.linear_regret(u) - paid, lemma))
        links.append(Link("A", ledger.upper(u) - paid, head[-1].lemma))
        links.append(Link("B", ledger.dual, "H_t - H_{t-1} = mu cancels mu/2 |x_t - u|^2"))
        C = trace.game.G**2 / (2 * trace.game.mu) * math.fsum(1 / t for t in range(1, trace.T + 1))
        return [*links, Link("C", C, "|g_t| <= G and the tuned rate")]


@dataclass(frozen=True, kw_only=True)
class SelfConfident(MirrorBound):
    """AdaGrad-Norm for every eta: no knowledge of G or T."""

    id: ClassVar[str] = "ogd.adanorm.eta"
    statement: ClassVar[str] = "eta_t = eta / sqrt(sum |g|^2): R <= (D^2 / (2 eta) + eta) sqrt(sum |g_t|^2)"
    source: ClassVar[str] = "Auer, Cesa-Bianchi and Gentile 2002, Lemma 3.5 (as recalled); proof above"
    eta: float | None = None

    def _eta(self, game: Game) -> float:
        return game.domain.diameter("l2") / math.sqrt(2) if self.eta is None else self.eta

    def rule(self, game: Game, T: int) -> Any:
        """AdaGradNorm with eps = 0."""
        return AdaGradNorm(learning_rate=self._eta(game))

    def chain(self, trace: Trace, u: Array) -> list[Link]:
        """R <= R_lin <= A <= B <= C."""
        D, eta = trace.game.domain.diameter("l2"), self._eta(trace.game)
        C = self.factor(D, eta) * np.sqrt(trace.square)
        lemma = "sum a_t / sqrt(a_1 + ... + a_t) <= 2 sqrt(a_1 + ... + a_T)"
        return [*self.head(trace, u), self.level_b(trace, D, "l2"), Link("C", C, lemma)]

    def factor(self, D: float, eta: float) -> float:
        """What multiplies the root of the sum of squares."""
        return D * D / (2 * eta) + eta


@dataclass(frozen=True, kw_only=True)
class SelfConfidentTuned(SelfConfident):
    """Its best rate."""

    id: ClassVar[str] = "ogd.adanorm"
    statement: ClassVar[str] = "eta = D / sqrt 2: R <= sqrt(2) D sqrt(sum |g_t|^2)"
    corollary: ClassVar[bool] = True

    def factor(self, D: float, eta: float) -> float:
        """Sqrt(2) D."""
        return math.sqrt(2) * D


@dataclass(frozen=True, kw_only=True)
class SmallLoss(SelfConfidentTuned):
    """L*: if some point has small loss, so has the regret.

    |g|^2 <= 2 M f(x) for f >= 0 that is M-smooth on the whole space (not on the domain only); then z = sum
    f_t(x_t) solves z <= L* + 2 D sqrt(M z).
    """

    id: ClassVar[str] = "ogd.lstar"
    statement: ClassVar[str] = "f_t >= 0 and M-smooth on R^d: R <= 4 M D^2 + 2 D sqrt(M L*), L* = sum f_t(u)"
    source: ClassVar[str] = "proof in the docstring"

    def gate(self, game: Game, T: int) -> str:
        """Smooth and non-negative everywhere."""
        if not game.nonnegative or math.isinf(game.smoothness):
            return "the losses are not declared smooth and non-negative on the whole space"
        return super().gate(game, T)

    def chain(self, trace: Trace, u: Array) -> list[Link]:
        """Two more links."""
        D, M = trace.game.domain.diameter("l2"), trace.game.smoothness
        links = super().chain(trace, u)
        links[-1] = Link("norms", links[-1].value, links[-1].lemma)
        links.append(Link("own losses", 2 * D * math.sqrt(M * trace.loss), "|g_t|^2 <= 2 M f_t(x_t)"))
        best = trace.hindsight().value
        C = 4 * M * D * D + 2 * D * math.sqrt(M * best)
        return [*links, Link("C", C, "z <= L* + 2 D sqrt(M z) solved for z")]


BOUNDS: tuple[Bound, ...] = (
    Constant(),
    Tuned(),
    Anytime(),
    Sqrt(),
    Sqrt2(),
    Zinkevich(),
    StronglyConvex(),
    SelfConfident(),
    SelfConfidentTuned(),
    SmallLoss(),
)
