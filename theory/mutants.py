"""Wrong rules that claim a bound they have no right to, and what catches each.

A mutant is a play: a rule (mostly the library's own with another number), options, a game on which the
*ratio* exceeds 1, and the link of the proof that breaks on any dull game. The ratio is black box; the links
need the rule's metric and no adversary. Honest negatives, which no ratio here sees, are listed at the end.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..parts.compressors import TopK
from ..parts.fixed_hashes import TableHash
from ..rules.adam import Adam
from ..rules.rmsprop import RMSProp
from ..rules.sgd import SGD
from ..schedules import InverseSqrt, InverseTime
from . import games, problems, wrong_rules, wrong_statements
from .bounds import Bound, get
from .bounds.adagrad import Diagonal
from .bounds.amsgrad import ConstantBeta, Scheduled
from .bounds.count_sketch import CountMinAdaGrad
from .bounds.error_feedback import TopKTuned
from .bounds.tight_rates import CompressedRate, EF21Rate, FeedbackRate, attaining
from .geometry import L2Ball
from .play import Game
from .players import FollowTheLeader, Hedge
from .problems import Turn
from .verify import VIOLATED, Record, verify

Make = Callable[[Bound, Game, int], Any]
NewGame = Callable[[], Game]

#: Rounds of a dull game.
DULL_ROUNDS = 300


@dataclass(frozen=True, eq=False)
class Mutant:
    """One wrong play.

    ``ratio`` is what ``player`` reaches on ``game`` after ``T`` rounds (None: catches nothing), ``correct``
    what the bound's own rule reaches there, ``link`` the first words of what breaks on ``dull``.
    """

    id: str
    title: str
    bound: Bound
    player: Make
    game: NewGame
    T: int
    ratio: float | None
    correct: float | None
    dull: NewGame
    link: str
    norm: str = "metric"
    rounds: int = DULL_ROUNDS

    def attack(self) -> Record:
        """The mutant on its sharp game."""
        return self._play(self.game(), self.T)

    def on_dull(self) -> Record:
        """The mutant on a dull game, where only links can catch it."""
        return self._play(self.dull(), self.rounds)

    def _play(self, game: Game, T: int) -> Record:
        return verify(self.bound, game, T, self.player(self.bound, game, T), norm=self.norm)

    def innocent(self) -> Record:
        """The bound's own rule on the sharp game."""
        return verify(self.bound, self.game(), self.T)


# Players


def own(**changes: Any) -> Make:
    """The bound's own rule, with some hyper-parameters changed."""
    return lambda bound, game, T: bound.rule(game, T).replace(**changes)


def rate(factor: float) -> Make:
    """The bound's own rule with its rate times ``factor``."""

    def make(bound: Bound, game: Game, T: int) -> Any:
        rule = bound.rule(game, T)
        return rule.replace(learning_rate=factor * rule.learning_rate)

    return make


def in_class(kind: type) -> Make:
    """The bound's own numbers in another class."""

    def make(bound: Bound, game: Game, T: int) -> Any:
        rule = bound.rule(game, T)
        return kind(**{f.name: getattr(rule, f.name) for f in dataclasses.fields(rule)})

    return make


def _moving_average(bound: Bound, game: Game, T: int) -> Any:
    return RMSProp(learning_rate=bound.rule(game, T).learning_rate, beta2=0.9, eps=0.0)


def _adam(bound: Bound, game: Game, T: int) -> Any:
    return Adam(learning_rate=InverseSqrt(0.5), beta1=0.0, beta2=0.1, eps=0.0, bias_correction="none")


# Dull games


def signs() -> Game:
    """Random signs in one dimension."""
    return games.rademacher((1,), seed=1)


def disc() -> Game:
    """Normal gradients on a disc."""
    return games.gaussian((2,), seed=3, domain=L2Ball(1.0, (2,)))


def matrix() -> Game:
    """A matrix, half of whose entries have a random sign in each round."""
    return games.sparse_iid(5, 4, 0.5, seed=2)


