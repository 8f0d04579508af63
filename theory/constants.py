"""What is known of the true constants: for each theorem a bracket, with the witness that replays it.

A theorem states a constant; the best possible one lies between the ratio of the worst play that is known
(below) and 1 (the proof). 1 to 1 means that the theorem cannot be improved. Signs only: the worst of all 2^26
sequences of signs has the ratio 0.6496 against AdaGrad; that one is replayed too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from . import games, problems
from .bounds import Bound, get
from .bounds.tight_rates import FeedbackRate, attaining
from .play import Game
from .verify import Record, verify

#: Gradients in one dimension that :func:`.search.hill` found against AdaGrad, and against FTRL-Proximal.
AGAINST_ADAGRAD = [
    *(0.0001, -0.6359, 0.8797, -0.5379, 0.9849, -0.8984, 0.9975, -0.8622, 0.9825, -0.8333, 0.8814, -0.9254),
    *(0.9779, -0.9997, 1.0, -0.9941, 0.8037, -0.4896, 0.7764, -0.9591, 0.9909, -0.9461, 0.9644, -0.9767),
    *(1.0, -0.9817, 0.9606, -0.9128, 0.9855, -0.9819, 0.9996, -0.8889, 0.9102, -0.9774, 0.9923, -0.992),
    *(0.9941, -0.9574, 0.9889, -0.9365, 0.8879, -0.9764, 1.0, -0.9329, 0.9981, -0.9803, 0.9297, -0.9972),
    *(0.7724, -0.6128, 0.9109, -0.9875, 1.0, -0.9839, 1.0, -0.9902, 0.9911, -0.9862, 1.0, -0.9839),
    *(1.0, -0.9901, 1.0, -0.9912, 1.0, -1.0, 1.0, -1.0, -1.0, -1.0, -1.0, -1.0),
    *(-0.8818, -0.8228, -0.7513, -0.6886, -0.6849, -0.6798, -0.6617, -0.6617),
]
AGAINST_FTRL = [
    *(0.0001, -0.9896, 0.2796, 0.4376, 0.4004, -0.6208, 0.6971, -1.0, 0.4821, 0.5833, -0.9102, 1.0),
    *(-0.9204, 0.9869, -0.901, 0.9479, -0.9453, 0.99, -1.0, -1.0, -0.9116, -0.7045, -0.6418, -0.6147),
]
#: The worst of all sequences of 26 signs against AdaGrad, by :func:`.search.exhaustive`.
WORST_SIGNS = "+--+-+-+-+-+--+-+-+-++++++"


@dataclass(frozen=True, eq=False)
class Bracket:
    """``below``, to 4 digits, is the ratio of ``bound``'s own rule on ``game`` after ``T`` rounds."""

    bound: Bound
    below: float
    game: Callable[[], Game]
    T: int
    witness: str
    above: float = 1.0
    why: str = "the proof"

    def replay(self) -> Record:
        """Play the witness."""
        return verify(self.bound, self.game(), self.T)

    def __str__(self) -> str:
        closed = "attained" if self.below == self.above else f"{self.below:.4g} to {self.above:.4g}"
        return f"{closed} ({self.witness}, T = {self.T}; {self.why})"


def _hill(numbers: list[float]) -> Callable[[], Game]:
    return lambda: games.sequence(numbers, name="hill")


def _signs() -> Game:
    return games.sequence([1.0 if s == "+" else -1.0 for s in WORST_SIGNS], name="signs")


def brackets() -> Iterator[Bracket]:
    """All of them; a theorem may have two witnesses.

    Examples
    --------
    >>> print(next(brackets()))
    attained (zigzag_run(56, 8), T = 64; the proof)
    """
    yield Bracket(get("ogd.tuned"), 1.0, lambda: games.zigzag_run(56, 8), 64, "zigzag_run(56, 8)")
    yield Bracket(get("ogd.sc"), 0.5, games.opposite_targets, 2, "opposite_targets")
    for name in ("adagrad.mirror", "adagrad.full", "ogd.adanorm", "count_sketch.adagrad"):
        # In one dimension all four are one rule with one bound.
        yield Bracket(get(name), 0.8433, _hill(AGAINST_ADAGRAD), 80, "hill climbing, one dimension")
    yield Bracket(get("adagrad.mirror"), 0.6496, _signs, 26, "the worst of 2^26 sequences of signs")
    yield Bracket(get("ftrl.proximal"), 0.8071, _hill(AGAINST_FTRL), 24, "hill climbing, one dimension")
    for name in ("sm3.I", "sm3.II"):
        yield Bracket(get(name), 0.6357, lambda: games.single_hot(30, 30), 400, "single_hot(30, 30)")
    yield Bracket(get("shampoo.tuned"), 0.4615, lambda: games.fixed_direction(4, 3), 300, "fixed_direction")
    yield Bracket(get("experts.hedge"), 0.4992, games.heaviest, 300, "heaviest(2)")
    slow = "slow_side(10)"
    yield Bracket(get("momentum.tuned"), 0.7907, lambda: problems.slow_side(10), 32, slow)
    yield Bracket(get("momentum.nesterov"), 0.7763, lambda: problems.slow_side(10), 32, slow)
    yield Bracket(get("error_feedback.topk"), 0.5857, lambda: problems.slow_side(10), 32, slow)
    yield Bracket(get("error_feedback.sign"), 0.6705, problems.crossed_lines, 200, "crossed_lines")
    for name in ("tight_rates.ef", "tight_rates.ef21", "tight_rates.gd"):
        yield Bracket(get(name), 1.0, _attaining(name), 6, "a quadratic from an eigenvector")
    yield Bracket(
        get("online_to_batch.mean"), 1.0, lambda: problems.all_sequences(10), 10, "linear losses, p = 0.7"
    )
    for name in ("count_sketch", "count_min", "heavy", "heavy_min"):
        bound = get(f"point_queries.{name}")
        yield Bracket(bound, 1.0, games.constant, 1, "all hash functions", why="equality")


def _attaining(name: str) -> Callable[[], Game]:
    bound = get(name)
    assert isinstance(bound, FeedbackRate)
    return lambda: attaining(bound)


def known(name: str) -> list[Bracket]:
    """The brackets of one theorem; none if no witness is kept."""
    return [bracket for bracket in brackets() if bracket.bound.id == name]
