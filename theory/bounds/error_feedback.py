r"""Error feedback: the regret of compressed steps whose errors are not lost.

S. P. Karimireddy, Q. Rebjock, S. Stich and M. Jaggi, "Error feedback fixes signSGD and other gradient
compression schemes", ICML 2019 (constants as recalled, re-derived); the regret is proved in
:mod:`..virtual`.

    p = e + gamma g,   w <- w - C(p),   e <- p - C(p)
    ||C(x) - x||^2 <= (1 - delta) ||x||^2,   q^2 = 1 - delta

owes e, surely at most q gamma G / (1 - q). With an unbiased quantiser Q on the error, ||Q(x) - x|| <= omega
||x||, the contraction is q_w = (1 + omega) q, and the noise zeta, at most omega q gamma G / (1 - q_w), is
zero in mean: it costs its square, K = 1/2 + q_w / (1 - q_w) + (omega q / (1 - q_w))^2 / 2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ...parts.compressors import Compressor, ScaledSign, TopK
from ...rules.error_feedback import ErrorFeedbackSGD
from ..chain import Check, Link
from ..geometry import Array
from ..play import Game, Round, Trace
from ..problems import Problem
from ..virtual import Owed, Virtual, VirtualBound
from . import START, Bound


def kept_error(r: Round) -> Any:
    """The error that the next step will read, as numbers; zero where none is kept."""
    error = getattr(r.player, "error", None)
    if error is None:
        return None
    return np.asarray(error.load(r.values, r.values["w"])).astype(r.x.dtype)


@dataclass(frozen=True, kw_only=True)
class AnyRate(VirtualBound):
    """Every gamma and every contractive C."""

    id: ClassVar[str] = "error_feedback.eta"
    statement: ClassVar[str] = (
        "no projection: R(u) <= |x_1 - u|^2 / (2 gamma) + gamma G^2 T (1/2 + q / (1 - q)), q^2 = 1 - delta"
    )
    source: ClassVar[str] = "proof in memopt_ref.theory.virtual"
    eta: float | None = 0.05
    compressor: Compressor = TopK(k=1)

    def contraction(self, game: Game) -> float:
        """sqrt(1 - delta)."""
        return math.sqrt(1 - self.compressor.contraction(game.shape))

    def rule(self, game: Game, T: int) -> Any:
        """EF-SGD with an exact buffer."""
        return ErrorFeedbackSGD(learning_rate=self.gamma(game, T), compressor=self.compressor)

    def owed(self, game: Game, T: int) -> Owed:
        """The buffer."""
        return kept_error


@dataclass(frozen=True, kw_only=True)
class TopKTuned(AnyRate):
    """Top-K, delta = k / d."""

    id: ClassVar[str] = "error_feedback.topk"
    statement: ClassVar[str] = (
        "Top-K, no projection, gamma = D / (G sqrt(T (1 + q) / (1 - q))): R <= D G sqrt(T (1 + q) / (1 - q))"
    )
    corollary: ClassVar[bool] = True
    eta: float | None = None


@dataclass(frozen=True, kw_only=True)
class SignTuned(TopKTuned):
    """Scaled sign, whose delta is 1/d at worst."""

    id: ClassVar[str] = "error_feedback.sign"
    statement: ClassVar[str] = "scaled sign, delta = 1/d, the same rate: R <= D G sqrt(T (1 + q) / (1 - q))"
    compressor: Compressor = ScaledSign()


@dataclass(frozen=True, kw_only=True)
class WithoutFeedback(SignTuned):
    """signSGD without feedback never leaves the line x_1 + x_2 = 2, where f >= 1."""

    id: ClassVar[str] = "error_feedback.none"
    statement: ClassVar[str] = "FALSE: the bound of scaled sign, if what C drops is lost"
    source: ClassVar[str] = "Karimireddy et al. 2019, counterexample 2: f = |x_1 + x_2| / 2 + |x_1 - x_2|"
    errata: ClassVar[str] = "every subgradient's sign is (1, -1) or (-1, 1)"
    known_false: ClassVar[bool] = True

    def rule(self, game: Game, T: int) -> Any:
        """The same without a buffer."""
        return super().rule(game, T).replace(error_bits=0)


@dataclass(frozen=True, kw_only=True)
class Quantised(TopKTuned):
    """A buffer of few bits with random rounding: in mean over it, for a game that is fixed before."""

    id: ClassVar[str] = "error_feedback.quantised"
    statement: ClassVar[str] = (
        "Top-K, Q unbiased, q_w = (1 + omega) q < 1, no projection: E R <= D G sqrt(2 K T), "
        "K = 1/2 + q_w / (1 - q_w) + (omega q / (1 - q_w))^2 / 2"
    )
    last: ClassVar[str] = "in mean over the rounding: E zeta = 0"
    compressor: Compressor = TopK(density=0.5, block=8)
    bits: int = 8
    bucket: int = 8
    seed: int = 0

    def rule(self, game: Game, T: int) -> Any:
        """Stochastic rounding between exact bounds."""
        how: Any = {"error_bits": self.bits, "bucket": self.bucket, "rounding": "stochastic"}
        return super().rule(game, T).replace(**how, bounds_dtype="float64", seed=self.seed)

    def omega(self, game: Game) -> float:
        """Of the declared quantiser."""
        return ErrorFeedbackSGD(error_bits=self.bits, bucket=self.bucket).error.quantiser.omega(
            math.prod(game.shape)
        )

    def contraction(self, game: Game) -> float:
        """q_w."""
        return (1 + self.omega(game)) * super().contraction(game)

    def noise(self, game: Game) -> float:
        """Omega q."""
        return self.omega(game) * super().contraction(game)

    def cost(self, game: Game) -> float:
        """The noise adds its square."""
        return super().cost(game) + (self.noise(game) / (1 - self.contraction(game))) ** 2 / 2

    def gate(self, game: Game, T: int) -> str:
        """The condition q_w < 1."""
        q_w = self.contraction(game) if game.shape else 1.0
        return f"q_w = {q_w:.4g} is not below 1" if q_w >= 1 else super().gate(game, T)


class SquaredSlopes:
    """Sum of |grad f(x_t)|^2."""

    def __init__(self, problem: Problem) -> None:
        self.problem, self.total = problem, 0.0

    def see(self, r: Round) -> None:
        """One round."""
        self.total += float(np.sum(self.problem.slope(r.x) ** 2))

    def checks(self) -> list[Check]:
        """None."""
        return []


@dataclass(frozen=True, kw_only=True)
class NonConvex(Bound):
    """Smooth losses that need not be convex, unbiased gradients: in mean over the noise."""

    id: ClassVar[str] = "error_feedback.nonconvex"
    statement: ClassVar[str] = (
        "f L-smooth, E |g|^2 <= s2: mean |grad f(x_t)|^2 <= 2 (f_1 - f*) / (gamma T) + gamma L s2 "
        "+ 4 gamma^2 L^2 s2 (1 - delta) / delta^2, in mean"
    )
    source: ClassVar[str] = "Karimireddy et al. 2019, Theorem II (as recalled), re-derived"
    errata: ClassVar[str] = (
        "the middle term is recalled as gamma L s2 / 2; what the proof gives is gamma L s2"
    )
    kind: ClassVar[str] = "formula"
    D: ClassVar[str] = START
    c: float = 0.1
    compressor: Compressor = TopK(k=1)

    def gate(self, game: Game, T: int) -> str:
        """A smooth function with bounded second moments of its gradients."""
        return (
            "" if isinstance(game, Problem) and math.isfinite(game.second_moment) else "no declared problem"
        )

    def rule(self, game: Game, T: int) -> Any:
        """EF-SGD with gamma = c / sqrt T."""
        return ErrorFeedbackSGD(learning_rate=self.c / math.sqrt(T), compressor=self.compressor)

    def observers(self, game: Game, T: int) -> list[Any]:
        """The slopes, and the virtual iterate."""
        assert isinstance(game, Problem)
        q = math.sqrt(1 - self.compressor.contraction(game.shape))
        return [SquaredSlopes(game), Virtual(self.c / math.sqrt(T), q, kept_error, game.comparators)]

    def chain(self, trace: Trace, u: Array) -> list[Link]:
        """Left and right side."""
        game, T = trace.game, trace.T
        assert isinstance(game, Problem)
        gamma, L, s2 = self.c / math.sqrt(T), game.smoothness, game.second_moment
        delta = self.compressor.contraction(game.shape)
        C = 2 * (game.value(game.x1) - game.least) / (gamma * T) + gamma * L * s2
        C = C + 4 * (gamma * L) ** 2 * s2 * (1 - delta) / delta**2
        left = Link("mean |grad f|^2", trace.observers["SquaredSlopes"].total / T, "")
        return [left, Link("C", C, "smoothness at the virtual iterate, in mean over the noise")]

    def slack(self, trace: Trace) -> Any:
        """A mean of T squares; the virtual iterate is checked by itself."""
        return trace.rounding() / trace.T


BOUNDS: tuple[Bound, ...] = (
    AnyRate(),
    TopKTuned(),
    SignTuned(),
    WithoutFeedback(),
    Quantised(),
    NonConvex(),
)
