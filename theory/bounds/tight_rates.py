r"""The exact one-step rates of compressed gradient descent, with error feedback, EF21, and without either.

D. B. Thomsen, A. B. Taylor and A. Dieuleveut, arXiv:2506.05271 (formulas from the certificates that accompany
it); E. de Klerk, F. Glineur and A. B. Taylor, "On the worst-case complexity of the gradient method with exact
line search for smooth strongly convex functions", Optimization Letters 11, 2017 (inexact gradients, as
recalled).

f is L-smooth and mu-strongly convex, ||C(x) - x|| <= s ||x||. With the rate

    eta = 2 / (L + mu) (1 - s) / (1 + s)
    lambda = eta / (L + mu) [(1 - s)(L - mu) + (1 + s) sqrt((L - mu)^2 + 16 L mu s / (1 + s)^2)]
    rho = s + (1 + s)(L - mu) lambda / 4

both EF with V = |x - x* - e|^2 + |e|^2 / s and EF21 with V = |grad f - d|^2 + s |grad f|^2 contract by rho at
every step, and some two-dimensional quadratic attains it: for C(x) = x - s R x with a rotation R
(:func:`attaining` starts at an eigenvector, so a test of "never above" is also one of "attained"). Compressed
descent alone has the better rate ((k - 1) / (k + 1))^2 of f - f*, k = (L / mu)(1 + s) / (1 - s), at eta = 2 /
((1 + s) L + (1 - s) mu): on strongly convex functions with exact gradients feedback buys nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ...parts.compressors import Compressor
from ...rules.error_feedback import EF21, ErrorFeedbackSGD
from ..chain import Check, Link, Watch
from ..geometry import Array
from ..play import Game, Round, Trace
from ..problems import Problem, Started, Turn, quadratic
from . import START, Bound
from .error_feedback import kept_error


@dataclass(frozen=True)
class Rate:
    """Eta and rho for s, L and mu.

    Examples
    --------
    >>> rate = Rate(0.5, 1.0, 0.1)
    >>> round(rate.eta, 6), round(rate.rho, 6)
    (0.606061, 0.884808)
    """

    s: float
    L: float
    mu: float

    @property
    def eta(self) -> float:
        """The best step."""
        return 2 / (self.L + self.mu) * (1 - self.s) / (1 + self.s)

    @property
    def rho(self) -> float:
        """The contraction of V."""
        s, gap = self.s, self.L - self.mu
        root = math.sqrt(gap**2 + 16 * self.L * self.mu * s / (1 + s) ** 2)
        lam = self.eta / (self.L + self.mu) * ((1 - s) * gap + (1 + s) * root)
        return s + (1 + s) * gap * lam / 4


class Contraction:
    """The largest V_{t+1} / V_t."""

    def __init__(self, energy: Any, first: float, rho: float) -> None:
        self.energy, self.before, self.worst = energy, first, 0.0
        self.watch = Watch("contraction", "V_{t+1} <= rho V_t")
        self.rho = rho

    def see(self, r: Round) -> None:
        """One round; V is a sum of squares of numbers that were rounded to u."""
        V = self.energy(r)
        if math.isnan(self.before):
            self.before = V
            return
        if self.before > 0:
            ratio = V / self.before
            self.worst = max(self.worst, ratio)
            self.watch.note(r.t, ratio - self.rho, 64 * np.size(r.x) * r.unit)
        self.before = V

    def checks(self) -> list[Check]:
        """Every step."""
        return [self.watch.check()]


def norm2(x: Array) -> float:
    """|x|^2."""
    return float(np.sum(x * x))


@dataclass(frozen=True, kw_only=True)
class FeedbackRate(Bound):
    """Error feedback."""

    id: ClassVar[str] = "tight_rates.ef"
    statement: ClassVar[str] = "EF, eta as above: V = |x - x* - e|^2 + |e|^2 / s falls by rho at every step"
    source: ClassVar[str] = (
        "Thomsen, Taylor and Dieuleveut, arXiv:2506.05271, from its certificates; attained"
    )
    kind: ClassVar[str] = "formula"
    corollary: ClassVar[bool] = True
    D: ClassVar[str] = START
    compressor: Compressor = Turn()

    def rate(self, game: Game) -> Rate:
        """Of the declared compressor and function."""
        s = math.sqrt(1 - self.compressor.contraction(game.shape))
        return Rate(s, game.smoothness, game.mu)

    def gate(self, game: Game, T: int) -> str:
        """Smooth, strongly convex, the minimum at 0."""
        if not isinstance(game, Problem) or not game.mu > 0 or math.isinf(game.smoothness):
            return "no declared smooth and strongly convex problem"
        if T < 2:
            return "one round has no contraction"
        return "" if np.size(game.x1) % 2 == 0 or not isinstance(self.compressor, Turn) else "an odd size"

    def plain(self, game: Game) -> Any:
        """The rule from rest."""
        return ErrorFeedbackSGD(learning_rate=self.rate(game).eta, compressor=self.compressor)

    def rule(self, game: Game, T: int) -> Any:
        """The rule, in the state that the problem starts from."""
        assert isinstance(game, Problem)
        return Started(self.plain(game), game.start) if game.start else self.plain(game)

    def first(self, game: Problem) -> float:
        """V before the first step."""
        e = game.start.get("e", np.zeros(game.shape))
        return norm2(game.x1 - e) + norm2(e) / self.rate(game).s

    def energy(self, game: Problem) -> Any:
        """V after a step."""
        s = self.rate(game).s

        def energy(r: Round) -> float:
            e = kept_error(r)
            return math.nan if e is None else norm2(r.x_next - e) + norm2(e) / s

        return energy

    def claim_of(self, game: Game) -> float:
        """Rho."""
        return self.rate(game).rho

    def observers(self, game: Game, T: int) -> list[Any]:
        """Every step's ratio."""
        assert isinstance(game, Problem)
        return [Contraction(self.energy(game), self.first(game), self.claim_of(game))]

    def chain(self, trace: Trace, u: Array) -> list[Link]:
        """The worst ratio against rho."""
        worst = trace.observers["Contraction"].worst
        return [Link("worst ratio", worst, ""), Link("C", self.claim_of(trace.game), "the multipliers")]

    def slack(self, trace: Trace) -> Any:
        """As at every step."""
        return 64 * np.size(trace.game.x1) * trace.unit


