"""Worst loss sequences: all sign sequences, and hill climbing in an arena.

N one-dimensional games on [-1, 1] are N coordinates of one tensor, so a search is a play of the library's
rule on a long vector. All sign sequences share their prefixes: at depth t there are 2^(t-1) states (the first
sign is +1 by symmetry), each split in two by the next sign. The first depths are played at once, the rest
block by block, so that memory stays small. Games that couple coordinates are played one by one.

A search sees two numbers of a play, the regret and the value at level C; the player's metric is hidden, so
that nothing but the gradients can enter the latter.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import HyperparameterError
from . import games
from .arenas import INTERVAL, Arena
from .arenas import arena as arena_of
from .bounds import Bound
from .geometry import Array
from .play import Game, play

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


def ends(bound: Bound, rule: Any, game: Game, T: int) -> tuple[float, float]:
    """What the bound bounds, and the bound: the two ends of its chain after a play."""
    trace = play(rule, game, T, observers=bound.observers(game, T), keep=False, blind=True)
    links = {link.name: link.value for link in bound.chain(trace, trace.hindsight().u)}
    if "R_lin" in links or "R_sc" in links:
        return float(trace.regret()[0]), float(links[bound.claim])
    return float(next(iter(links.values()))), float(links[bound.claim])


def ratios(bound: Bound, rule: Any, sequences: Array) -> Array:
    """The ratio of each sequence of numbers, shape [N, T, ...], in the bound's arena."""
    place, (n, T) = arena_of(bound), sequences.shape[:2]
    unit = place.game(sequences[0])
    quick = bound.separately(unit, np.sum(sequences**2, axis=(1, 2)), T) if place.separable else None
    if quick is None:
        pairs = np.array([ends(bound, rule, place.game(rows), T) for rows in sequences])
        low, value = pairs[:, 0], pairs[:, 1]
    else:
        w = np.zeros(n)
        fan = _Fan(w, rule.init_leaf(w), np.zeros(n), np.zeros(n), np.zeros(n, np.int64))
        for t in range(1, T + 1):
            fan = _step(rule, fan, sequences[:, t - 1, 0], t)
        low, value = fan.earned + np.abs(fan.S), quick
    return np.where(value > 0, low / np.where(value > 0, value, 1.0), np.where(low > 0, np.inf, 0.0))


def unit_game(place: Arena, T: int) -> Game:
    """What a rate is tuned for: the arena's declared sizes."""
    return place.game(place.limit(np.ones((T, *place.shape))))


def player(bound: Bound, T: int, factor: float = 1.0) -> Any:
    """The bound's own rule in its arena, with its rate times ``factor``."""
    return scaled(bound.rule(unit_game(arena_of(bound), T), T), factor)


def scaled(rule: Any, factor: float) -> Any:
    """A rule, or a player of :mod:`.players`, with its rate times ``factor``."""
    if factor == 1.0:
        return rule
    if hasattr(rule, "learning_rate"):
        return rule.replace(learning_rate=factor * rule.learning_rate)
    return dataclasses.replace(rule, eta=factor * rule.eta)


def all_signs(bound: Bound, T: int, factor: float = 1.0) -> Worst:
    """:func:`exhaustive` for a bound whose value is the same for all sequences of signs.

    Raises
    ------
    HyperparameterError
        The bound couples coordinates: its games are no sequences of signs.
    """
    place = arena_of(bound)
    if place is not INTERVAL:
        wanted = "a bound that is attacked on an interval"
        raise HyperparameterError("--search signs", bound.id, wanted, "Use --search hill.")
    return exhaustive(player(bound, T, factor), T)


#: Generations and population of a search by default: games that are coordinates of one tensor, and others.
QUICK, SLOW = (300, 256), (40, 32)


def size_of(bound: Bound, T: int) -> tuple[int, int]:
    """Generations and population that take seconds."""
    place = arena_of(bound)
    quick = place.separable and bound.separately(unit_game(place, T), np.ones(1), T) is not None
    return QUICK if quick else SLOW


