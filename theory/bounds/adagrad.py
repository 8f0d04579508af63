r"""AdaGrad, diagonal and full, as mirror descent and as dual averaging.

J. Duchi, E. Hazan and Y. Singer, "Adaptive subgradient methods for online learning and stochastic
optimization", JMLR 12 (2011), Theorems 5 and 7 (constants as recalled; re-derived here).

Mirror descent, H_t = (1/eta) G_t^{1/2} (a root of sums of squares, entry by entry or as a matrix): A <= B as
H_t does not decrease; B <= C by sum_t g_t' G_t^{-1/2} g_t <= 2 tr G_T^{1/2}, since 2 tr(G^{1/2} - (G - g
g')^{1/2}) >= g' G^{-1/2} g (concavity of the trace of the root).

Dual averaging, H_t = (1/eta)(delta I + G_t^{1/2}): A = psi_T(u) - Phi_T + sum <g_t, x_t>; A <= B by stability
in the norm of H_{t-1}; B <= C as delta >= |g_t| makes H_{t-1} >= G_t^{1/2} / eta. The factor 1/2 of its first
two terms is sharper than the published form.

D is a diameter for mirror descent and a radius (distance to x_1) for dual averaging; mixing them is an error
of a factor 2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ...rules.adagrad import AdaGrad
from ...rules.adagrad_forms import FullMatrixAdaGrad
from ...rules.ftrl import FTRLProximal
from ..chain import Link, SecondMoment, trajectory_widths
from ..geometry import Array
from ..leaders import LeaderLedger, OriginLedger
from ..ledger import Ledger
from ..play import Game, Round, Trace
from ..players import FullMatrixDualAveraging
from . import START, TRAJECTORY, Bound, MirrorBound

SUM_LEMMA = "sum a_t / sqrt(a_1 + ... + a_t) <= 2 sqrt(a_1 + ... + a_T), and gamma <= nu"
DUCHI = "Duchi, Hazan and Singer 2011, {}; proof in this file's docstring"


def root_sum(gamma: Array) -> Any:
    """sum_i sqrt(gamma_i)."""
    return np.sum(np.sqrt(gamma))


@dataclass(frozen=True, kw_only=True)
class Diagonal(MirrorBound):
    """Every rate, and one diameter a coordinate: the whole point of a diagonal metric."""

    id: ClassVar[str] = "adagrad.mirror.eta"
    statement: ClassVar[str] = "R <= sum_i (D_i^2 / (2 eta) + eta) sqrt(sum_t g_{t,i}^2), any eta"
    source: ClassVar[str] = DUCHI.format("Theorem 5")
    norm: ClassVar[str] = "linf"
    eta: float | None = None

    def _eta(self, game: Game) -> float:
        return game.domain.diameter("linf") / math.sqrt(2) if self.eta is None else self.eta

    def rule(self, game: Game, T: int) -> Any:
        """AdaGrad with eps = 0."""
        return AdaGrad(learning_rate=self._eta(game))

    def observers(self, game: Game, T: int) -> list[Any]:
        """The ledger, and gamma <= nu."""
        return [*super().observers(game, T), SecondMoment()]

    def chain(self, trace: Trace, u: Array) -> list[Link]:
        """R <= R_lin <= A <= B <= C."""
        D = self.distance(trace, u)
        return [
            *self.head(trace, u),
            self.level_b(trace, D, "linf"),
            Link("C", np.sum(self.terms(trace.game, trace.gamma, D)), SUM_LEMMA),
        ]

    def distance(self, trace: Trace, u: Array) -> Array:
        """The widths of the domain."""
        return trace.game.domain.widths()

    def terms(self, game: Game, gamma: Array, D: Array) -> Array:
        """C, coordinate by coordinate."""
        eta = self._eta(game)
        return (D**2 / (2 * eta) + eta) * np.sqrt(gamma)

    def separately(self, game: Game, gamma: Array, T: int) -> Array | None:
        """A sum over coordinates; of a trajectory's D nothing is known beforehand."""
        return None if self.D == TRAJECTORY else self.terms(game, gamma, game.comparators.widths())


@dataclass(frozen=True, kw_only=True)
class DiagonalTuned(Diagonal):
    """The best rate for the largest width."""

    id: ClassVar[str] = "adagrad.mirror"
    statement: ClassVar[str] = (
        "eta = D / sqrt 2: R <= sqrt(2) D sum_i sqrt(sum_t g_{t,i}^2), D in the sup-norm"
    )
    source: ClassVar[str] = DUCHI.format("Corollary 6")
    errata: ClassVar[str] = "D is the diameter: on [-1, 1] it is 2; read as a radius the statement is false"
    corollary: ClassVar[bool] = True

    def terms(self, game: Game, gamma: Array, D: Array) -> Array:
        """C, coordinate by coordinate."""
        return game.domain.diameter("linf") * np.sqrt(2 * gamma)


