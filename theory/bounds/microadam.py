r"""MicroAdam: the two per-step lemmas of its analysis, and the condition that its defaults do not meet.

I. Modoranu, M. Safaryan, G. Malinovsky, E. Kurtic, T. Robert, P. Richtarik and D. Alistarh, "MicroAdam:
accurate adaptive optimization with low space overhead and provable convergence", NeurIPS 2024 (assumptions as
recalled; the constants below are re-derived and sharper).

    g~ = C(g + e),   e <- Q(g + e - g~),   ||C(x) - x|| <= q ||x||,   ||Q(x) - x|| <= omega ||x||

gives ||e_{t+1}|| <= q_w (||e_t|| + G) with q_w = (1 + omega) q. If q_w < 1, surely

    (a)  ||e_t|| <= q_w G / (1 - q_w)              the paper's form is 2 q_w G / (1 - q_w^2)
    (b)  ||g~_t|| <= G / (1 - q_w)                 if ||C(x)|| <= ||x||, as for Top-K

and nothing is known otherwise. The default setting, 1 % and 4 bits, has q_w far above 1, so the theorem does
not speak of it. The convergence theorem itself is loose by 50 to 10^5 and could catch nothing; it is not
asserted here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ...parts.compressors import Compressor, TopK
from ...parts.quantize import Quantiser
from ...rules.analysed_microadam import AnalysedMicroAdam
from ..chain import Check, Link, Watch
from ..geometry import Array
from ..play import Game, Round, Trace, play
from . import START, Bound


def length(x: Any) -> float:
    """||x||."""
    return math.sqrt(float(np.sum(np.asarray(x, np.float64) ** 2)))


class Lengths:
    """The largest ||e|| and ||g~||, and the factors of C and Q that were realised.

    ``limit`` follows from the gradients alone: limit <- q_w (limit + ||g||).
    """

    def __init__(self, q: float, omega: float) -> None:
        self.q_w, self.limit = (1 + omega) * q, 0.0
        self.e = self.sent = self.q = self.omega = 0.0
        self.small = Watch("error", "||e'|| <= q_w (||e|| + ||g||)")
        self.short = Watch("sent", "||C(g + e)|| <= ||g + e||")
        self.contracts = Watch("C", "||C(x) - x|| <= q ||x||")
        self.rounds = Watch("Q", "||Q(x) - x|| <= omega ||x||")
        self.allowed = (q, omega)

    def see(self, r: Round) -> None:
        """One round; every length is rounded by n ulp at most."""
        if "g_tilde" not in r.values:
            return
        noise = 8 * np.size(r.x) * r.unit
        e, sent, a, residual = (length(r.values[k]) for k in ("e", "g_tilde", "a", "residual"))
        rounded = np.asarray(r.values["e"], np.float64) - np.asarray(r.values["residual"], np.float64)
        q, omega = (residual / a if a else 0.0), (length(rounded) / residual if residual else 0.0)
        self.e, self.sent = max(self.e, e), max(self.sent, sent)
        self.q, self.omega = max(self.q, q), max(self.omega, omega)
        g = length(r.g)
        self.short.note(r.t, sent - (self.limit + g), noise * (self.limit + g))
        self.limit = (self.q_w + noise) * (self.limit + g)
        self.small.note(r.t, e - self.limit, noise * self.limit)
        self.contracts.note(r.t, q - self.allowed[0], noise)
        self.rounds.note(r.t, omega - self.allowed[1], noise)

    def checks(self) -> list[Check]:
        """Four."""
        return [w.check() for w in (self.small, self.short, self.contracts, self.rounds)]


@dataclass(frozen=True, kw_only=True)
class ErrorLength(Bound):
    """Lemma (a), and its condition, for a setting that meets it."""

    id: ClassVar[str] = "microadam.error"
    statement: ClassVar[str] = "q_w = (1 + omega) q < 1, ||g|| <= G: ||e_t|| <= q_w G / (1 - q_w), surely"
    source: ClassVar[str] = "proof above; Modoranu et al. 2024 use 2 q_w G / (1 - q_w^2) (as recalled)"
    errata: ClassVar[str] = "the condition is on (1 + omega) q; a printed form has (1 - omega) q"
    kind: ClassVar[str] = "formula"
    D: ClassVar[str] = START
    density: float = 0.5
    bits: int = 8
    bucket: int = 20
    rate: float = 0.1

    @property
    def compressor(self) -> Compressor:
        """Top-K in blocks of the paper's size."""
        return TopK(density=self.density, block=4096)

    def rule(self, game: Game, T: int) -> Any:
        """The analysed algorithm with its unbiased quantiser."""
        quantiser = Quantiser(self.bits, self.bucket, "stochastic", None)
        return AnalysedMicroAdam(
            learning_rate=self.rate, eps=1.0, compressor=self.compressor, quantiser=quantiser
        )

    def constants(self, game: Game) -> dict[str, float]:
        """q, omega and q_w: worst cases."""
        found: dict[str, float] = self.rule(game, 1).constants(game.shape)
        return found

    def gate(self, game: Game, T: int) -> str:
        """The condition, with its figure."""
        if not game.shape:
            return "a scalar has nothing to compress"
        found = self.constants(game)
        if not found["q_w"] < 1:
            return (
                f"(1 + omega) q = {found['q_w']:.4g} is not below 1 "
                f"(q = {found['q']:.4g}, omega = {found['omega']:.4g})"
            )
        return "G is not declared" if math.isinf(game.G) else ""

    def observers(self, game: Game, T: int) -> list[Any]:
        """Lengths."""
        found = self.constants(game)
        return [Lengths(found["q"], found["omega"])]

    def chain(self, trace: Trace, u: Array) -> list[Link]:
        """max ||e|| <= from the gradients <= C <= the paper's form."""
        G, q_w = trace.game.G, self.constants(trace.game)["q_w"]
        seen = trace.observers["Lengths"]
        return [
            Link("max ||e||", seen.e, ""),
            Link("C", q_w * G / (1 - q_w), "||e'|| <= q_w (||e|| + G)"),
            Link("paper", 2 * q_w * G / (1 - q_w**2), "1 + q_w <= 2"),
        ]


