r"""SM3-I and SM3-II over any cover.

R. Anil, V. Gupta, T. Koren and Y. Singer, "Memory-efficient adaptive optimization", NeurIPS 2019, Proposition
1 (its constant 2 as recalled).

H_t = diag(sqrt(nu_t)) / eta does not decrease (A <= B), and gamma_t <= nu_t, so sum g_t^2 / sqrt(nu_t) <= sum
g_t^2 / sqrt(gamma_t) <= 2 sqrt(gamma_T): the certificate. Then gamma <= nu, and nu' <= nu. The estimates in C
are summed here from the gradients and the members of the cover's sets, not taken from the player.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar

import numpy as np

from ...parts.covers import AxisCover, Cover
from ...rules.sm3 import SM3
from ..chain import Link, SecondMoment
from ..geometry import Array
from ..ledger import Ledger
from ..play import Game, Round, Trace
from . import Bound, MirrorBound


class CoverSums:
    """nu of SM3-I and SM3-II, from the gradients and the members of each set."""

    def __init__(self, cover: Cover, shape: tuple[int, ...]) -> None:
        sets = cover.members(shape)
        self.shape = shape
        self.members = np.concatenate(sets)
        self.starts = np.cumsum([0] + [len(s) for s in sets])[:-1]
        owners = np.repeat(np.arange(len(sets)), [len(s) for s in sets])
        order = np.argsort(self.members, kind="stable")
        self.owners = owners[order]
        self.firsts = np.searchsorted(self.members[order], np.arange(prod(shape)))
        self.mu_i: Any = 0
        self.mu_ii: Any = np.zeros(len(sets))
        self.nu: dict[str, Any] = {"I": np.zeros(shape), "II": np.zeros(shape)}

    def tops(self, x: Array) -> Array:
        """The largest entry of every set."""
        return np.maximum.reduceat(np.ravel(x)[self.members], self.starts)

    def least(self, mu: Array) -> Array:
        """The least accumulator over the sets of every entry."""
        return np.minimum.reduceat(mu[self.owners], self.firsts).reshape(self.shape)

    def add(self, g: Array) -> Array:
        """One gradient; the new nu of SM3-I."""
        square = g * g
        self.mu_i = self.mu_i + self.tops(square)
        self.nu["I"] = self.least(self.mu_i)
        self.nu["II"] = self.least(self.mu_ii.astype(square.dtype)) + square
        self.mu_ii = self.tops(self.nu["II"])
        return self.nu["I"]


class SM3Moment(SecondMoment):
    """gamma <= nu <= min over the sets of sum of max g^2, to the last bit."""

    def __init__(self, cover: Cover, shape: tuple[int, ...]) -> None:
        super().__init__(upper=CoverSums(cover, shape))
        self.wide = CoverSums(cover, shape)
        self.narrow = False

    def see(self, r: Round) -> None:
        """Compared in the player's dtype, summed in float64 for the bound."""
        super().see(r)
        # A black box shows nothing to compare: the bound's own sums are all that is left.
        self.narrow = self.name not in r.values or np.asarray(r.values[self.name]).dtype != r.g.dtype
        if self.narrow:
            self.wide.add(r.g)

    @property
    def nu(self) -> dict[str, Any]:
        """Of both variants, from the gradients."""
        found: dict[str, Any] = (self.wide if self.narrow else self.upper).nu
        return found


@dataclass(frozen=True, kw_only=True)
class SM3II(MirrorBound):
    """SM3-II with the paper's rate; its estimates are the tighter ones."""

    id: ClassVar[str] = "sm3.II"
    statement: ClassVar[str] = "eta = D: R <= 3/2 D sum_i sqrt(nu'_T(i)), nu' of SM3-II"
    source: ClassVar[str] = "Anil et al. 2019, Proposition 1; proof above"
    errata: ClassVar[str] = "the paper has 2 D and nu of SM3-I: the last link"
    norm: ClassVar[str] = "linf"
    corollary: ClassVar[bool] = True
    variant: ClassVar[str] = "II"
    cover: Cover = AxisCover()
    eta: float | None = None

    def _eta(self, game: Game) -> float:
        return game.domain.diameter("linf") if self.eta is None else self.eta

    def rule(self, game: Game, T: int) -> Any:
        """SM3 of this variant, without momentum."""
        return SM3(learning_rate=self._eta(game), variant=self.variant, cover=self.cover)

    def observers(self, game: Game, T: int) -> list[Any]:
        """The ledger, and both sides of nu."""
        return [Ledger(game.domain, game.comparators), SM3Moment(self.cover, game.shape)]

    def chain(self, trace: Trace, u: Array) -> list[Link]:
        """R <= R_lin <= A <= B <= certificate <= C <= paper."""
        eta, D = self._eta(trace.game), trace.game.domain.diameter("linf")
        nu = trace.observers["SM3Moment"].nu
        root, gamma = np.sum(np.sqrt(nu[self.variant])), np.sum(np.sqrt(trace.gamma))
        certificate = D * D / (2 * eta) * root + eta * gamma
        C = (D * D / (2 * eta) + eta) * root
        paper = max(2.0 * D, D * D / (2 * eta) + eta) * np.sum(np.sqrt(nu["I"]))
        return [
            *self.head(trace, u),
            self.level_b(trace, D, "linf"),
            Link("certificate", certificate, "gamma <= nu, and the sum lemma"),
            Link("C", C, "gamma <= nu"),
            Link("paper", paper, "nu' <= nu, and 3/2 <= 2"),
        ]


@dataclass(frozen=True, kw_only=True)
class SM3I(SM3II):
    """SM3-I with the paper's rate: estimates in closed form."""

    id: ClassVar[str] = "sm3.I"
    statement: ClassVar[str] = (
        "eta = D: R <= 3/2 D sum_i sqrt(min_{r: i in S_r} sum_t max_{j in S_r} g_t(j)^2)"
    )
    variant: ClassVar[str] = "I"


@dataclass(frozen=True, kw_only=True)
class SM3IIEta(SM3II):
    """Every rate (by default the best one, D / sqrt 2)."""

    id: ClassVar[str] = "sm3.II.eta"
    statement: ClassVar[str] = "R <= (D^2 / (2 eta) + eta) sum_i sqrt(nu'_T(i)), any eta"
    corollary: ClassVar[bool] = False

    def _eta(self, game: Game) -> float:
        return game.domain.diameter("linf") / 2**0.5 if self.eta is None else self.eta


@dataclass(frozen=True, kw_only=True)
class SM3IEta(SM3IIEta):
    """Every rate, SM3-I."""

    id: ClassVar[str] = "sm3.I.eta"
    statement: ClassVar[str] = "R <= (D^2 / (2 eta) + eta) sum_i sqrt(nu_T(i)), any eta"
    variant: ClassVar[str] = "I"


BOUNDS: tuple[Bound, ...] = (SM3I(), SM3II(), SM3IEta(), SM3IIEta())

__all__ = ["BOUNDS", "SM3I", "SM3II", "CoverSums", "SM3IEta", "SM3IIEta", "SM3Moment"]
