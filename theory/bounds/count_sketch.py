r"""AdaGrad with its sums of squares in a count-min sketch: the certificate of SM3, for every hash.

Each counter C_j[b] += sum over rows i with h_j(i) = b of g_i^2 never falls and is at least the true sum of
each of its rows, and so is their minimum v_t(i) = min_j C_j[h_j(i)]. So H_t = diag(sqrt(v_t)) / eta does not
decrease and dominates AdaGrad's: the proof of :mod:`.sm3` holds verbatim, whatever the hash and however the
gradients react to it. With signs (count-sketch) both facts are lost, and with cleaning or a moving average
the first.

R. Spring, A. Kyrillidis, V. Mohan and A. Shrivastava, "Compressing gradient optimizers via count-sketches",
ICML 2019, Theorem 5.1, is about RMSProp with v in such a sketch. Its Lemma B.2 subtracts an upper bound as if
it were an equality, and its size of v leaves v itself out: both are kept here as false statements. What holds
for every hash, with *global* decay, is :class:`OneStep`. Write n_b for the items in a bucket, nbar = max_i
min_j n_{j, h_j(i)}, kappa = max n_b - 1 for one row and depth times that for more, and C_{t,i} for the
squares that share item i's bucket in the row that gave its minimum at t - 1. Then

    (a)  v_t >= beta v_{t-1} + (1 - beta) g_t^2
    (b)  v_t - beta v_{t-1} <= (1 - beta)(g_t^2 + C_t)
    (c)  sum_i C_{t,i} <= kappa |g_t|^2
    (d)  v_t <= nbar max g^2

and smoothness along the step, with |g| |1/(sqrt(v_t) + eps) - 1/D| <= sqrt(1 - beta)(g^2 + C)/(eps D) from
(a) and (b), gives the inequality of one step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ...parts.fixed_hashes import TableHash
from ...rules.count_sketch import CountSketchAdaGrad
from ...rules.count_sketch_adam import CountSketchRMSProp
from ..chain import Check, Link, SecondMoment, Watch
from ..geometry import Array
from ..ledger import Ledger
from ..play import Game, Round, Trace
from ..problems import Problem
from . import START, Bound, MirrorBound


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


def table_hash(depth: int, width: int, rows: int, seed: int) -> Array:
    """h_j(i) at random: shape [depth, rows]."""
    return np.random.default_rng(seed).integers(0, width, (depth, rows))


def loads(buckets: Array) -> tuple[int, int]:
    """Nbar and kappa of a hash.

    Examples
    --------
    >>> loads(np.array([[0, 0, 1]])), loads(np.array([[0, 1, 2]]))
    ((2, 1), (1, 0))
    """
    shared = np.array([np.bincount(row)[row] for row in buckets])
    largest, depth = int(np.max(shared)), len(buckets)
    return int(np.max(np.min(shared, axis=0))), (largest - 1) * (1 if depth == 1 else depth)


class EveryPattern:
    """One step from each state that is met, for all 2^d signs of the noise: the mean over them is exact.

    The patterns are columns of one tensor, which a sketch of rows hashes alike.
    """

    def __init__(self, bound: OneStep, problem: Problem) -> None:
        self.bound, self.problem = bound, problem
        d = problem.shape[0]
        bits = (np.arange(2**d) >> np.arange(d)[:, None]) & 1
        self.signs = 1.0 - 2.0 * bits
        self.buckets = table_hash(bound.depth, bound.width, d, bound.hash_seed)
        self.state: dict[str, Any] | None = None
        self.slopes = 0.0
        self.below = Watch("below", "(a) v_t >= beta v_{t-1} + (1 - beta) g^2")
        self.above = Watch("above", "(b) v_t - beta v_{t-1} <= (1 - beta)(g^2 + C)")
        self.step = Watch("step", "the inequality of one step, in mean over all signs")

    def see(self, r: Round) -> None:
        """Branch off, and go on with the signs that were drawn; a black box cannot be branched."""
        if "v" not in r.values or "V" not in r.values:
            self.slopes = math.nan
            return
        if self.state is None:
            self.state = r.player.init_leaf(r.x)
        slope = self.problem.slope(r.x)
        self.slopes += float(np.sum(slope**2))
        self._branch(r, slope)
        self.state = {name: r.values[name] for name in self.state}

    def _branch(self, r: Round, slope: Array) -> None:
        assert self.state is not None
        bound, problem, n = self.bound, self.problem, self.signs.shape[1]
        sigma = np.broadcast_to(problem.sigma, slope.shape)
        g = slope[:, None] + sigma[:, None] * self.signs
        table = np.asarray(self.state["V"])
        columns = {"V": np.repeat(table[:, :, None], n, axis=2)}
        w = np.repeat(r.x[:, None], n, axis=1)
        values = r.player.values(w, g, {**self.state, **columns})
        held = np.stack([table[j][row] for j, row in enumerate(self.buckets)])
        source, before = np.argmin(held, axis=0), np.min(held, axis=0)
        square, keep, fresh = g * g, bound.beta * before[:, None], 1 - bound.beta
        together = np.stack([row[:, None] == row[None, :] for row in self.buckets])
        mates = together[source, np.arange(len(slope))] & ~np.eye(len(slope), dtype=bool)
        C, v = mates @ square, np.asarray(values["v"])
        noise = 16 * len(slope) * r.unit
        self.below.note(r.t, np.max(keep + fresh * square - v), noise * np.max(v))
        self.above.note(r.t, np.max(v - keep - fresh * (square + C)), noise * np.max(v))
        here, after = float(problem.value(r.x)), float(np.mean(problem.value(np.asarray(values["w"]))))
        eta, eps, L = bound.eta, bound.eps, problem.smoothness
        D = np.sqrt(np.maximum(keep[:, 0], 0)) + eps
        slip = eta * problem.G_inf * math.sqrt(fresh) / eps
        gain = eta / 2 * np.sum(slope**2 / D)
        cost = (slip + L * eta**2 / (2 * eps)) * np.sum(sigma**2 / D)
        mixed = slip * np.sum(np.mean(C, axis=1) / D)
        size = 1 + abs(here)
        self.step.note(r.t, after - (here - gain + cost + mixed), noise * size)

    def checks(self) -> list[Check]:
        """Two lemmas and the step; (c) and (d) are facts about the hash alone."""
        return [self.below.check(), self.above.check(), self.step.check()]


@dataclass(frozen=True, kw_only=True)
class OneStep(Bound):
    """RMSProp on a count-min sketch with global decay: every hash, no probability, no independence."""

    id: ClassVar[str] = "count_sketch.step"
    statement: ClassVar[str] = (
        "f L-smooth, |g_i| <= G, eta <= eps / (2 L), sqrt(1 - b) <= eps / (4 G), D = sqrt(b v_{t-1}) + eps: "
        "E f(x_{t+1}) <= f(x_t) - eta/2 sum f_i'^2 / D + (eta G sqrt(1 - b) / eps + L eta^2 / (2 eps)) "
        "sum s_i^2 / D + (eta G sqrt(1 - b) / eps) sum E C_i / D at every step, and its sum over the steps"
    )
    source: ClassVar[str] = "proof above; replaces Spring et al. 2019, Theorem 5.1"
    errata: ClassVar[str] = "see count_sketch.lemma_b2 and count_sketch.size; lazy decay is not covered"
    kind: ClassVar[str] = "formula"
    D: ClassVar[str] = START
    depth: int = 2
    width: int = 3
    hash_seed: int = 0
    beta: float = 0.992
    eps: float = 0.5

    @property
    def eta(self) -> float:
        """Half of what L = 1 allows."""
        return self.eps / 4

    def gate(self, game: Game, T: int) -> str:
        """A smooth problem whose noise is a sign on every entry, and the conditions on declared numbers."""
        if not isinstance(game, Problem) or math.isinf(game.G_inf) or not np.any(game.sigma):
            return "no declared problem with signs for noise"
        L = game.smoothness
        good = self.eta <= self.eps / (2 * L) and math.sqrt(1 - self.beta) <= self.eps / (4 * game.G_inf)
        return "" if good else "the conditions on eta and beta do not hold"

    def rule(self, game: Game, T: int) -> Any:
        """Count-min, global decay, no bias correction."""
        return CountSketchRMSProp(
            learning_rate=self.eta,
            beta2=self.beta,
            eps=self.eps,
            bias_correction="none",
            decay="global",
            depth=self.depth,
            width=self.width,
            hash=TableHash(table_hash(self.depth, self.width, game.shape[0], self.hash_seed)),
        )

    def observers(self, game: Game, T: int) -> list[Any]:
        """All signs of every round."""
        assert isinstance(game, Problem)
        return [EveryPattern(self, game)]

    def chain(self, trace: Trace, u: Array) -> list[Link]:
        """The sum over the steps, with (c) and (d); in mean over the noise."""
        game, T = trace.game, trace.T
        assert isinstance(game, Problem)
        nbar, kappa = loads(trace.observers["EveryPattern"].buckets)
        L, sigma2 = game.smoothness, float(np.sum(np.broadcast_to(game.sigma, game.shape) ** 2))
        slip = game.G_inf * math.sqrt(1 - self.beta) / self.eps**2
        G2 = game.second_moment - sigma2
        C = (float(game.value(game.x1)) - game.least) / (self.eta * T)
        C += (slip + L * self.eta / (2 * self.eps**2)) * sigma2 + slip * kappa * (sigma2 + G2)
        C *= 2 * (math.sqrt(self.beta * nbar) * game.G_inf + self.eps)
        left = Link("mean |grad f|^2", trace.observers["EveryPattern"].slopes / T, "")
        return [left, Link("C", C, "the steps summed, eps <= D <= sqrt(beta nbar) max g + eps")]


class Excess:
    """How often v_t - beta v_{t-1} is beyond (1 - beta)(g^2 + (e / w) |g^2|_1), and the largest v."""

    def __init__(self, beta: float, width: int) -> None:
        self.beta, self.width = beta, width
        self.before: Any = 0.0
        self.beyond = self.count = 0
        self.largest = 0.0

    def see(self, r: Round) -> None:
        """One round; an excess below 1e-9 could be rounding."""
        if "v" not in r.values:
            return
        v, square = np.asarray(r.values["v"], np.float64), r.g * r.g
        limit = (1 - self.beta) * (square + math.e / self.width * np.sum(square))
        self.beyond += int(np.sum(v - self.beta * self.before > limit + 1e-9))
        self.count += v.size
        self.largest, self.before = max(self.largest, float(np.max(v))), v

    def checks(self) -> list[Check]:
        """None."""
        return []


@dataclass(frozen=True, kw_only=True)
class LemmaB2(Bound):
    """The row of the minimum changes between the steps, so an increment can be larger than any one row's."""

    id: ClassVar[str] = "count_sketch.lemma_b2"
    statement: ClassVar[str] = (
        "FALSE: v_t - b v_{t-1} <= (1 - b)(g_t^2 + (e / w) |g_t^2|_1) but with probability e^-depth"
    )
    source: ClassVar[str] = "Spring et al. 2019, Lemma B.2 (slips of print mended)"
    errata: ClassVar[str] = "subtracts the upper bound of v_{t-1} as if it were v_{t-1}"
    known_false: ClassVar[bool] = True
    kind: ClassVar[str] = "formula"
    D: ClassVar[str] = START
    depth: int = 5
    width: int = 64
    beta: float = 0.9
    hash_seed: int = 0

    def gate(self, game: Game, T: int) -> str:
        """Rows to hash."""
        return "" if game.shape else "a scalar has no rows to hash"

    def rule(self, game: Game, T: int) -> Any:
        """Count-min with global decay."""
        buckets = table_hash(self.depth, self.width, game.shape[0], self.hash_seed)
        return CountSketchRMSProp(
            beta2=self.beta,
            bias_correction="none",
            decay="global",
            depth=self.depth,
            width=self.width,
            hash=TableHash(buckets),
        )

    def observers(self, game: Game, T: int) -> list[Any]:
        """Increments of v."""
        return [Excess(self.beta, self.width)]

    def chain(self, trace: Trace, u: Array) -> list[Link]:
        """The part of (item, round) beyond, and the probability claimed."""
        seen = trace.observers["Excess"]
        claimed = Link("C", math.exp(-self.depth), "Markov in each row, as if one row gave both minima")
        return [Link("fraction beyond", seen.beyond / max(seen.count, 1), ""), claimed]


@dataclass(frozen=True, kw_only=True)
class SizeOfV(LemmaB2):
    """With a wide sketch the claimed size of v is below v itself."""

    id: ClassVar[str] = "count_sketch.size"
    statement: ClassVar[str] = "FALSE: v_t <= (e / w) d G^2"
    source: ClassVar[str] = "Spring et al. 2019, proof of Theorem 5.1"
    errata: ClassVar[str] = (
        "what holds is v_t <= (1 + e d / w) max g^2 (with probability), or nbar max g^2 (always)"
    )

    def chain(self, trace: Trace, u: Array) -> list[Link]:
        """The largest v."""
        G2 = float(trace.G_inf) ** 2
        claimed = Link("C", math.e / self.width * np.size(trace.game.x1) * G2, "v itself left out")
        return [Link("max v", trace.observers["Excess"].largest, ""), claimed]


BOUNDS: tuple[Bound, ...] = (CountMinAdaGrad(), OneStep(), LemmaB2(), SizeOfV())
