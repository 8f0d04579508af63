"""Play a rule of the library in a game of online convex optimization, and keep what its theorems speak of.

Round t: the player shows x_t, the game reveals a convex loss, the rule steps to y_t, and y_t is projected in
the rule's own metric H_t (``norm="metric"``), which is what the proofs of mirror descent ask for.

A trace keeps sums, never the matrices: at T = 10^5 and 10^3 entries these would need gigabytes. Iterates and
gradients are kept while they are small. What a proof needs beyond that is summed by observers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from math import inf
from typing import Any, Protocol

import numpy as np

from ..parts.metric import Metric
from .geometry import Array, Domain
from .losses import Hindsight, Linear, Loss, best, linear_best

#: Reveals the loss of round t at the player's point: a gradient array stands for a linear loss.
Reveal = Callable[[int, Array], Any]

#: Entries of one kept history (iterates or gradients) that a trace keeps unless it is asked to.
KEPT = 2**21


class Player(Protocol):
    """What is played: any rule of the library, or an algorithm of :mod:`.players`."""

    @property
    def name(self) -> str:
        """For records."""

    @property
    def is_scheduled(self) -> bool:
        """Whether ``at`` changes anything."""

    def at(self, step: int) -> Any:
        """The player with its numbers at this round, 1 at the first."""

    def init_leaf(self, w: Array) -> dict[str, Any]:
        """State before the first round."""

    def values(self, w: Array, g: Array, state: Any) -> dict[str, Any]:
        """One step; ``w`` and the state's entries are the new ones."""

    def metric(self, values: Any) -> Metric | None:
        """H_t, or None."""


@dataclass(frozen=True, eq=False)
class Game:
    """A sequence of convex losses, fixed or reacting to the player, and where it is played.

    Parameters
    ----------
    name : str
    domain : Domain
        Where the player must stay.
    x1 : array
        The first iterate.
    begin : function of T
        Returns a fresh ``reveal(t, x)``.
    against : Domain, optional
        The comparators; the domain unless said. Must be bounded.
    G, G_inf : float
        Declared bounds on the Euclidean and the sup-norm of every gradient; a trace checks them.
    mu, smoothness : float
        Strong convexity of every loss, and the Lipschitz constant of its gradient.
    nonnegative : bool
        Whether every loss is >= 0 on the whole space.
    rank : int
        For matrices: a bound on the rank of every gradient.
    """

    name: str
    domain: Domain
    x1: Array
    begin: Callable[[int], Reveal]
    against: Domain | None = None
    G: float = inf
    G_inf: float = inf
    mu: float = 0.0
    smoothness: float = inf
    nonnegative: bool = False
    rank: int | None = None

    @property
    def comparators(self) -> Domain:
        """The set of u."""
        return self.domain if self.against is None else self.against

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the iterates."""
        return tuple(self.x1.shape)


@dataclass(frozen=True, eq=False, slots=True)
class Round:
    """One round, as observers see it; arrays are float64 (or objects) whatever the player's dtype."""

    t: int
    x: Array
    g: Array
    values: dict[str, Any]
    metric: Metric | None
    y: Array
    x_next: Array
    player: Any
    unit: float


class Observer(Protocol):
    """Sums what a proof needs over the rounds."""

    def see(self, r: Round) -> None:
        """Take note of one round."""


@dataclass(eq=False)
class Trace:
    """What is left of a play.

    ``S`` is the sum of gradients, ``earned`` the sum of <g_t, x_t>, ``gamma`` the entry-wise sum of squares,
    ``square`` the sum of |g_t|^2, ``low`` and ``high`` the range of every coordinate of x_1, ..., x_T,
    ``mass`` the sum of magnitudes behind ``earned``, ``trivial`` the sum over rounds of the largest <g_t, x -
    u> over the domain (infinite without a bounded one). ``x`` (T + 1 iterates) and ``g`` are None for long
    runs.
    """

    game: Game
    player: Any
    T: int
    norm: str
    unit: float
    S: Array
    earned: Any = 0
    loss: Any = 0
    gamma: Array = 0
    square: Any = 0
    G: Any = 0
    G_inf: Any = 0
    mass: Any = 0
    trivial: Any = 0
    low: Array = None
    high: Array = None
    x_end: Array = None
    x: list[Array] | None = None
    g: list[Array] | None = None
    losses: list[Loss] | None = None
    observers: dict[str, Any] = field(default_factory=dict)
    _hindsight: Hindsight | None = None

    def linear_regret(self, u: Array) -> Any:
        """Sum of <g_t, x_t - u>: what every theorem bounds."""
        return self.earned - np.sum(self.S * u)

    def hindsight(self) -> Hindsight:
        """The best comparator, with its certificate."""
        if self._hindsight is None:
            domain = self.game.comparators
            made = linear_best(self.S, domain) if self.losses is None else best(self.losses, domain)
            self._hindsight = made
        return self._hindsight

    def regret(self) -> tuple[Any, Any]:
        """The interval in which the regret lies: [at the comparator found, and its gap more]."""
        found = self.hindsight()
        if self.losses is None:
            low = self.linear_regret(found.u)
            return low, low + found.gap
        low = self.loss - found.value
        return low, low + found.gap

    def rounding(self, mass: Any = 0) -> Any:
        """A bound on the error of the float64 sums that a comparison with regret is made of.

        A recursive sum of n terms errs by at most n ulp/2 of the sum of magnitudes, and every term here has
        less than 16 roundings of its own.
        """
        objects = isinstance(self.S, np.ndarray) and self.S.dtype == object
        if objects and self.unit == 0:
            return 0
        n = self.T * max(int(np.prod(self.game.shape)), 1) + 16
        return n * (self.unit if objects else 2.0**-53) * (self.mass + mass)