def direction() -> Game:
    """One rank-1 direction on the Frobenius ball."""
    return games.fixed_direction(4, 3)


# The table


def _of_ogd() -> Iterator[Mutant]:
    rows = [(2.0, 64, 4, 1.25), (0.5, 64, 16, 1.25), (4.0, 64, 2, 2.125), (0.25, 64, 32, 2.125)]
    for factor, T, m, reached in [*rows, (1.1, 1024, 29, 1.0041)]:
        name, bound = f"ogd x{factor:g}", get("ogd.tuned")
        game = _later(games.zigzag_run, T - m, m)
        yield Mutant(
            name, "wrong step", bound, rate(factor), game, T, reached, None, signs, "B <= C: |g_t| <= G"
        )
    name, bound, game, link = "sc-ogd", get("ogd.sc"), games.opposite_targets, "monotone"
    slow: Make = lambda bound, game, T: SGD(learning_rate=InverseSqrt(1.0 / game.mu))  # noqa: E731
    yield Mutant(f"{name} sqrt", "1/sqrt t for 1/t", bound, slow, game, 10_000, 5.299, 0.299, game, link)
    for factor, reached in ((1.1, 1.0741), (2.0, 1.6889)):
        name, bowls, long = f"sc-ogd x{factor:g}", games.leading_bowls, _with(InverseTime(factor, 1.0))
        yield Mutant(name, "wrong step", bound, long, bowls, 100, reached, 1.0, game, "monotone")
    name = "sc-ogd"
    fixed: Make = lambda bound, game, T: SGD(learning_rate=0.5)  # noqa: E731
    yield Mutant(f"{name} constant", "1/2 for 1/t", bound, fixed, game, 10_000, 198.65, 0.299, game, link)


def _with(rate: Any) -> Make:
    return lambda bound, game, T: SGD(learning_rate=rate)


def _later(make: Callable[..., Game], *arguments: Any) -> NewGame:
    return lambda: make(*arguments)


def _of_adagrad() -> Iterator[Mutant]:
    mirror, full = get("adagrad.mirror"), get("adagrad.full")
    double, half = _later(games.witness, "double"), _later(games.witness, "half")
    growing = [_later(games.zigzag_run, 1000, m, 1.02, 0.1 * 1.02**1000) for m in (16, 32)]
    steps = [
        ("adagrad x4", 4.0, growing[0], 1016, 2.0198, None),
        ("adagrad x2", 2.0, growing[1], 1032, 1.0691, None),
        ("adagrad x2 short", 2.0, double, 15, 1.0160, 0.5117),
        ("adagrad x1/2", 0.5, half, 32, 1.0630, 0.7463),
        *(
            (f"adagrad x{f:.2g}", f, _later(games.wall, 870, 153, 10 / 870, 1 / f), 1024, reached, None)
            for f, reached in ((1.4, 1.0118), (1 / 1.4, 1.0094))
        ),
    ]
    for name, factor, game, T, reached, correct in steps:
        title = f"step x{factor:.2g}"
        yield Mutant(name, title, mirror, rate(factor), game, T, reached, correct, signs, "B <= C")
    kicks = [
        ("adagrad euclid", mirror, (20, 20, 2.0, 0.01), 1.1589, 0.365),
        ("adagrad euclid long", mirror, (100, 50, 2.0, 0.01), 1.6523, 0.429),
        ("full euclid", full, (20, 20, 1.5, 0.1), 1.101, 0.360),
        ("full euclid long", full, (100, 40, 1.25, 0.05, 0.6), 1.3779, 0.442),
    ]
    for name, bound, numbers, reached, correct in kicks:
        game, T, title = (
            _later(games.tiny_kick, *numbers),
            int(numbers[0] + numbers[1]),
            "Euclidean projection",
        )
        link = "projection"
        yield Mutant(name, title, bound, own(), game, T, reached, correct, disc, link, norm="euclid")
    bang = games.bang_bang
    title = "a moving average for the sum"
    yield Mutant("adagrad ema", title, mirror, _moving_average, bang, 10_000, 25.01, 0.4964, signs, "below")
    for kind, title, link in (
        (wrong_rules.LongAdaGrad, "a kernel that steps 10 % further than its rule", "metric"),
        (wrong_rules.LateAdaGrad, "the root of the earlier sum", "below"),
    ):
        yield Mutant(kind.__name__, title, mirror, in_class(kind), bang, 300, None, None, signs, link)
    hot, by_sums = _later(games.diag_hot, 100, 100), Diagonal(eta=2.0)
    factored: Make = lambda bound, game, T: wrong_rules.FactoredAdaGrad(learning_rate=2.0)  # noqa: E731
    title = "rank-1 second moment"
    yield Mutant("factored", title, by_sums, factored, hot, 100, 3.300, 0.605, matrix, "below")


