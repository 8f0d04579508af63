r"""Games without projection: fixed functions to be minimised, and the traps of compressed descent.

A :class:`Problem` is a game whose losses are one function f, played everywhere; what its theorems bound is
not regret. Its comparators are a ball, as every game needs some.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..parts.compressors import Compressor
from .geometry import Array, Box, Everywhere, L2Ball
from .losses import Loss
from .play import Game, Reveal


@dataclass(frozen=True, eq=False)
class Problem(Game):
    """Minimise f from x1; ``mu`` and ``smoothness`` are those of f.

    ``value``, ``slope`` and ``least`` are f, its gradient and its minimum, ``second_moment`` bounds E |g|^2,
    ``noisy`` says that the game's gradients are not those of f, ``sigma`` is the size of independent signs on
    their entries (each round all 2^d patterns are equally likely), ``start`` gives slots that do not start at
    zero (a theorem for every state may be attained elsewhere).
    """

    value: Callable[[Array], Any] = lambda x: 0.0
    slope: Callable[[Array], Array] = lambda x: x
    least: float = 0.0
    second_moment: float = math.inf
    sigma: Array = 0.0
    noisy: bool = False
    start: Mapping[str, Array] = field(default_factory=dict)


@dataclass(frozen=True)
class Started:
    """A rule whose state does not start at zero."""

    rule: Any
    start: Mapping[str, Array]

    @property
    def name(self) -> str:
        """The rule's."""
        return str(self.rule.name)

    @property
    def is_scheduled(self) -> bool:
        """The rule's."""
        return bool(self.rule.is_scheduled)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.rule, name)

    def replace(self, **changes: Any) -> Started:
        """The same start, another rule."""
        return Started(self.rule.replace(**changes), self.start)

    def init_leaf(self, w: Array) -> dict[str, Any]:
        """As given; the other slots as the rule has them."""
        return {**self.rule.init_leaf(w), **{k: v.astype(w.dtype) for k, v in self.start.items()}}


def freely(game: Game, radius: float = 1.0) -> Game:
    """The same losses without projection, against a ball around x_1."""
    shape = game.shape
    ball = L2Ball(radius, shape, game.x1)
    return dataclasses.replace(game, name=f"{game.name} everywhere", domain=Everywhere(shape), against=ball)


def quadratic(curvatures: Any, x1: Any = None, start: Mapping[str, Array] | None = None) -> Problem:
    """1/2 sum a_i x_i^2, from ones unless said.

    Examples
    --------
    >>> problem = quadratic([0.1, 1.0])
    >>> float(problem.value(problem.x1)), problem.mu, problem.smoothness
    (0.55, 0.1, 1.0)
    """
    a = np.asarray(curvatures, np.float64)
    x1 = np.ones(a.shape) if x1 is None else np.asarray(x1, np.float64)
    return Problem(
        f"quadratic({a.size})",
        Everywhere(a.shape),
        x1,
        lambda T: lambda t, x: a * x,
        L2Ball(1.0, a.shape),
        mu=float(np.min(a)),
        smoothness=float(np.max(a)),
        value=lambda x: 0.5 * np.sum(a * x * x),
        slope=lambda x: a * x,
        start={} if start is None else start,
    )


def bumps(d: int = 10, noise: float = 5.0, seed: int = 0) -> Problem:
    """Sum x_i^2 / (1 + x_i^2) from x = 1/2, with a random sign of size ``noise`` on the first gradient entry.

    Top-1 without feedback sees the noise alone. |f'| <= 9 / (8 sqrt 3), f'' <= 2.
    """

    def slope(x: Array) -> Array:
        return 2 * x / (1 + x * x) ** 2

    def begin(T: int) -> Reveal:
        signs = np.random.default_rng(seed).integers(0, 2, T) * 2.0 - 1.0
        first = np.eye(1, d)[0]
        return lambda t, x: slope(x) + noise * signs[t - 1] * first

    return Problem(
        f"bumps({d})",
        Everywhere((d,)),
        np.full(d, 0.5),
        begin,
        L2Ball(1.0, (d,)),
        smoothness=2.0,
        value=lambda x: np.sum(x * x / (1 + x * x)),
        slope=slope,
        second_moment=d * 81 / 192 + noise**2,
        noisy=noise > 0,
    )