def play(
    player: Any,
    game: Game,
    T: int,
    *,
    norm: str = "metric",
    observers: Iterable[Any] = (),
    dtype: Any = np.float64,
    keep: bool | None = None,
    unit: float | None = None,
    blind: bool = False,
) -> Trace:
    """Play ``T`` rounds.

    Parameters
    ----------
    player : Rule, or a player of :mod:`.players`
    game : Game
    T : int
        Rounds, >= 1.
    norm : {"metric", "euclid"}
        The norm of the projection: the player's own metric, or (wrongly, but for scalar metrics and boxes)
        the Euclidean one.
    observers : iterable of Observer
        Found again in ``trace.observers`` by class name.
    dtype : dtype
        Of the iterates; ``object`` for exact replays.
    keep : bool, optional
        Keep iterates and gradients; by default while T times the size is below 2^21.
    unit : float, optional
        Half an ulp of 1 in the player's arithmetic; that of the dtype, and 0 for objects (fractions).
    blind : bool
        The player's metric projects and is not shown to observers: only the two ends of a chain are left.

    Returns
    -------
    Trace

    Raises
    ------
    AssertionError
        The game reveals a gradient above its declared bounds.

    Examples
    --------
    >>> from memopt_ref.rules.sgd import SGD
    >>> from memopt_ref.theory import games
    >>> trace = play(SGD(learning_rate=0.125), games.zigzag_run(56, 8), 64)
    >>> float(trace.regret()[0])
    8.0
    """
    dtype = np.dtype(dtype)
    wide = dtype if dtype == object else np.dtype(np.float64)
    x = game.x1.astype(dtype)
    state = player.init_leaf(x)
    reveal = game.begin(T)
    size = max(int(np.prod(game.shape)), 1)
    keep = size * T <= KEPT if keep is None else keep
    if unit is None:
        unit = 0.0 if dtype == object else float(np.finfo(dtype).eps) / 2
    watching = {type(one).__name__: one for one in observers}
    here = x.astype(wide)
    zeros = here - here
    trace = Trace(game, player, T, norm, unit, zeros, gamma=zeros, low=here, high=here, observers=watching)
    kept_x, kept_g, losses = [here], [], []
    S, gamma = zeros, zeros
    for t in range(1, T + 1):
        loss = reveal(t, here)
        if isinstance(loss, Loss):
            g64 = loss.subgradient(here)
            losses.append(loss)
            trace.loss = trace.loss + loss.value(here)
        else:
            g64 = loss
        g = np.asarray(g64).astype(dtype, copy=False)
        g64 = g.astype(wide, copy=False)
        now = player.at(t) if player.is_scheduled else player
        values = now.values(x, g, state)
        state = {name: values[name] for name in state}
        y = values["w"]
        metric = now.metric(values)
        x = np.asarray(game.domain.project(y, metric if norm == "metric" else None)).astype(dtype, copy=False)
        following = x.astype(wide, copy=False)
        earned, square = g64 * here, g64 * g64
        trace.earned = trace.earned + np.sum(earned)
        trace.mass = trace.mass + np.sum(np.abs(earned)) + np.sum(np.abs(g64))
        if game.domain.bounded:
            trace.trivial = trace.trivial + game.domain.breadth(g64)
        S, gamma = S + g64, gamma + square
        norm2 = np.sum(square)
        trace.square = trace.square + norm2
        trace.G, trace.G_inf = max(trace.G, norm2), max(trace.G_inf, np.max(np.abs(g64), initial=0))
        trace.low, trace.high = np.minimum(trace.low, here), np.maximum(trace.high, here)
        if watching:
            shown = None if blind else metric
            seen = Round(t, here, g64, values, shown, y.astype(wide, copy=False), following, now, unit)
            for one in watching.values():
                one.see(seen)
        if keep:
            kept_x.append(following)
            kept_g.append(g64)
        here = following
    if not game.domain.bounded:
        trace.trivial = inf
    trace.S, trace.gamma, trace.x_end = S, gamma, here
    trace.G = np.sqrt(trace.G)
    if keep:
        trace.x, trace.g = kept_x, kept_g
    if any(not isinstance(loss, Linear) for loss in losses):
        assert len(losses) == T, "a game mixes gradients and losses"
        trace.losses = losses
    _check_declared(trace)
    return trace


def _check_declared(trace: Trace) -> None:
    """A game that breaks its word would make every verdict worthless."""
    game, slack = trace.game, 1 + 8 * max(trace.unit, 2.0**-53)
    assert float(trace.G) <= game.G * slack, (game.name, "G", float(trace.G), game.G)
    assert float(trace.G_inf) <= game.G_inf * slack, (game.name, "G_inf", float(trace.G_inf), game.G_inf)
