"""Worst loss sequences: all sign sequences, and hill climbing.

N one-dimensional games on [-1, 1] are N coordinates of one tensor, so a search is a play of the library's
rule on a long vector. All sign sequences share their prefixes: at depth t there are 2^(t-1) states (the first
sign is +1 by symmetry), each split in two by the next sign. The first depths are played at once, the rest
block by block, so that memory stays small.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import HyperparameterError
from . import games
from .bounds import Bound
from .geometry import Array
from .play import Game

#: Depth up to which all prefixes are played at once, and the number of states that then go on together.
SHARED, BLOCK = 14, 2**8


@dataclass(frozen=True)
class Worst:
    """The largest regret over all sign sequences, and a sequence that attains it."""

    T: int
    regret: float
    signs: tuple[int, ...]


class _Fan:
    """States of many games that share their length: iterates, slots, sums."""

    def __init__(self, w: Array, state: dict[str, Any], earned: Array, S: Array, past: Array) -> None:
        self.w, self.state, self.earned, self.S, self.past = w, state, earned, S, past

    def twice(self) -> _Fan:
        """Every game, to be continued by +1 (first half) and by -1."""
        n = self.w.size

        def doubled(a: Array) -> Array:
            return np.concatenate([a, a])

        state = {k: doubled(v) if np.shape(v) == self.w.shape else v for k, v in self.state.items()}
        past = np.concatenate([2 * self.past, 2 * self.past + 1])
        assert past.size == 2 * n
        return _Fan(doubled(self.w), state, doubled(self.earned), doubled(self.S), past)

    def some(self, where: slice) -> _Fan:
        """A block of them."""
        state = {k: v[where] if np.shape(v) == self.w.shape else v for k, v in self.state.items()}
        return _Fan(self.w[where], state, self.earned[where], self.S[where], self.past[where])


def _step(rule: Any, fan: _Fan, g: Array, t: int) -> _Fan:
    now = rule.at(t) if rule.is_scheduled else rule
    values = now.values(fan.w, g, fan.state)
    state = {name: values[name] for name in fan.state}
    w = np.minimum(np.maximum(values["w"], -1.0), 1.0)
    return _Fan(w, state, fan.earned + g * fan.w, fan.S + g, fan.past)


def _deeper(rule: Any, fan: _Fan, t: int) -> _Fan:
    fan = fan.twice()
    half = fan.w.size // 2
    return _step(rule, fan, np.concatenate([np.ones(half), -np.ones(half)]), t)


def exhaustive(rule: Any, T: int) -> Worst:
    """The worst of all 2^T sign sequences on [-1, 1] from 0, exactly.

    Parameters
    ----------
    rule : Rule
        Element-wise (its slots have the parameter's shape, or are counters) and odd: negated gradients give
        negated iterates.
    T : int
        At least 2. Time and the last level's memory double with each round.

    Examples
    --------
    >>> from memopt_ref.rules.adagrad import AdaGrad
    >>> round(exhaustive(AdaGrad(learning_rate=2**0.5), 10).regret, 4)
    4.9101
    """
    if T < 2:
        raise HyperparameterError("exhaustive", f"T = {T}", "T >= 2", "One round has one sequence.")
    w = np.zeros(1)
    fan = _Fan(w, rule.init_leaf(w), np.zeros(1), np.zeros(1), np.zeros(1, np.int64))
    fan = _step(rule, fan, np.ones(1), 1)
    shared = min(T - 1, SHARED)
    for t in range(2, shared + 1):
        fan = _deeper(rule, fan, t)
    best, past = -math.inf, 0
    for start in range(0, fan.w.size, BLOCK):
        block = fan.some(slice(start, start + BLOCK))
        for t in range(shared + 1, T):
            block = _deeper(rule, block, t)
        # The last sign needs no step: regret is earned +- x + |S +- 1|.
        for bit, sign in ((0, 1.0), (1, -1.0)):
            regret = block.earned + sign * block.w + np.abs(block.S + sign)
            at = int(np.argmax(regret))
            if regret[at] > best:
                best, past = float(regret[at]), 2 * int(block.past[at]) + bit
    bits = [(past >> k) & 1 for k in range(T - 1)][::-1]
    return Worst(T, best, (1, *(1 - 2 * bit for bit in bits)))


def game_value(T: int) -> float:
    """The value of the game on [-1, 1] with |g| <= 1: T C(T-1, (T-1)//2) / 2^(T-1), the mean of |S_T|.

    No player does better against the worst sequence, and one attains it.

    Examples
    --------
    >>> game_value(4)
    1.5
    """
    return T * math.comb(T - 1, (T - 1) // 2) / float(2 ** (T - 1))


# Hill climbing


def ratios(bound: Bound, rule: Any, sequences: Array) -> Array:
    """The ratio of every row of ``sequences``, played as coordinates of one tensor."""
    n, T = sequences.shape
    w = np.zeros(n)
    fan = _Fan(w, rule.init_leaf(w), np.zeros(n), np.zeros(n), np.zeros(n, np.int64))
    for t in range(1, T + 1):
        fan = _step(rule, fan, sequences[:, t - 1], t)
    gamma = np.sum(sequences**2, axis=1)
    return (fan.earned + np.abs(fan.S)) / per_coordinate(bound, gamma, T)


def per_coordinate(bound: Bound, gamma: Array, T: int) -> Array:
    """The bound of each coordinate's own game on [-1, 1] from 0.

    Raises
    ------
    HyperparameterError
        The bound couples coordinates, or is no corollary.
    """
    roots = np.sqrt(gamma)
    if bound.id == "ogd.tuned":
        return np.full(gamma.shape, math.sqrt(T))
    if bound.id in ("adagrad.mirror", "ftrl.proximal"):
        return 2 * math.sqrt(2) * roots
    if bound.id == "adagrad.dual.nodelta":
        return math.sqrt(2) * roots
    wanted = "ogd.tuned, adagrad.mirror, ftrl.proximal or adagrad.dual.nodelta"
    raise HyperparameterError(
        "search", bound.id, wanted, "Only these are a game for each coordinate with one rate."
    )


def _unit_game(T: int) -> Game:
    """What the rate of a search is tuned for: [-1, 1] from 0, gradients of size at most 1."""
    return games.sequence(np.ones(T), name="unit")


def player(bound: Bound, T: int, factor: float = 1.0) -> Any:
    """The bound's own rule for [-1, 1], |g| <= 1, with its rate times ``factor``."""
    rule = bound.rule(_unit_game(T), T)
    return rule.replace(learning_rate=factor * rule.learning_rate)


def hill(
    bound: Bound,
    T: int,
    *,
    factor: float = 1.0,
    generations: int = 300,
    seed: int = 0,
    population: int = 256,
    elite: int = 8,
    progress: Any = None,
) -> tuple[float, Array]:
    """Climb towards the worst sequence of T real gradients in [-1, 1].

    Parameters
    ----------
    bound : Bound
        One of those that :func:`per_coordinate` knows.
    T : int
        Length.
    factor : float
        Of the bound's own rate; 1 attacks the theorem, another number a wrong rule.
    generations, seed, population, elite : int
        The same numbers find the same sequence.
    progress : function of (generation, ratio), optional

    Returns
    -------
    ratio, gradients

    Examples
    --------
    >>> from memopt_ref.theory.bounds import get
    >>> ratio, g = hill(get("ogd.tuned"), 4, generations=30)
    >>> 0.9 < ratio <= 1.0
    True
    """
    rng = np.random.default_rng(seed)
    rule = player(bound, T, factor)
    best = np.concatenate(
        [
            rng.uniform(-1, 1, (elite - elite // 2, T)),
            rng.integers(0, 2, (elite // 2, T)) * 2.0 - 1.0,
        ]
    )
    best[0] = [(-1.0) ** s for s in range(T)]
    score = ratios(bound, rule, best)
    for generation in range(generations):
        parents = best[rng.integers(0, len(best), population)]
        scale = rng.choice([1.0, 0.1, 0.01], (population, 1))
        which = rng.random((population, T)) < rng.choice([0.05, 0.2, 1.0], (population, 1))
        children = parents + which * scale * rng.normal(size=(population, T))
        flips = rng.random((population, T)) < rng.choice([0.0, 1.5 / T], (population, 1))
        children = np.where(flips, -children, children)
        # Runs end at the bound: a third of the children repeat an entry to the end.
        tail = rng.integers(0, T, population)
        same = (rng.random(population) < 1 / 3)[:, None] & (np.arange(T) >= tail[:, None])
        children = np.where(same, children[np.arange(population), tail][:, None], children)
        children = np.clip(children, -1.0, 1.0)
        everyone, scores = np.concatenate([best, children]), ratios(bound, rule, children)
        scores = np.concatenate([score, scores])
        order = np.argsort(-scores, kind="stable")[:elite]
        best, score = everyone[order], scores[order]
        if progress is not None:
            progress(generation + 1, float(score[0]))
    return float(score[0]), best[0]