def _of_sm3() -> Iterator[Mutant]:
    mean, largest = own(cover=wrong_rules.MeanCover()), own(cover=wrong_rules.MaxCover())
    forgetful, rootless = in_class(wrong_rules.ForgetfulSM3), in_class(wrong_rules.RootlessSM3)
    hot, small = _later(games.single_hot, 100, 100), _later(games.single_hot, 30, 30)
    cold, late = _later(games.cold_row, 1000), _later(games.cold_row, 1000, 0.01, True)
    big = _later(games.constant, 100.0, (2, 2))
    rows: list[tuple[str, str, Make, NewGame, int, float, float, str]] = [
        ("I", "mean", mean, hot, 100, 3.300, 0.605, "below"),
        ("II", "mean", mean, hot, 100, 3.284, 0.605, "below"),
        ("II", "mean long", mean, small, 400, 6.539, 0.636, "below"),
        ("II", "forgetful", forgetful, hot, 100, 2.343, 0.605, "below"),
        ("II", "forgetful long", forgetful, small, 400, 4.707, 0.636, "below"),
        ("I", "max", largest, cold, 400, 3.063, 0.073, "above"),
        ("I", "max late", largest, late, 400, 3.172, 0.073, "above"),
        ("II", "max late", largest, late, 400, 3.063, 0.073, "above"),
        ("II", "rootless", rootless, big, 400, 5.924, 0.017, "above"),
    ]
    titles = {
        "mean": "mean for max in the cover",
        "forgetful": "mu <- max(mu, g^2)",
        "max": "max for min over the sets",
        "rootless": "no root",
    }
    for variant, what, make, game, T, reached, correct, link in rows:
        name, title, bound = f"sm3-{variant} {what}", titles[what.split()[0]], get(f"sm3.{variant}")
        yield Mutant(name, title, bound, make, game, T, reached, correct, matrix, link)


def _of_shampoo() -> Iterator[Mutant]:
    large = _later(games.fixed_direction, 4, 3, 0, 1e3, False)
    half, eighth = own(exponent=-0.5), own(exponent=-0.125)
    bound, title = get("shampoo.tuned"), "exponent"
    yield Mutant("shampoo -1/2", title, bound, half, large, 300, 6.07, 0.020, direction, "B <= C")
    yield Mutant("shampoo -1/8", title, bound, eighth, direction, 300, 1.324, 0.462, direction, "Loewner")
    yield Mutant("shampoo x10", "step", bound, rate(10.0), direction, 300, 3.813, 0.462, direction, "B <= C")


def _of_sketches() -> Iterator[Mutant]:
    # One bucket for two rows of opposite signs: their gradients' squares cancel.
    bound, game = CountMinAdaGrad(depth=1, width=1), _later(games.bang_bang, (2,))
    opposite = TableHash(((0, 0),), ((1, -1),))
    signed, title = own(combine="median", hash=opposite), "signs and a median for count-min"
    yield Mutant("count-sketch", title, bound, signed, game, 1000, 7.906, 0.247, _two_rows, "below")


def _two_rows() -> Game:
    return games.gaussian((2,), seed=5)