def hill(
    bound: Bound,
    T: int,
    *,
    factor: float = 1.0,
    generations: int | None = None,
    seed: int = 0,
    population: int | None = None,
    elite: int = 8,
    progress: Any = None,
) -> tuple[float, Array]:
    """Climb towards the worst sequence of T rounds in the bound's arena.

    Parameters
    ----------
    bound : Bound
        One that a loss sequence can attack: see :func:`.arenas.why_not`.
    T : int
        Length, at least 2.
    factor : float
        Of the bound's own rate; 1 attacks the theorem, another number a wrong rule.
    generations, population : int, optional
        Those of :func:`size_of` unless given.
    seed, elite : int
        The same numbers find the same sequence.
    progress : function of (generation, ratio), optional

    Returns
    -------
    ratio, numbers
        The numbers of the arena, [T, ...]; on an interval these are the gradients.

    Examples
    --------
    >>> from memopt_ref.theory.bounds import get
    >>> ratio, g = hill(get("ogd.tuned"), 4, generations=30)
    >>> 0.9 < ratio <= 1.0
    True
    """
    rng = np.random.default_rng(seed)
    place, rule = arena_of(bound), player(bound, T, factor)
    usual = size_of(bound, T)
    generations = usual[0] if generations is None else generations
    population = usual[1] if population is None else population
    best = place.limit(_beginnings(place, T, elite, rng))
    score = ratios(bound, rule, best)
    for generation in range(generations):
        parents = best[rng.integers(0, len(best), population)]
        children = place.limit(np.clip(_changed(parents, rng), -1.0, 1.0))
        everyone, scores = np.concatenate([best, children]), ratios(bound, rule, children)
        scores = np.concatenate([score, scores])
        order = np.argsort(-scores, kind="stable")[:elite]
        best, score = everyone[order], scores[order]
        if progress is not None:
            progress(generation + 1, float(score[0]))
    return float(score[0]), best[0]


def _beginnings(place: Arena, T: int, elite: int, rng: Any) -> Array:
    """Random numbers, random signs, and what is known to hurt in one dimension, along every number."""
    shape, half = (T, *place.shape), elite // 2
    made = np.concatenate(
        [rng.uniform(-1, 1, (elite - half, *shape)), rng.integers(0, 2, (half, *shape)) * 2.0 - 1.0]
    )
    known = [np.array([(-1.0) ** s for s in range(T)])]
    if T >= 8:
        makers: tuple[Callable[[int], Game], ...] = (games.BY_NAME["zigzag_run"], games.wall_of)
        for make in makers:
            reveal = make(T).begin(T)
            known.append(np.array([float(reveal(t, np.zeros(1))[0]) for t in range(1, T + 1)]))
    for k, line in enumerate(known):
        made[k] = line.reshape(-1, *(1,) * len(place.shape))
    return made


def _changed(parents: Array, rng: Any) -> Array:
    """Children: some entries moved, some turned, and some sequences ended by repeating one round."""
    n, T = parents.shape[:2]
    one = (n,) + (1,) * (parents.ndim - 1)
    scale = rng.choice([1.0, 0.1, 0.01], one)
    which = rng.random(parents.shape) < rng.choice([0.05, 0.2, 1.0], one)
    children = parents + which * scale * rng.normal(size=parents.shape)
    flips = rng.random(parents.shape) < rng.choice([0.0, 1.5 / T], one)
    children = np.where(flips, -children, children)
    # Worst sequences end in runs.
    tail = rng.integers(0, T, n)
    same = (rng.random(n) < 1 / 3)[:, None] & (np.arange(T) >= tail[:, None])
    ends_alike = children[np.arange(n), tail][:, None]
    return np.where(same.reshape(n, T, *one[2:]), ends_alike, children)