@dataclass(frozen=True, kw_only=True)
class SentLength(ErrorLength):
    """Lemma (b)."""

    id: ClassVar[str] = "microadam.sent"
    statement: ClassVar[str] = "q_w < 1, Top-K: ||g~_t|| <= G / (1 - q_w), surely"
    source: ClassVar[str] = (
        "proof above; Modoranu et al. 2024 use 4 (1 + q_w^2)^3 G^2 / (1 - q_w^2)^2 for the square (as "
        "recalled)"
    )

    def chain(self, trace: Trace, u: Array) -> list[Link]:
        """max ||g~|| <= C <= the paper's form."""
        G, q_w = trace.game.G, self.constants(trace.game)["q_w"]
        paper = 2 * (1 + q_w**2) ** 1.5 * G / (1 - q_w**2)
        return [
            Link("max ||g~||", trace.observers["Lengths"].sent, ""),
            Link("C", G / (1 - q_w), "||C(g + e)|| <= ||g + e|| <= G + q_w G / (1 - q_w)"),
            Link("paper", paper, "1 + q_w <= 2 (1 + q_w^2)^(3/2)"),
        ]


@dataclass(frozen=True, kw_only=True)
class DefaultSetting(ErrorLength):
    """1 % of each block of 4096, 4 bits, buckets of 64: not covered, and this is said with the figure."""

    id: ClassVar[str] = "microadam.default"
    statement: ClassVar[str] = (
        "the same for MicroAdam's defaults: not applicable, (1 + omega) q is not below 1"
    )
    density: float = 0.01
    bits: int = 4
    bucket: int = 64


@dataclass(frozen=True)
class Realised:
    """What a run had: the factors of C and Q at their worst, and q_w of both."""

    q: float
    omega: float

    @property
    def q_w(self) -> float:
        """(1 + omega) q."""
        return (1 + self.omega) * self.q


def realised(bound: ErrorLength, game: Game, T: int) -> Realised:
    """The factors of C and Q that a run meets, gate or no gate.

    Examples
    --------
    >>> from memopt_ref.theory import games
    >>> found = realised(ErrorLength(), games.rademacher((20,)), 50)
    >>> found.q_w < ErrorLength().constants(games.rademacher((20,)))["q_w"] < 1
    True
    """
    trace = play(bound.rule(game, T), game, T, observers=bound.observers(game, T))
    seen = trace.observers["Lengths"]
    return Realised(seen.q, seen.omega)


BOUNDS: tuple[Bound, ...] = (ErrorLength(), SentLength(), DefaultSetting())
