r"""Losses, and the best fixed point in hindsight with a certificate.

The comparator of a sum F of convex losses is bracketed: for any point u^ and any subgradient xi of F there,

    F(u^) - gap <= min F <= F(u^),        gap = max_u <xi, u^ - u>        (Frank-Wolfe gap)

and the gap needs only the set's linear oracle. So regret is an interval [R, R + gap]. Linear losses and
isotropic quadratics have gap 0 but for rounding; absolute losses are a linear programme, whose multipliers
(clipped to [-1, 1]) give a lower bound of their own whatever the solver's accuracy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import HyperparameterError
from .geometry import Array, Domain


@dataclass(frozen=True, eq=False)
class Loss:
    """A convex function of a tensor.

    ``smoothness`` bounds the Lipschitz constant of its gradient (0 for linear ones, infinity where there is a
    kink), ``convexity`` is its modulus of strong convexity.
    """

    @property
    def smoothness(self) -> float:
        """M."""
        return math.inf

    @property
    def convexity(self) -> float:
        """mu."""
        return 0.0

    def value(self, x: Array) -> Any:
        """f(x)."""
        raise NotImplementedError

    def subgradient(self, x: Array) -> Array:
        """One g with f(u) >= f(x) + <g, u - x> for all u."""
        raise NotImplementedError


@dataclass(frozen=True, eq=False)
class Linear(Loss):
    """<c, x>.

    Examples
    --------
    >>> float(Linear(np.array([1.0, -2.0])).value(np.array([3.0, 1.0])))
    1.0
    """

    c: Array

    @property
    def smoothness(self) -> float:
        """The gradient is constant."""
        return 0.0

    def value(self, x: Array) -> Any:
        """<c, x>."""
        return np.sum(self.c * x)

    def subgradient(self, x: Array) -> Array:
        """C."""
        return self.c


@dataclass(frozen=True, eq=False)
class Quadratic(Loss):
    """(mu / 2) |x - z|^2.

    Examples
    --------
    >>> float(Quadratic(np.array([1.0])).value(np.array([3.0])))
    2.0
    """

    z: Array
    mu: float = 1.0

    @property
    def smoothness(self) -> float:
        """Mu."""
        return self.mu

    @property
    def convexity(self) -> float:
        """Mu."""
        return self.mu

    def value(self, x: Array) -> Any:
        """At x."""
        return 0.5 * self.mu * np.sum((x - self.z) ** 2)

    def subgradient(self, x: Array) -> Array:
        """Mu (x - z)."""
        return self.mu * (x - self.z)


@dataclass(frozen=True, eq=False)
class Logistic(Loss):
    """log(1 + exp(-b <a, x>)), b = +1 or -1.

    Examples
    --------
    >>> round(float(Logistic(np.array([1.0]), 1.0).value(np.array([0.0]))), 6)
    0.693147
    """

    a: Array
    b: float

    @property
    def smoothness(self) -> float:
        """|a|^2 / 4."""
        return float(np.sum(self.a * self.a)) / 4.0

    def value(self, x: Array) -> Any:
        """At x, without overflow."""
        return np.logaddexp(0.0, -self.b * np.sum(self.a * x))

    def subgradient(self, x: Array) -> Array:
        """The gradient."""
        return (-self.b * np.exp(-np.logaddexp(0.0, self.b * np.sum(self.a * x)))) * self.a


@dataclass(frozen=True, eq=False)
class Abs(Loss):
    """|<a, x> - b|.

    Examples
    --------
    >>> float(Abs(np.array([1.0, 1.0]), 3.0).value(np.zeros(2)))
    3.0
    """

    a: Array
    b: float = 0.0

    def value(self, x: Array) -> Any:
        """At x."""
        return np.abs(np.sum(self.a * x) - self.b)

    def subgradient(self, x: Array) -> Array:
        """Sign(<a, x> - b) a; +a at the kink."""
        return self.a if np.sum(self.a * x) >= self.b else -self.a


@dataclass(frozen=True)
class Hindsight:
    """A comparator u with value <= F(u) <= value + nothing, and min F >= value - gap."""

    u: Array
    value: Any
    gap: Any


def total(losses: Sequence[Loss], x: Array) -> Any:
    """F(x), the sum."""
    return math.fsum(float(f.value(x)) for f in losses)


def best(losses: Sequence[Loss], domain: Domain) -> Hindsight:
    """The best fixed point of ``domain`` for the sum of ``losses``, with its certificate.

    Parameters
    ----------
    losses : sequence of Loss
        Of one kind that has a solver here: all linear or smooth, or all absolute.
    domain : Domain
        Bounded.

    Returns
    -------
    Hindsight
        ``min F`` is in [value - gap, value].

    Examples
    --------
    >>> from memopt_ref.theory.geometry import Box
    >>> found = best([Quadratic(np.array([3.0])), Quadratic(np.array([0.0]))], Box.symmetric((1,)))
    >>> found.u, float(found.value), float(found.gap)
    (array([1.]), 2.5, 0.0)
    """
    if all(isinstance(f, Abs) for f in losses):
        return _linear_programme([f for f in losses if isinstance(f, Abs)], domain)
    if any(math.isinf(f.smoothness) for f in losses):
        wanted = "losses that are all smooth, or all absolute"
        raise HyperparameterError("best", "a mixture", wanted, "Bracket the two parts by themselves.")
    return _smooth(losses, domain)


def linear_best(S: Array, domain: Domain) -> Hindsight:
    """The comparator for linear losses with the sum ``S``: exact, or certified by the domain."""
    u = domain.argmin(S)
    return Hindsight(u, np.sum(S * u), domain.gap(S, u))


def _smooth(losses: Sequence[Loss], domain: Domain) -> Hindsight:
    """Accelerated projected gradient with restarts, until the gap no longer falls."""
    linear = sum((f.c for f in losses if isinstance(f, Linear)), np.zeros(domain.shape))
    curved = [f for f in losses if not isinstance(f, Linear)]
    if not curved:
        return linear_best(linear, domain)
    by_margin = [f for f in curved if isinstance(f, Logistic)]
    bowls = [f for f in curved if isinstance(f, Quadratic)]
    others = [f for f in curved if not isinstance(f, Logistic | Quadratic)]
    # The gradient of all quadratics is mass x - pull.
    mass = math.fsum(f.mu for f in bowls)
    pull = sum((f.mu * f.z for f in bowls), np.zeros(domain.shape))
    # Rows b a: the gradient of all logistic losses is one product.
    rows = np.array([np.ravel(f.b * f.a) for f in by_margin])

    def gradient(x: Array) -> Array:
        slope = linear + mass * x - pull + sum((f.subgradient(x) for f in others), np.zeros(domain.shape))
        if len(rows):
            slope = slope - (np.exp(-np.logaddexp(0.0, rows @ np.ravel(x))) @ rows).reshape(domain.shape)
        return slope

    def certificate(x: Array, slope: Array) -> float:
        return max(float(np.sum(slope * x) - domain.least(slope)), 0.0)

    smoothness = sum(f.smoothness for f in curved)
    x = ahead = domain.project(np.zeros(domain.shape))
    best_x, gap, weight = x, certificate(x, gradient(x)), 1.0
    stale = 0
    for _ in range(5000):
        slope = gradient(ahead)
        following = domain.project(ahead - slope / smoothness)
        if np.sum(slope * (following - x)) > 0:
            weight = 1.0
        new_weight = 0.5 * (1.0 + math.sqrt(1.0 + 4.0 * weight * weight))
        ahead = following + (weight - 1.0) / new_weight * (following - x)
        x, weight = following, new_weight
        here = certificate(x, gradient(x))
        stale = 0 if here < 0.99 * gap else stale + 1
        if here < gap:
            best_x, gap = x, here
        if gap == 0 or stale > 60:
            break
    return Hindsight(best_x, total(losses, best_x), gap)


def _linear_programme(losses: Sequence[Abs], domain: Domain) -> Hindsight:
    """Min sum s with -s <= <a, x> - b <= s over a box; the multipliers bound the minimum from below."""
    from scipy.optimize import linprog
    from scipy.sparse import eye, hstack, vstack

    from .geometry import Box

    if not isinstance(domain, Box):
        raise HyperparameterError("best", type(domain).__name__, "a Box for absolute losses", "Use a box.")
    a = np.stack([np.ravel(f.a) for f in losses])
    b = np.array([f.b for f in losses])
    T, d = a.shape
    rows = vstack([hstack([a, -eye(T)]), hstack([-a, -eye(T)])]).tocsr()
    span = list(zip(domain.low.ravel(), domain.high.ravel(), strict=True)) + [(0, None)] * T
    cost = np.concatenate([np.zeros(d), np.ones(T)])
    solved = linprog(cost, A_ub=rows, b_ub=np.concatenate([b, -b]), bounds=span, method="highs")
    u = np.clip(solved.x[:d], domain.low.ravel(), domain.high.ravel()).reshape(domain.shape)
    up, down = np.split(np.asarray(solved.ineqlin.marginals), 2)
    multipliers = np.clip(down - up, -1.0, 1.0)
    floor = float(domain.least((multipliers @ a).reshape(domain.shape)) - multipliers @ b)
    value = total(losses, u)
    return Hindsight(u, value, max(value - floor, 0.0))