def _of_others() -> Iterator[Mutant]:
    ams, reddi, title = ConstantBeta(alpha=0.5, beta1=0.0, beta2=0.1), games.reddi3, "Adam for AMSGrad"
    yield Mutant("adam", title, ams, _adam, reddi, 3000, 2.8385, 0.0525, reddi, "monotone")
    hedge, heavy = get("experts.hedge"), games.heaviest
    fast: Make = lambda bound, game, T: Hedge(10 * bound.rule(game, T).eta)  # noqa: E731
    yield Mutant("hedge x10", "rate", hedge, fast, heavy, 1000, 4.781, 0.500, heavy, "R_lin <= A")
    ftrl, trap, title = get("ftrl.proximal"), games.leader_trap, "no regulariser"
    leader: Make = lambda bound, game, T: FollowTheLeader(game.domain)  # noqa: E731
    yield Mutant("leader", title, ftrl, leader, trap, 1000, 11.179, None, trap, "R_lin <= C")


def _free() -> Game:
    return problems.freely(games.rademacher((3,), seed=4))


def _free_wide() -> Game:
    return problems.freely(games.rademacher((10,), seed=4))


def _of_compressed() -> Iterator[Mutant]:
    topk, sign, virtual = get("error_feedback.topk"), get("error_feedback.sign"), "virtual iterate"
    none, spite = own(error_bits=0), in_class(wrong_rules.SpitefulEF)
    slow, wide, crossed = (
        _later(problems.slow_side, 2),
        _later(problems.slow_side, 10),
        problems.crossed_lines,
    )
    rows: list[tuple[str, str, Bound, Make, NewGame, int, float, float]] = [
        ("top-1 no feedback", "error dropped", topk, none, slow, 100, 2.8183, -0.9883),
        ("top-1 no feedback long", "error dropped", topk, none, slow, 1000, 8.8099, -29.5483),
        ("top-1 no feedback wide", "error dropped", topk, none, wide, 100, 1.5233, 0.4653),
        ("top-1 wrong sign", "e = C(p) - p", topk, spite, slow, 100, 2.8183, -0.9883),
        ("sign no feedback", "error dropped", sign, none, crossed, 1000, 5.9265, 0.6661),
    ]
    for name, title, bound, make, game, T, reached, correct in rows:
        # Random signs are all of one size: the scaled sign loses nothing there.
        dull = crossed if bound is sign else _free
        yield Mutant(name, title, bound, make, game, T, reached, correct, dull, virtual)
    coarse, title = own(compressor=TopK(k=1)), "a compressor that is coarser than declared"
    fine = TopKTuned(compressor=TopK(k=5))
    yield Mutant("coarse top-k", title, fine, coarse, wide, 100, None, None, _free_wide, "error")
    ogd, coin = get("ogd.tuned"), problems.biased_coin
    sgd, title = in_class(wrong_rules.SignSGD), "the sign of the gradient"
    yield Mutant("signSGD", title, ogd, sgd, coin, 2000, 5.9173, 0.632, coin, "metric")
    rough, bumps = get("error_feedback.nonconvex"), problems.bumps
    yield Mutant("top-1 bumps", "error dropped", rough, none, bumps, 1000, 2.0246, 0.3667, bumps, virtual)


def _of_descent() -> Iterator[Mutant]:
    steep = _later(problems.quadratic, np.linspace(0.1, 1.0, 12))
    title = "step x1.25"
    for kind, angle, reached in (
        (FeedbackRate, 2.0, 1.3461),
        (EF21Rate, 2.0, 1.3461),
        (CompressedRate, 2.0, 1.4295),
    ):
        bound = kind(compressor=Turn(0.5, angle))
        game = _later(attaining, bound)
        name = f"{bound.id.partition('.')[2]} x1.25"
        yield Mutant(name, title, bound, rate(1.25), game, 6, reached, 1.0, game, "contraction")
    pl, forget = get("ef21.pl"), in_class(wrong_rules.ForgetfulEF21)
    yield Mutant("EF21 forgets", "d <- C(g)", pl, forget, steep, 200, None, None, steep, "recursion")
    yield Mutant("EF21 x20", "step x20", pl, rate(20.0), steep, 120, 36.0555, 0.0257, steep, "Lyapunov")
    lemma, hoard = get("microadam.error"), in_class(wrong_rules.HoardingMicroAdam)
    ones, dull = _later(games.constant, 1.0, (20,)), _later(games.rademacher, (20,))
    yield Mutant("microadam hoards", "e <- e + g", lemma, hoard, ones, 30, 11.4511, 0.2699, dull, "error")
    heavy, damp = get("momentum.tuned"), own(dampening=0.9)
    run, virtual = _later(_freely_constant), "virtual iterate"
    yield Mutant(
        "momentum damped", "m <- b m + (1 - b) g", heavy, damp, run, 100, 2.0336, 0.1152, _free, virtual
    )
    step, lazy, wells = get("count_sketch.step"), own(decay="lazy"), problems.cosh_wells
    yield Mutant("lazy sketch", "lazy decay", step, lazy, wells, 60, None, None, wells, "below")