@dataclass(frozen=True, kw_only=True)
class EF21Rate(FeedbackRate):
    """EF21."""

    id: ClassVar[str] = "tight_rates.ef21"
    statement: ClassVar[str] = "EF21, the same eta: V = |grad f - d|^2 + s |grad f|^2 falls by the same rho"

    def plain(self, game: Game) -> Any:
        """EF21."""
        return EF21(learning_rate=self.rate(game).eta, compressor=self.compressor)

    def first(self, game: Problem) -> float:
        """Known after the first correction of d."""
        return math.nan

    def energy(self, game: Problem) -> Any:
        """V, at the point where d was corrected."""
        s = self.rate(game).s

        def energy(r: Round) -> float:
            if "d" not in r.values:
                return math.nan
            return norm2(r.g - np.asarray(r.values["d"]).astype(r.x.dtype)) + s * norm2(r.g)

        return energy


@dataclass(frozen=True, kw_only=True)
class CompressedRate(FeedbackRate):
    """No feedback."""

    id: ClassVar[str] = "tight_rates.gd"
    statement: ClassVar[str] = (
        "compressed descent, eta = 2 / ((1 + s) L + (1 - s) mu): f - f* falls by ((k - 1) / (k + 1))^2, "
        "k = (L / mu)(1 + s) / (1 - s), smaller than rho"
    )
    source: ClassVar[str] = "de Klerk, Glineur and Taylor 2017 (as recalled); attained here"

    def plain(self, game: Game) -> Any:
        """EF-SGD that keeps nothing."""
        rate = self.rate(game)
        eta = 2 / ((1 + rate.s) * rate.L + (1 - rate.s) * rate.mu)
        return ErrorFeedbackSGD(learning_rate=eta, compressor=self.compressor, error_bits=0)

    def claim_of(self, game: Game) -> float:
        """The better rate."""
        rate = self.rate(game)
        k = rate.L / rate.mu * (1 + rate.s) / (1 - rate.s)
        return ((k - 1) / (k + 1)) ** 2

    def first(self, game: Problem) -> float:
        """f - f*."""
        return float(game.value(game.x1)) - game.least

    def energy(self, game: Problem) -> Any:
        """f - f*."""
        return lambda r: float(game.value(r.x_next)) - game.least


def attaining(bound: FeedbackRate, L: float = 1.0, mu: float = 0.1) -> Problem:
    """The quadratic diag(mu, L) / 2 from the state at which ``bound`` (with a Turn) is attained.

    The step is linear in the state: the start is the largest eigenvector of V after against V before.
    """
    turn = bound.compressor
    assert isinstance(turn, Turn)
    eye, none, A = np.eye(2), np.zeros((2, 2)), np.diag([mu, L])
    R = np.stack([turn.turned(row) for row in eye], 1)
    plain = quadratic([mu, L])
    s, eta = turn.s, float(bound.plain(plain).learning_rate)
    if isinstance(bound, CompressedRate):
        step = eye - eta * (eye - R) @ A
        x = _largest(step.T @ A @ step, A)
        return quadratic([mu, L], x)
    if isinstance(bound, EF21Rate):
        # (x_t, d_t) with d_t corrected at x_t; the slot before that is grad - R^{-1} (grad - d_t).
        slope = A @ np.hstack([eye, -eta * eye])
        gap = R @ (slope - np.hstack([none, eye]))
        here, off = np.hstack([A, none]), np.hstack([A, -eye])
        z = _largest(gap.T @ gap + s * slope.T @ slope, off.T @ off + s * here.T @ here)
        x, d = z[:2], z[2:]
        return quadratic([mu, L], x, {"d": A @ x - np.linalg.solve(R, A @ x - d)})
    p = np.hstack([eta * A, eye])
    e, x_next = R @ p, np.hstack([eye, none]) - (eye - R) @ p
    ahead, behind = x_next - e, np.hstack([eye, -eye])
    after = ahead.T @ ahead + e.T @ e / s
    z = _largest(after, behind.T @ behind + np.diag([0, 0, 1 / s, 1 / s]))
    return quadratic([mu, L], z[:2], {"e": z[2:]})


def _largest(after: Array, before: Array) -> Array:
    """The z that maximises z'(after)z / z'(before)z."""
    root = np.linalg.inv(np.linalg.cholesky(before))
    _, vectors = np.linalg.eigh(root @ after @ root.T)
    return root.T @ vectors[:, -1]


BOUNDS: tuple[Bound, ...] = (FeedbackRate(), EF21Rate(), CompressedRate())