@dataclass(frozen=True, kw_only=True)
class DiagonalTrajectory(Diagonal):
    """Without projection, D_i = max_t |x_{t,i} - u_i| as it turned out: true, maybe worse than linear."""

    id: ClassVar[str] = "adagrad.trajectory.eta"
    statement: ClassVar[str] = (
        "unprojected: R(u) <= sum_i (D_i^2 / (2 eta) + eta) sqrt(sum_t g_{t,i}^2), "
        "D_i = max_t |x_{t,i} - u_i|"
    )
    errata: ClassVar[str] = "eta must not depend on D: tuning to a distance that the rate decides is circular"
    D: ClassVar[str] = TRAJECTORY
    eta: float | None = 1.0

    def distance(self, trace: Trace, u: Array) -> Array:
        """As it turned out."""
        return trajectory_widths(trace, u)


@dataclass(frozen=True, kw_only=True)
class DiagonalNominal(DiagonalTuned):
    """The false corollary: tuned for a nominal diameter, and not projected."""

    id: ClassVar[str] = "adagrad.unprojected"
    statement: ClassVar[str] = "FALSE: unprojected, eta = D / sqrt 2 with D the diameter of the comparators"
    errata: ClassVar[str] = "there_and_back: the regret grows like T^1.5"
    known_false: ClassVar[bool] = True
    kind: ClassVar[str] = "known-false"
    D: ClassVar[str] = START

    def _eta(self, game: Game) -> float:
        return 2.0 if self.eta is None else self.eta

    def distance(self, trace: Trace, u: Array) -> Array:
        """The comparators' widths."""
        return trace.game.comparators.widths()

    def terms(self, game: Game, gamma: Array, D: Array) -> Array:
        """C at this rate."""
        return Diagonal.terms(self, game, gamma, D)


class OuterProducts:
    """The sum of g g', from the gradients alone."""

    def __init__(self) -> None:
        self.G: Any = 0

    def see(self, r: Round) -> None:
        """Add one."""
        g = np.ravel(r.g)
        self.G = self.G + np.outer(g, g)

    def checks(self) -> list[Any]:
        """None: it is no part of the player."""
        return []

    def trace_root(self) -> float:
        """tr G^{1/2}."""
        return float(np.sum(np.sqrt(np.maximum(np.linalg.eigvalsh(self.G), 0.0))))


@dataclass(frozen=True, kw_only=True)
class Full(MirrorBound):
    """The full matrix, every rate."""

    id: ClassVar[str] = "adagrad.full.eta"
    statement: ClassVar[str] = "R <= (D^2 / (2 eta) + eta) tr (sum g g')^{1/2}, D Euclidean, any eta"
    source: ClassVar[str] = DUCHI.format("Theorem 7")
    eta: float | None = None

    def _eta(self, game: Game) -> float:
        return game.domain.diameter("l2") / math.sqrt(2) if self.eta is None else self.eta

    def gate(self, game: Game, T: int) -> str:
        """Small tensors."""
        size = math.prod(game.shape)
        return super().gate(game, T) or (f"{size} entries are too many for a matrix" if size > 64 else "")

    def rule(self, game: Game, T: int) -> Any:
        """FullMatrixAdaGrad with eps = 0."""
        return FullMatrixAdaGrad(learning_rate=self._eta(game))

    def observers(self, game: Game, T: int) -> list[Any]:
        """The ledger, and the gradients' outer products."""
        return [*super().observers(game, T), OuterProducts()]

    def chain(self, trace: Trace, u: Array) -> list[Link]:
        """R <= R_lin <= A <= B <= C."""
        D, eta = trace.game.domain.diameter("l2"), self._eta(trace.game)
        C = self.factor(D, eta) * trace.observers["OuterProducts"].trace_root()
        lemma = "sum g' G_t^{-1/2} g <= 2 tr G_T^{1/2}"
        return [*self.head(trace, u), self.level_b(trace, D, "l2"), Link("C", C, lemma)]

    def factor(self, D: float, eta: float) -> float:
        """What multiplies the trace."""
        return D * D / (2 * eta) + eta