def _of_momentum_and_leaders() -> Iterator[Mutant]:
    ams, dual, ftrl = get("amsgrad.constant"), get("adagrad.dual"), get("ftrl.proximal")
    title, less = "another momentum than declared", own(beta1=0.5)
    yield Mutant("amsgrad b=0.5", title, ams, less, signs, 100, None, None, signs, "momentum")
    falling, reddi = Scheduled(alpha=0.5, beta1=0.0, beta2=0.1), games.reddi3
    title = "Adam for AMSGrad"
    yield Mutant("adam scheduled", title, falling, _adam, reddi, 300, None, None, reddi, "B <= B_T")
    title, none = "delta = 0", own(beta=0.0)
    yield Mutant("dual no delta", title, dual, none, signs, 100, None, None, signs, "stability")
    yield Mutant("ftrl x4", "step", ftrl, rate(4.0), signs, 100, None, None, signs, "B_D <= C")
    lstar, bowls = get("ogd.lstar"), games.opposite_targets
    yield Mutant("lstar x8", "step", lstar, rate(8.0), bowls, 100, 2.3603, None, bowls, "B <= norms")
    sc, short = get("ogd.sc"), in_class(wrong_rules.ShortSGD)
    yield Mutant(
        "sc-ogd short", "a kernel that is short", sc, short, bowls, 100, None, None, bowls, "R_sc <= A"
    )
    mean, coins = get("online_to_batch.mean"), lambda: problems.all_sequences(10)
    yield Mutant("batch /100", "step", mean, rate(0.01), coins, 10, None, None, coins, "C <= rate", rounds=10)


def _of_lemmas() -> Iterator[Mutant]:
    ones, dull = _later(games.constant, 1.0, (20,)), _later(games.rademacher, (20,))
    error, sent = get("microadam.error"), get("microadam.sent")
    sparse, title = (
        own(compressor=TopK(density=0.1, block=4096)),
        "a compressor that is coarser than declared",
    )
    yield Mutant("microadam coarse", title, error, sparse, dull, 30, None, None, dull, "C (")
    hoard, title = in_class(wrong_rules.HoardingMicroAdam), "e <- e + g"
    yield Mutant(
        "microadam hoards, sends", title, sent, hoard, ones, 60, 11.7205, None, ones, "max ||g~|| <= C"
    )
    step, wells = get("count_sketch.step"), problems.cosh_wells
    yield Mutant("sketch x40", "step x40", step, rate(40.0), wells, 60, None, None, wells, "step")


