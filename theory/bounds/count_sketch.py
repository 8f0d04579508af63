r"""AdaGrad with its sums of squares in a count-min sketch: the certificate of SM3, for every hash.

Each counter C_j[b] += sum over rows i with h_j(i) = b of g_i^2 never falls and is at least the true sum of
each of its rows, and so is their minimum v_t(i) = min_j C_j[h_j(i)]. So H_t = diag(sqrt(v_t)) / eta does not
decrease and dominates AdaGrad's: the proof of :mod:`.sm3` holds verbatim, whatever the hash and however the
gradients react to it. With signs (count-sketch) both facts are lost, and with cleaning or a moving average
the first.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ...parts.fixed_hashes import TableHash
from ...rules.count_sketch import CountSketchAdaGrad
from ..chain import Link, SecondMoment
from ..geometry import Array
from ..ledger import Ledger
from ..play import Game, Round, Trace
from . import Bound, MirrorBound


class BucketSums:
    """min over hash rows of an item's bucket sums of squares, from the gradients and the hash alone."""

    def __init__(self, buckets: Array, width: int) -> None:
        self.buckets, self.width = buckets, width
        self.tables: list[Any] = []
        self.nu: Any = 0

    def add(self, g: Array) -> Array:
        """One gradient; the new minimum."""
        square = (g * g).reshape(len(g), -1)
        if not self.tables:
            self.tables = [np.zeros((self.width, square.shape[1]), g.dtype) for _ in self.buckets]
        for table, row in zip(self.tables, self.buckets, strict=True):
            fresh = np.zeros_like(table)
            np.add.at(fresh, row, square)
            table += fresh
        found = [table[row] for table, row in zip(self.tables, self.buckets, strict=True)]
        self.nu = np.minimum.reduce(found).reshape(g.shape)
        return self.nu


class CountMinMoment(SecondMoment):
    """gamma <= v <= the sums of the buckets, to the last bit."""

    def __init__(self, buckets: Array, width: int, conservative: bool) -> None:
        # Conservative update adds in another order: its upper side holds but for rounding, and is left to C.
        super().__init__(upper=None if conservative else BucketSums(buckets, width))
        self.wide = BucketSums(buckets, width)

    def see(self, r: Round) -> None:
        """Compared in the player's dtype, summed in float64 for the bound."""
        super().see(r)
        self.wide.add(r.g)


@dataclass(frozen=True, kw_only=True)
class CountMinAdaGrad(MirrorBound):
    """Every hash; conservative update has smaller estimates, so the same bound."""

    id: ClassVar[str] = "count_sketch.adagrad"
    statement: ClassVar[str] = "eta = D / sqrt 2: R <= sqrt(2) D sum_i sqrt(v_T(i)), v of count-min, any hash"
    source: ClassVar[str] = "proof above"
    errata: ClassVar[str] = "no such bound for signed count-sketch, nor with cleaning"
    norm: ClassVar[str] = "linf"
    corollary: ClassVar[bool] = True
    depth: int = 2
    width: int = 3
    hash_seed: int = 0
    conservative: bool = False

    def buckets(self, game: Game) -> Array:
        """h_j(i): shape [depth, rows]."""
        shape = (self.depth, game.shape[0])
        return np.random.default_rng(self.hash_seed).integers(0, self.width, shape)

    def gate(self, game: Game, T: int) -> str:
        """Rows to hash."""
        return super().gate(game, T) or ("" if game.shape else "a scalar has no rows to hash")

    def rule(self, game: Game, T: int) -> Any:
        """CountSketchAdaGrad with minima and eps = 0."""
        return CountSketchAdaGrad(
            learning_rate=game.domain.diameter("linf") / math.sqrt(2),
            eps=0.0,
            depth=self.depth,
            width=self.width,
            hash=TableHash(self.buckets(game)),
            conservative=self.conservative,
        )

    def observers(self, game: Game, T: int) -> list[Any]:
        """The ledger, and both sides of v."""
        moment = CountMinMoment(self.buckets(game), self.width, self.conservative)
        return [Ledger(game.domain, game.comparators), moment]

    def chain(self, trace: Trace, u: Array) -> list[Link]:
        """R <= R_lin <= A <= B <= certificate <= C."""
        D = trace.game.domain.diameter("linf")
        root = np.sum(np.sqrt(trace.observers["CountMinMoment"].wide.nu))
        certificate = D / math.sqrt(2) * (root + np.sum(np.sqrt(trace.gamma)))
        return [
            *self.head(trace, u),
            self.level_b(trace, D, "linf"),
            Link("certificate", certificate, "gamma <= v, and the sum lemma"),
            Link("C", math.sqrt(2) * D * root, "gamma <= v"),
        ]


BOUNDS: tuple[Bound, ...] = (CountMinAdaGrad(),)