def slow_side(shape: int = 2, size: float = 0.9) -> Game:
    """((-1)^t, size, ..., size), everywhere against the unit ball: Top-1 without feedback moves one entry."""

    def reveal(t: int, x: Array) -> Array:
        g = np.full(shape, size)
        g[0] = (-1.0) ** t
        return g

    G = math.sqrt(1 + (shape - 1) * size * size)
    ball = L2Ball(1.0, (shape,))
    return Game(
        f"slow_side({shape})", Everywhere((shape,)), np.zeros(shape), lambda T: reveal, ball, G=G, G_inf=1.0
    )


@dataclass(frozen=True, eq=False)
class CrossedLines(Loss):
    """|x_1 + x_2| / 2 + |x_1 - x_2|; sign(0) counts as +1."""

    def value(self, x: Array) -> Any:
        """f(x)."""
        return 0.5 * np.abs(x[0] + x[1]) + np.abs(x[0] - x[1])

    def subgradient(self, x: Array) -> Array:
        """One of four, each with the sign (1, -1) or (-1, 1)."""
        a = 0.5 if x[0] + x[1] >= 0 else -0.5
        b = 1.0 if x[0] - x[1] >= 0 else -1.0
        return np.array([a + b, a - b])


def crossed_lines() -> Game:
    """The loss above as its subgradients, from (1, 1) and against the ball of radius sqrt 2 around it."""
    loss, x1 = CrossedLines(), np.ones(2)
    return Game(
        "crossed_lines",
        Everywhere((2,)),
        x1,
        lambda T: lambda t, x: loss.subgradient(x),
        L2Ball(math.sqrt(2.0), (2,), x1),
        G=math.sqrt(2.5) * (1 + 1e-15),
        G_inf=1.5,
    )


def biased_coin(seed: int = 0) -> Game:
    """Gradients 4 with probability 1/4, else -1, on [-1, 1]: the mean is 1/4, most signs are -1."""

    def begin(T: int) -> Reveal:
        rare = np.random.default_rng(seed).random(T) < 0.25
        return lambda t, x: np.full(1, 4.0 if rare[t - 1] else -1.0)

    return Game("biased_coin", Box.symmetric((1,)), np.zeros(1), begin, G=4.0, G_inf=4.0)


@dataclass(frozen=True)
class Turn(Compressor):
    """C(x) = x - s R x with a rotation R of each pair of entries: ||C(x) - x|| = s ||x|| exactly.

    Examples
    --------
    >>> Turn(0.5, 0.0)(np.array([2.0, 4.0]))
    array([1., 2.])
    """

    s: float = 0.5
    angle: float = 0.4

    def turned(self, x: Array) -> Array:
        """S R x."""
        c, n = self.s * math.cos(self.angle), self.s * math.sin(self.angle)
        pairs = x.reshape(-1, 2)
        return np.stack([c * pairs[:, 0] - n * pairs[:, 1], n * pairs[:, 0] + c * pairs[:, 1]], 1).reshape(
            x.shape
        )

    def __call__(self, x: Array) -> Array:
        """Any even number of entries."""
        return x - self.turned(x)

    def contraction(self, shape: Any) -> float:
        """1 - s^2."""
        return 1 - self.s**2