@dataclass(frozen=True, kw_only=True)
class FullTuned(Full):
    """The full matrix with its best rate."""

    id: ClassVar[str] = "adagrad.full"
    statement: ClassVar[str] = "eta = D / sqrt 2: R <= sqrt(2) D tr (sum g g')^{1/2}"
    corollary: ClassVar[bool] = True

    def factor(self, D: float, eta: float) -> float:
        """Sqrt(2) D."""
        return math.sqrt(2) * D


@dataclass(frozen=True, kw_only=True)
class DualAveraging(Bound):
    """Dual averaging with diagonal matrices, every rate; needs delta >= every |g_{t,i}|."""

    id: ClassVar[str] = "adagrad.dual.eta"
    statement: ClassVar[str] = (
        "delta >= |g_t|_inf: R(u) <= (delta |u|^2 + sum_i u_i^2 s_i) / (2 eta) + eta sum_i s_i, "
        "s_i = sqrt(sum_t g_{t,i}^2)"
    )
    source: ClassVar[str] = DUCHI.format("Theorem 5")
    errata: ClassVar[str] = (
        "published with 1/eta for 1/(2 eta); without delta the sharper form is false (kick)"
    )
    norm: ClassVar[str] = "linf"
    D: ClassVar[str] = START
    eta: float | None = None
    delta: float | None = None

    def _radius(self, game: Game) -> float:
        return game.comparators.radius(game.x1, "linf")

    def _eta(self, game: Game) -> float:
        return self._radius(game) / math.sqrt(2) if self.eta is None else self.eta

    def _delta(self, game: Game) -> float:
        return game.G_inf if self.delta is None else self.delta

    def gate(self, game: Game, T: int) -> str:
        """Delta against the declared size of the gradients."""
        if math.isinf(game.G_inf):
            return "no bound on the gradients is declared"
        if self._delta(game) < game.G_inf:
            return f"delta = {self._delta(game):g} is below max |g| = {game.G_inf:g}"
        return ""

    def rule(self, game: Game, T: int) -> Any:
        """FTRLProximal around the origin."""
        return FTRLProximal(learning_rate=self._eta(game), beta=self._delta(game), centre="origin")

    def observers(self, game: Game, T: int) -> list[Any]:
        """The leader's ledger, and gamma <= n."""
        return [LeaderLedger("origin", game.x1), SecondMoment("n", root=False)]

    def chain(self, trace: Trace, u: Array) -> list[Link]:
        """R_lin <= A <= B <= C <= paper."""
        game, ledger = trace.game, trace.observers["LeaderLedger"]
        eta, delta, s = self._eta(game), self._delta(game), np.sqrt(trace.gamma)
        d2 = (u - game.x1) ** 2
        C = (delta * np.sum(d2) + np.sum(d2 * s)) / (2 * eta) + eta * np.sum(s)
        paper = (delta * np.sum(d2) + np.max(d2) * np.sum(s)) / eta + eta * np.sum(s)
        return [
            *convexity(trace, u),
            Link("A", ledger.upper(u), "x_{T+1} minimises the leader's objective"),
            Link("B", ledger.psi(u) + ledger.dual, "stability in the norm of H_{t-1}"),
            Link("C", C, "delta >= |g_t| makes H_{t-1} >= diag(s_t) / eta; the sum lemma"),
            Link("paper", paper, "halves dropped"),
        ]

    def separately(self, game: Game, gamma: Array, T: int) -> Array | None:
        """Both ends of the domain are as far from x_1."""
        eta, s, d2 = self._eta(game), np.sqrt(gamma), self._radius(game) ** 2
        return (self._delta(game) * d2 + d2 * s) / (2 * eta) + eta * s


@dataclass(frozen=True, kw_only=True)
class DualAveragingTuned(DualAveraging):
    """Its best rate is the radius, not the diameter, over sqrt 2."""

    id: ClassVar[str] = "adagrad.dual"
    statement: ClassVar[str] = (
        "eta = r / sqrt 2, r = max |u - x_1|_inf: R <= delta |u - x_1|^2 / (sqrt(2) r) + sqrt(2) r sum_i s_i"
    )
    corollary: ClassVar[bool] = True

    def chain(self, trace: Trace, u: Array) -> list[Link]:
        """C from the radius."""
        links = super().chain(trace, u)
        r, game = self._radius(trace.game), trace.game
        first = self._delta(game) * np.sum((u - game.x1) ** 2) / (math.sqrt(2) * r)
        C = first + r * root_sum(2 * trace.gamma)
        return [*links[:-2], Link("C", C, links[-2].lemma)]

    def separately(self, game: Game, gamma: Array, T: int) -> Array:
        """From the radius."""
        r = self._radius(game)
        return self._delta(game) * r / math.sqrt(2) + r * np.sqrt(2 * gamma)


