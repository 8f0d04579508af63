r"""The exact decomposition of regret, and proofs as chains of named values.

For any points x_t, y_t, any positive semi-definite H_t, m_t = H_t (x_t - y_t) and any u, projected or not,
right or wrong,

    sum <g_t, x_t - u>  =  A(u) + contraction + projection(u) + residual(u)

    A(u)           1/2 sum [|x_t - u|^2_{H_t} - |x_{t+1} - u|^2_{H_t}] + 1/2 sum |m_t|^2_{H_t^{-1}}
    contraction    - 1/2 sum |y_t - x_{t+1}|^2_{H_t}                                     <= 0 projection(u)
    sum <H_t (x_{t+1} - y_t), x_{t+1} - u>       <= 0 for all u iff x_{t+1} is the projection in H_t
    residual(u)    sum <g_t - m_t, x_t - u>                     rounding; or momentum

(expand |x_{t+1} - u|^2 around y_t). The quadratic terms in u cancel within a round, so every part is affine
in u, and running sums suffice. The four parts are the link R <= A, the test of the projection, the honesty
test of the metric (a kernel that steps 10 % long shows up in the residual at its first step) and the
rounding.

A player that shows no metric is a black box: its values are NaN, and only the endpoints of a chain are left.

A bound's proof is a list of :class:`Link`, each at least the one before it by the lemma that it names. The
tolerance is what was measured: the residual, plus a bound on the error of the sums themselves.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from .geometry import Array
from .play import Round, Trace


@dataclass(frozen=True)
class Link:
    """A value of the chain and the lemma by which it is at least the value before it."""

    name: str
    value: Any
    lemma: str


@dataclass(frozen=True)
class Check:
    """A condition that a proof uses at every step.

    ``worst`` is the largest violation (0 or less is fine), ``step`` the first round beyond the limit, or
    None.
    """

    name: str
    worst: float
    step: int | None
    lemma: str

    @property
    def holds(self) -> bool:
        """Whether no round broke it."""
        return self.step is None


@dataclass
class Affine:
    """A function constant - <slope, u>."""

    constant: Any = 0
    slope: Any = 0

    def add(self, c: Array, x: Array) -> None:
        """Add <c, x - u>."""
        self.constant = self.constant + np.sum(c * x)
        self.slope = self.slope + c

    def __call__(self, u: Array) -> Any:
        """At u."""
        return self.constant - np.sum(self.slope * u)


class Watch:
    """The worst excess of one inequality over the rounds, and the first round beyond its limit."""

    def __init__(self, name: str, lemma: str) -> None:
        self.name, self.lemma = name, lemma
        self.worst: float = 0.0
        self.step: int | None = None

    def note(self, t: int, excess: Any, limit: Any = 0.0) -> bool:
        """Take note of ``excess`` <= ``limit`` at round t; whether it holds."""
        good = bool(excess <= limit)
        self.worst = max(self.worst, float(excess))
        if not good and self.step is None:
            self.step = t
        return good

    def check(self) -> Check:
        """What was found."""
        return Check(self.name, self.worst, self.step, self.lemma)


class SecondMoment:
    """Lower and upper side of gamma <= nu <= top for a rule that divides by the root of nu.

    What is compared is the denominator that the step uses. There is no tolerance: floating-point addition and
    roots are monotone, minima and maxima do not round.

    Parameters
    ----------
    name : str
        The rule's value that is compared.
    root : bool
        Whether it is the root of nu, or nu itself.
    upper : object with ``add(g)``, optional
        Returns the upper side, summed from the gradients alone.
    """

    def __init__(self, name: str = "denominator", root: bool = True, upper: Any = None) -> None:
        self.name, self.root, self.upper, self.gamma = name, root, upper, 0
        self.below = Watch("below", "the sum of g^2 is at most nu")
        self.above = Watch(
            "above", "nu is at most the least, over the sets, of the sums of their largest g^2"
        )

    def see(self, r: Round) -> None:
        """Compare at one round, in the dtype of the player; a black box shows nothing to compare."""
        if self.name not in r.values:
            return
        found = np.asarray(r.values[self.name])
        g = r.g.astype(found.dtype, copy=False)
        self.gamma = self.gamma + g * g
        self.below.note(r.t, np.max(self._scaled(self.gamma) - found, initial=0))
        if self.upper is not None:
            self.above.note(r.t, np.max(found - self._scaled(self.upper.add(g)), initial=0))

    def _scaled(self, nu: Array) -> Array:
        return np.sqrt(nu) if self.root else nu

    def checks(self) -> list[Check]:
        """One or two."""
        return [self.below.check()] + ([] if self.upper is None else [self.above.check()])


def broken_links(links: list[Link], slack: Any) -> list[str]:
    """The links whose value is below the one before it by more than ``slack``, with their lemmas."""
    found = []
    for before, link in pairwise(links):
        if not before.value <= link.value + slack:
            found.append(f"{before.name} <= {link.name}: {link.lemma}")
    return found


def trajectory_widths(trace: Trace, u: Array) -> Array:
    """max_t |x_{t,i} - u_i| for every coordinate, from the range of the iterates."""
    return np.maximum(np.abs(trace.high - u), np.abs(trace.low - u))
