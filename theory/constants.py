"""What is known of the true constants: for each theorem a bracket, with the witness that replays it.

A theorem states a constant; the best possible one lies between the ratio of the worst play that is known
(below) and 1 (the proof). 1 to 1 means that the theorem cannot be improved; neither can one whose witness
tends to 1 with T. Signs alone are weaker: the worst of all 2^26 sequences of signs has the ratio 0.6496
against AdaGrad; that one is replayed too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from . import games, problems
from .arenas import ARENAS
from .bounds import Bound, get
from .bounds.amsgrad import ConstantBeta
from .bounds.tight_rates import FeedbackRate, attaining
from .geometry import L2Ball
from .play import Game
from .verify import Record, verify

#: Gradients in the unit disc that :func:`.search.hill` found against Top-1 with error feedback.
AGAINST_TOP_1 = [
    *((0.7066, -0.7075), (0.7289, 0.6845), (-0.6977, 0.7163), (-0.7002, 0.7138), (0.7219, 0.6919)),
    *((0.7615, -0.648), (0.7078, -0.7047), (0.7094, -0.7047), (0.7186, -0.6954), (0.6857, 0.7278)),
    *((0.7089, 0.7039), (0.7091, 0.705), (0.6392, 0.769), (0.6952, 0.7187), (0.7153, 0.6987)),
    (0.8791, 0.4766),
]
#: Which of two experts errs, round after round, against Hedge: by the same search.
AGAINST_HEDGE = "BAABABAAAA"
#: The worst of all sequences of 26 signs against AdaGrad, by :func:`.search.exhaustive`.
WORST_SIGNS = "+--+-+-+-+-+--+-+-+-++++++"


@dataclass(frozen=True, eq=False)
class Bracket:
    """``below``, to 4 digits, is the ratio of ``bound``'s own rule on ``game`` after ``T`` rounds.

    ``tends`` says that longer games of the same kind come as near to 1 as one likes.
    """

    bound: Bound
    below: float
    game: Callable[[], Game]
    T: int
    witness: str
    above: float = 1.0
    why: str = "the proof"
    tends: bool = False

    def replay(self) -> Record:
        """Play the witness."""
        return verify(self.bound, self.game(), self.T)

    def __str__(self) -> str:
        closed = "attained" if self.below == self.above else f"{self.below:.4g} to {self.above:.4g}"
        limit = "; tends to 1 with T" if self.tends else ""
        return f"{closed} ({self.witness}, T = {self.T}{limit}; {self.why})"


def _signs() -> Game:
    return games.sequence([1.0 if s == "+" else -1.0 for s in WORST_SIGNS], name="signs")


def _errors() -> Game:
    losses = np.array([[1.0, 0.0] if s == "A" else [0.0, 1.0] for s in AGAINST_HEDGE])
    return ARENAS["experts"].game(losses)


def _disc() -> Game:
    return ARENAS["plane"].game(np.array(AGAINST_TOP_1))


def brackets() -> Iterator[Bracket]:
    """All of them; a theorem may have several witnesses.

    Examples
    --------
    >>> print(next(brackets()))
    attained (zigzag_run(56, 8), T = 64; the proof)
    """
    yield from _of_descent()
    yield from _of_adaptive_steps()
    slow = "slow_side(10)"
    yield Bracket(get("momentum.tuned"), 0.7907, lambda: problems.slow_side(10), 32, slow)
    yield Bracket(get("momentum.nesterov"), 0.7763, lambda: problems.slow_side(10), 32, slow)
    yield Bracket(get("error_feedback.topk"), 0.6674, _disc, 16, "hill climbing in the plane")
    yield Bracket(get("error_feedback.topk"), 0.5857, lambda: problems.slow_side(10), 32, slow)
    yield Bracket(get("error_feedback.sign"), 0.6705, problems.crossed_lines, 200, "crossed_lines")
    yield Bracket(get("experts.hedge"), 0.8792, _errors, 10, "two experts, hill climbing")
    for name in ("tight_rates.ef", "tight_rates.ef21", "tight_rates.gd"):
        yield Bracket(get(name), 1.0, _attaining(name), 6, "a quadratic from an eigenvector")
    yield Bracket(
        get("online_to_batch.mean"), 1.0, lambda: problems.all_sequences(10), 10, "linear losses, p = 0.7"
    )
    for name in ("count_sketch", "count_min", "heavy", "heavy_min"):
        bound = get(f"point_queries.{name}")
        yield Bracket(bound, 1.0, games.constant, 1, "all hash functions", why="equality")
    yield from _loose()


def _of_descent() -> Iterator[Bracket]:
    yield Bracket(get("ogd.tuned"), 1.0, lambda: games.zigzag_run(56, 8), 64, "zigzag_run(56, 8)")
    yield Bracket(get("ogd.sc"), 1.0, games.leading_bowls, 100, "leading_bowls")
    for name, below in (("ogd.sqrt", 0.9155), ("ogd.sqrt2", 0.9229)):
        game = lambda: games.falling_wall(1024)  # noqa: E731
        yield Bracket(get(name), below, game, 1024, "falling_wall", tends=True)


def _of_adaptive_steps() -> Iterator[Bracket]:
    # In one dimension diagonal and full matrix, one norm, one row of a sketch are one rule with one bound.
    for name in ("adagrad.mirror", "adagrad.full", "ogd.adanorm", "count_sketch.adagrad"):
        yield Bracket(get(name), 0.9549, lambda: games.wall_of(1024), 1024, "wall", tends=True)
    yield Bracket(get("adagrad.mirror"), 0.6496, _signs, 26, "the worst of 2^26 sequences of signs")
    yield Bracket(
        get("adagrad.dual"), 0.8881, lambda: games.wall(920, 103, 8 / 920, 1.1), 1024, "wall", tends=True
    )
    yield Bracket(
        get("ftrl.proximal"), 0.9367, lambda: games.wall(920, 103, 24 / 920), 1024, "wall", tends=True
    )
    for name in ("sm3.I", "sm3.II"):
        yield Bracket(get(name), 0.9555, lambda: games.wall_of(1024), 1024, "wall, one entry", tends=True)
        hot = lambda: games.single_hot(30, 30)  # noqa: E731
        yield Bracket(get(name), 0.6357, hot, 400, "single_hot(30, 30)")
    interval = L2Ball(1.0, (1,))
    yield Bracket(
        get("shampoo.tuned"),
        0.9547,
        lambda: games.wall(870, 153, 10 / 870, domain=interval),
        1024,
        "wall, one entry",
        tends=True,
    )
    yield Bracket(get("shampoo.tuned"), 0.4615, lambda: games.fixed_direction(4, 3), 300, "fixed_direction")


def _loose() -> Iterator[Bracket]:
    """Bounds that no known play comes near to: what their constants are worth."""
    coin = lambda: problems.all_sequences(10)  # noqa: E731
    yield Bracket(get("ogd.lstar"), 0.3422, games.opposite_targets, 200, "opposite_targets")
    yield Bracket(ConstantBeta(alpha=0.5, beta1=0.0, beta2=0.1), 0.0702, games.reddi3, 300, "reddi3")
    yield Bracket(get("error_feedback.nonconvex"), 0.3667, problems.bumps, 1000, "bumps")
    yield Bracket(get("ef21.mean"), 0.3314, _steep, 80, "quadratic(12)")
    yield Bracket(get("ef21.pl"), 0.0520, _steep, 80, "quadratic(12)")
    yield Bracket(get("online_to_batch.tail"), 0.0052, coin, 10, "linear losses, p = 0.7")
    yield Bracket(get("point_queries.median"), 0.0328, games.constant, 1, "all hash functions")


def _steep() -> Game:
    return problems.quadratic(np.linspace(0.1, 1.0, 12))


def _attaining(name: str) -> Callable[[], Game]:
    bound = get(name)
    assert isinstance(bound, FeedbackRate)
    return lambda: attaining(bound)


def known(name: str) -> list[Bracket]:
    """The brackets of one theorem; none if no witness is kept."""
    return [bracket for bracket in brackets() if bracket.bound.id == name]
