r"""Shampoo: one preconditioner an axis.

V. Gupta, T. Koren and Y. Singer, "Shampoo: preconditioned stochastic tensor optimization", ICML 2018, Theorem
7 (as recalled; re-derived). With H_a = eps I + sum mat_a(G) mat_a(G)', k axes and gradients of rank at most r
in every direction,

    eps I + (1/r) sum vec(G) vec(G)'  <=  (H_1 (x) ... (x) H_k)^{1/k}        (the paper's lemma, in the
    Loewner order)

so with M_t the right side's root, H_t = M_t / eta does not decrease, and sum g' M_t^{-1} g <= r sum g' (eps I
+ sum g g')^{-1/2} g / sqrt(r) ... <= 2 r tr M_T. Hence B <= (D^2 / (2 eta) + eta r) tr M_T, and tr M_T is a
product of traces. The lemma itself is checked on the player's metric.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ...rules.shampoo import Shampoo
from ..chain import Check, Link, Watch
from ..geometry import Array
from ..ledger import Ledger, dense
from ..play import Game, Round, Trace
from . import Bound, MirrorBound


class AxisSums:
    """sum mat_a(G) mat_a(G)' for every axis, from the gradients alone."""

    def __init__(self) -> None:
        self.sums: list[Any] = []

    def see(self, r: Round) -> None:
        """Add one."""
        unfolded = [np.moveaxis(r.g, a, 0).reshape(n, -1) for a, n in enumerate(r.g.shape)]
        outer = [x @ x.T for x in unfolded]
        self.sums = [s + o for s, o in zip(self.sums, outer, strict=True)] if self.sums else outer

    def checks(self) -> list[Check]:
        """None: it is no part of the player."""
        return []

    def trace_product(self, eps: float) -> float:
        """The product over axes of tr (eps I + sum)^{1/2k}."""
        power = 1.0 / (2 * len(self.sums))
        spectra = (np.maximum(np.linalg.eigvalsh(s), 0.0) + eps for s in self.sums)
        return math.prod(float(np.sum(d**power)) for d in spectra)


class Loewner:
    """(eta H_t)^2 >= eps I + (1/r) sum vec(G) vec(G)', at rounds 1, 2, 4, 8, ..., for small tensors."""

    LARGEST = 64

    def __init__(self, eps: float, r: float) -> None:
        self.eps, self.r = eps, r
        self.outer: Any = 0
        self.watch = Watch("Loewner", "eps I + (1/r) sum vec(G) vec(G)' <= (H_1 x ... x H_k)^{1/k}")

    def see(self, r: Round) -> None:
        """Add one; compare at powers of two."""
        n = r.g.size
        if n > self.LARGEST or r.metric is None:
            return
        g = np.ravel(r.g)
        self.outer = self.outer + np.outer(g, g)
        if r.t & (r.t - 1):
            return
        root = dense(r.metric) * r.player.learning_rate
        square = root @ root
        lowest = np.linalg.eigvalsh(square - self.eps * np.eye(n) - self.outer / self.r)[0]
        top = np.linalg.norm(square, 2)
        # Products and the eigenvalues of n x n matrices err by a few n ulp of the norm.
        self.watch.note(r.t, -lowest / top, 64 * n * r.unit)

    def checks(self) -> list[Check]:
        """One."""
        return [self.watch.check()]


@dataclass(frozen=True, kw_only=True)
class ShampooEta(MirrorBound):
    """Every rate, any order."""

    id: ClassVar[str] = "shampoo.eta"
    statement: ClassVar[str] = "R <= (D^2 / (2 eta) + eta r) prod_a tr (H_a^{1/2k}), D Frobenius, any eta"
    source: ClassVar[str] = (
        "Gupta, Koren and Singer 2018, Theorem 7 and its tensor form (as recalled); proof above"
    )
    eta: float | None = None
    eps: float = 1e-6

    def _eta(self, game: Game) -> float:
        D = game.domain.diameter("l2")
        return D / math.sqrt(2 * self._rank(game)) if self.eta is None else self.eta

    def _rank(self, game: Game) -> int:
        return 1 if len(game.shape) == 1 else game.rank or 1

    def gate(self, game: Game, T: int) -> str:
        """The rank must be declared."""
        if len(game.shape) > 1 and game.rank is None:
            return "the rank of the gradients is not declared"
        return super().gate(game, T) or ("a scalar has no axis" if not game.shape else "")

    def rule(self, game: Game, T: int) -> Any:
        """Shampoo without momentum, roots at every step."""
        return Shampoo(learning_rate=self._eta(game), eps=self.eps)

    def observers(self, game: Game, T: int) -> list[Any]:
        """The ledger, the axes' sums, and the lemma."""
        return [Ledger(game.domain, game.comparators), AxisSums(), Loewner(self.eps, self._rank(game))]

    def chain(self, trace: Trace, u: Array) -> list[Link]:
        """R <= R_lin <= A <= B <= C."""
        D = trace.game.domain.diameter("l2")
        C = self.factor(trace.game) * trace.observers["AxisSums"].trace_product(self.eps)
        lemma = "the Loewner lemma, and sum g' M_t^{-1} g <= 2 r tr M_T"
        return [*self.head(trace, u), self.level_b(trace, D, "l2"), Link("C", C, lemma)]

    def factor(self, game: Game) -> float:
        """What multiplies the traces."""
        D, eta = game.domain.diameter("l2"), self._eta(game)
        return D * D / (2 * eta) + eta * self._rank(game)


@dataclass(frozen=True, kw_only=True)
class ShampooTuned(ShampooEta):
    """Its best rate."""

    id: ClassVar[str] = "shampoo.tuned"
    statement: ClassVar[str] = "eta = D / sqrt(2 r): R <= sqrt(2 r) D prod_a tr (H_a^{1/2k})"
    corollary: ClassVar[bool] = True

    def factor(self, game: Game) -> float:
        """Sqrt(2 r) D."""
        return math.sqrt(2 * self._rank(game)) * game.domain.diameter("l2")


BOUNDS: tuple[Bound, ...] = (ShampooEta(), ShampooTuned())