@dataclass(frozen=True, kw_only=True)
class DualAveragingNoDelta(DualAveraging):
    """The sharper form without its condition: false."""

    id: ClassVar[str] = "adagrad.dual.nodelta"
    statement: ClassVar[str] = "FALSE: delta = 0: R(u) <= sum_i u_i^2 s_i / (2 eta) + eta sum_i s_i"
    errata: ClassVar[str] = (
        "(e, e, -1) gives 1.414; the published constant, twice the first term, is not known to fail"
    )
    known_false: ClassVar[bool] = True
    kind: ClassVar[str] = "known-false"
    delta: float | None = 0.0

    def gate(self, game: Game, T: int) -> str:
        """It claims to need nothing."""
        return ""


@dataclass(frozen=True, kw_only=True)
class FullDualAveraging(DualAveraging):
    """Dual averaging with the full matrix: delta I + G_{t-1}^{1/2} >= G_t^{1/2} as delta >= |g_t|_2."""

    id: ClassVar[str] = "adagrad.full.dual.eta"
    statement: ClassVar[str] = (
        "delta >= |g_t|_2: R(u) <= (delta |u|^2 + u' S u) / (2 eta) + eta tr S, S = (sum g g')^{1/2}"
    )
    source: ClassVar[str] = DUCHI.format("Theorem 7")
    norm: ClassVar[str] = "l2"

    def _radius(self, game: Game) -> float:
        return game.comparators.radius(game.x1, "l2")

    def _delta(self, game: Game) -> float:
        return game.G if self.delta is None else self.delta

    def gate(self, game: Game, T: int) -> str:
        """Delta against the declared norm; small tensors."""
        if math.isinf(game.G) or self._delta(game) < game.G:
            return "delta is below the declared bound on |g|"
        size = math.prod(game.shape)
        return f"{size} entries are too many for a matrix" if size > 64 else ""

    def separately(self, game: Game, gamma: Array, T: int) -> None:
        """A matrix couples coordinates."""

    def rule(self, game: Game, T: int) -> Any:
        """A player: the library has no such rule."""
        return FullMatrixDualAveraging(self._eta(game), self._delta(game))

    def observers(self, game: Game, T: int) -> list[Any]:
        """The leader's ledger, and the gradients' outer products."""
        first = self._delta(game) / self._eta(game)
        return [OriginLedger(game.x1, first), OuterProducts()]

    def chain(self, trace: Trace, u: Array) -> list[Link]:
        """R_lin <= A <= B <= C <= paper."""
        game, sums, ledger = trace.game, trace.observers["OuterProducts"], trace.observers["OriginLedger"]
        eta, delta, d = self._eta(game), self._delta(game), np.ravel(u - game.x1)
        values, basis = np.linalg.eigh(sums.G)
        root = np.sqrt(np.maximum(values, 0.0))
        square = delta * np.sum(d * d)
        C = (square + np.sum(root * (basis.T @ d) ** 2)) / (2 * eta) + eta * np.sum(root)
        paper = (square + np.sum(d * d) * np.sum(root)) / eta + eta * np.sum(root)
        return [
            *convexity(trace, u),
            Link("A", ledger.upper(u), "x_{T+1} minimises the leader's objective"),
            Link("B", ledger.psi(u) + ledger.dual, "stability in the norm of H_{t-1}"),
            Link("C", C, "delta >= |g_t| makes H_{t-1} >= G_t^{1/2} / eta; the sum lemma"),
            Link("paper", paper, "halves dropped"),
        ]


def convexity(trace: Trace, u: Array) -> list[Link]:
    """R <= R_lin, or R_lin alone for linear losses."""
    links = [] if trace.losses is None else [Link("R", trace.loss - trace.hindsight().value, "")]
    lemma = "f(u) >= f(x) + <g, u - x>: convexity"
    return [*links, Link("R_lin", trace.linear_regret(u), lemma)]


BOUNDS: tuple[Bound, ...] = (
    Diagonal(),
    DiagonalTuned(),
    DiagonalTrajectory(),
    DiagonalNominal(),
    Full(),
    FullTuned(),
    DualAveraging(),
    DualAveragingTuned(),
    DualAveragingNoDelta(),
    FullDualAveraging(),
)

__all__ = ["BOUNDS", "Diagonal", "DiagonalTuned", "Full", "FullTuned", "Ledger", "OuterProducts", "convexity"]