def cosh_wells(d: int = 6, noise: float = 0.3, seed: int = 0) -> Problem:
    """Sum a_i log cosh(x_i - c_i) with a in [0.2, 1]; the gradient's entries get independent signs of noise.

    L = max a, |f_i'| <= max a. All 2^d patterns of a round are equally likely.
    """
    rng = np.random.default_rng(seed)
    a, c = rng.uniform(0.2, 1.0, d), rng.normal(size=d)
    size = noise * a

    def begin(T: int) -> Reveal:
        signs = np.random.default_rng(seed + 1).integers(0, 2, (T, d)) * 2.0 - 1.0
        return lambda t, x: a * np.tanh(x - c) + size * signs[t - 1]

    def value(x: Array) -> Any:
        # Along the first axis, so that columns may hold other points.
        column = (slice(None),) + (None,) * (x.ndim - 1)
        y = np.abs(x - c[column])
        return np.sum(a[column] * (y + np.log1p(np.exp(-2 * y)) - math.log(2.0)), axis=0)

    return Problem(
        f"cosh_wells({d})",
        Everywhere((d,)),
        np.zeros(d),
        begin,
        L2Ball(1.0, (d,)),
        G_inf=float(np.max(a + size)) * (1 + 1e-15),
        smoothness=float(np.max(a)),
        value=value,
        slope=lambda x: a * np.tanh(x - c),
        second_moment=float(np.sum(a * a + size * size)),
        sigma=size,
        noisy=True,
    )


def three_heavy(rows: int = 400, seed: int = 0) -> Game:
    """Three random entries of size 1 a round, everywhere: what a sketch's row minimum is switched by."""

    def begin(T: int) -> Reveal:
        rng = np.random.default_rng(seed)

        def reveal(t: int, x: Array) -> Array:
            g = np.zeros(rows)
            g[rng.choice(rows, 3, replace=False)] = 1.0
            return g

        return reveal

    ball = L2Ball(1.0, (rows,))
    return Game(
        f"three_heavy({rows})",
        Everywhere((rows,)),
        np.zeros(rows),
        begin,
        ball,
        G=math.sqrt(3) * (1 + 1e-15),
        G_inf=1.0,
    )


@dataclass(frozen=True, eq=False)
class Samples(Game):
    """Independent losses f(z, .), all sequences of T outcomes at once: one coordinate of the tensor for each.

    ``weights`` is the probability of each sequence, ``loss`` f(z, x), ``risk`` its mean over z, ``best`` the
    minimiser of the risk, ``span`` the range of the losses.
    """

    rounds: int = 0
    weights: Array = None
    outcomes: Array = None
    loss: Callable[[Array, Array], Array] = lambda z, x: z * x
    risk: Callable[[Array], Array] = lambda x: x
    best: float = -1.0
    span: float = 2.0


def all_sequences(T: int, p: float = 0.7, curved: bool = False) -> Samples:
    """z = +1 with probability p, else -1; losses z x, or (x - z)^2 / 2, on [-1, 1].

    Examples
    --------
    >>> float(np.sum(all_sequences(3).weights)), all_sequences(3).shape
    (1.0, (8,))
    """
    bits = (np.arange(2**T) >> np.arange(T)[:, None]) & 1
    z = 1.0 - 2.0 * bits
    up = np.sum(bits == 0, axis=0)
    mean = 2 * p - 1
    losses: dict[str, Any] = {
        "loss": (lambda z, x: (x - z) ** 2 / 2) if curved else (lambda z, x: z * x),
        "risk": (lambda x: (x * x + 1) / 2 - mean * x) if curved else (lambda x: mean * x),
        "best": mean if curved else -math.copysign(1.0, mean),
    }
    return Samples(
        f"all_sequences({T}, {p:g}{', curved' if curved else ''})",
        Box.symmetric((2**T,)),
        np.zeros(2**T),
        lambda _: lambda t, x: x - z[t - 1] if curved else z[t - 1],
        G_inf=2.0 if curved else 1.0,
        rounds=T,
        weights=p**up * (1 - p) ** (T - up),
        outcomes=z,
        span=2.0,
        **losses,
    )