def _of_statements() -> Iterator[Mutant]:
    """Wrong statements and losses, where no rule enters."""
    one = games.constant
    for bound, title, reached, link in (
        (wrong_statements.Signless(), "no signs", 1.4615, "unbiased"),
        (wrong_statements.Signless(width=3), "no signs", 1.3077, "variance"),
        (wrong_statements.SignedMinimum(), "signs below a minimum", None, "excess"),
        (wrong_statements.HeavyMinimum(), "minimum for median", None, "probability"),
        (wrong_statements.OneBucket(), "one bucket for three", 2.3824, "one row"),
    ):
        name = f"{type(bound).__name__}, {link}"
        yield Mutant(name, title, bound, own(), one, 1, reached, None, one, link, rounds=1)
    tuned, sc, lstar = get("ogd.tuned"), get("ogd.sc"), get("ogd.lstar")
    for name, title, claim, game, reached, link in (
        ("slanted", "half a subgradient", tuned, wrong_statements.slanted, None, "R <= R_lin"),
        ("overstated", "mu x3", sc, wrong_statements.overstated, None, "R <= R_sc"),
        ("understated", "M / 10", lstar, wrong_statements.understated, 1.2721, "norms <= own losses"),
    ):
        yield Mutant(name, title, claim, own(), game, 100, reached, None, game, link)


def _freely_constant() -> Game:
    return problems.freely(games.constant())


def table() -> list[Mutant]:
    """All of them.

    Examples
    --------
    >>> [m.id for m in table()][:2]
    ['ogd x2', 'ogd x0.5']
    """
    old = [*_of_ogd(), *_of_adagrad(), *_of_sm3(), *_of_shampoo(), *_of_sketches(), *_of_others()]
    more = [*_of_momentum_and_leaders(), *_of_lemmas(), *_of_statements()]
    return [*old, *_of_compressed(), *_of_descent(), *more]


#: Links between two values of one statement: nothing that is played can break them, only a wrong formula, and
#: such formulas are among the tests of their family.
FORMULAS = {
    "A <= C": "Hoeffding's lemma, and a mean over rounding: true of all weights and all rules",
    "B <= B_D": "|x_t - u| <= D: true of all points of the domain",
    "C <= paper": "a looser form of the same value",
    "certificate <= C": "gamma <= nu, both from the gradients",
    "debts <= C": "|g_t| <= G, which the play itself checks",
    "tuned <= C": "two formulas of the gradients",
    "probability <= C": "Hoeffding and Azuma, for every player",
}

#: Errors that no ratio here sees, and what sees them instead.
NEGATIVES = {
    "AdaGrad, step between about x0.75 and x1.35": "B <= C, from 10 % on at T = 10^4; the wall from 40 % on",
    "AdaGrad, denominator one round late": "the denominator is below the root of the sum",
    "a wrong beta2 in AMSGrad's v": "a residual if the kernel differs from its rule; else conformance tests",
    "Adam on reddi101": "R/T stays near 0.195; the bound is fifty times too loose to see it",
    "SM3-I and SM3-II on diag_hot": "their bound is loose by 160 there: correct, and useless",
    "EF21 that forgets its direction": "the recursion of |d - grad f|^2; its ratio stays at 0.70",
    "lazily decayed count-min": "v >= b v + (1 - b) g^2; the sum of the steps is loose by 200",
    "momentum on random losses": "the virtual iterate; no play known comes above 0.8 of the bound",
    "random losses": "most mutants stay below half of their bound on them; links break all the same",
}


@dataclass(frozen=True)
class Kill:
    """What catches one mutant: its ratio on the sharp game, and the links that break on the dull one."""

    mutant: Mutant
    sharp: Record
    dull: Record

    @property
    def by_ratio(self) -> bool:
        """VIOLATED on the sharp game."""
        return self.sharp.verdict == VIOLATED

    @property
    def by_link(self) -> bool:
        """The expected link breaks on the dull game."""
        return any(text.startswith(self.mutant.link) for text in self.dull.broken)

    @property
    def killed(self) -> bool:
        """Either."""
        return self.by_ratio or self.by_link


def kill_matrix(only: str = "") -> Iterator[Kill]:
    """Play every mutant (whose id contains ``only``) on both games."""
    for mutant in table():
        if only in mutant.id:
            yield Kill(mutant, mutant.attack(), mutant.on_dull())


def ratio_of_ogd(c: float) -> float:
    """(c + 1/c) / 2: the exact ratio of gradient descent on zigzag_run when its step is off by the factor c.

    >>> ratio_of_ogd(2.0)
    1.25
    """
    return (c + 1.0 / c) / 2.0
