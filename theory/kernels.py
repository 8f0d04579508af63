r"""Residual runs: a chain holds with a fast kernel's own iterates, not only with the reference's.

A kernel's iterate y_t is compared with the reference's step from the same (w, g, old state), which also says
the metric H_t. What the kernel adds to the residual is

    sum <H_t (y^ref_t - y_t), x_t - u>,

and for a kernel that declares itself bitwise it is exactly nothing: every value it writes has the reference's
bits, in every round of a play that the kernel itself has led so far.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar

import numpy as np

import memopt_ref

from ..backends import Choice, select
from ..errors import RowIndexError
from ..parts.metric import Metric
from ..rules.base import Rule
from . import games
from .bounds import START, Bound
from .bounds.adagrad import convexity
from .chain import Check, Link, Watch
from .geometry import Array
from .play import Game, Round, Trace

#: What a kernel is asked to step, in both: 32-bit sums show an order that 64-bit ones hide.
DTYPES = ("float32", "float64")

#: Entries of a tensor for which no backend leaves its compiled code unloaded.
LARGE = 2**16

#: Where the kernel's new values stand among the reference's.
WRITTEN = "written by the kernel"


@dataclass(frozen=True)
class KernelPlayer:
    """A rule stepped by the kernel that is chosen for it; values and metric are the reference's."""

    rule: Rule
    choice: Choice

    @property
    def name(self) -> str:
        """The rule and its kernel."""
        return f"{self.rule.name} by {self.choice.variant.name}"

    @property
    def is_scheduled(self) -> bool:
        """As the rule."""
        return self.rule.is_scheduled

    @property
    def learning_rate(self) -> Any:
        """The rule's."""
        return self.rule.learning_rate

    @property
    def beta(self) -> Any:
        """The rule's, if it has one."""
        return getattr(self.rule, "beta", 0.0)

    def at(self, step: int) -> KernelPlayer:
        """With the rule's numbers at this round."""
        return dataclasses.replace(self, rule=self.rule.at(step))

    def init_leaf(self, w: Array) -> dict[str, Any]:
        """The rule's state."""
        return self.rule.init_leaf(w)

    def values(self, w: Array, g: Array, state: Any) -> dict[str, Any]:
        """The reference's values, those that the kernel writes replaced by its own."""
        values = dict(self.rule.values(w, g, state))
        own = {name: np.array(value) if np.ndim(value) else value for name, value in state.items()}
        moved = np.array(w)
        self.choice.variant.step(self.rule, moved, g, own)
        written = {"w": moved, **own}
        reference = {name: values[name] for name in written}
        return values | written | {WRITTEN: (written, reference)}

    def metric(self, values: Any) -> Metric | None:
        """H_t of the reference: of its own values, also where the kernel wrote others."""
        return self.rule.metric(values | values[WRITTEN][1])


class Residual:
    """What a kernel adds to the residual, and every bit that it writes."""

    def __init__(self, bitwise: bool) -> None:
        self.bitwise = bitwise
        lemma = "H_t (y_t^ref - y_t) = 0: the kernel adds nothing to the residual of its rule"
        self.added = Watch("residual", lemma)
        self.same = Watch("bits", "the kernel writes the reference's bits, from the same w, g and state")

    def see(self, r: Round) -> None:
        """Compare at one round."""
        written, reference = r.values[WRITTEN]
        off = np.asarray(reference["w"]).astype(r.x.dtype) - np.asarray(written["w"]).astype(r.x.dtype)
        scale = 1.0 if r.metric is None else np.max(r.metric.weights, initial=0)
        limit = 0.0 if self.bitwise else 8 * r.unit * scale * np.max(np.abs(r.x) + np.abs(r.y), initial=0)
        m = off if r.metric is None else r.metric.mul(off)
        self.added.note(r.t, np.max(np.abs(m), initial=0), limit)
        if self.bitwise:
            names = written.keys()
            self.same.note(r.t, sum(_differing(written[name], reference[name]) for name in names))

    def checks(self) -> list[Check]:
        """Residual and bits."""
        return [self.added.check(), self.same.check()]


def _differing(a: Any, b: Any) -> int:
    """How many entries have other bits."""
    a, b = np.ascontiguousarray(a), np.ascontiguousarray(b)
    if a.shape != b.shape or a.dtype != b.dtype:
        return int(max(a.size, b.size, 1))
    return int(np.count_nonzero(np.frombuffer(a, np.uint8) != np.frombuffer(b, np.uint8)))


def wake(rule: Rule, shape: tuple[int, ...], dtype: Any) -> Choice:
    """The kernel for a tensor of this shape, after a step of a large one.

    Backends may leave small tensors to the reference until their compiled code is loaded: without the large
    one a small game would play the reference against itself.
    """
    choice = select(rule, shape, dtype)
    others = max(prod(shape[:-1]), 1)
    w = np.zeros((*shape[:-1], -(-LARGE // others)), dtype)
    # A hash that is a table of rows knows no more rows than the game has; its class is woken with another.
    for like in (rule, type(rule)()):
        if choice.variant.supports(like, w.shape, w.dtype)[0]:
            try:
                choice.variant.step(like.at(1), w, np.ones_like(w), like.init_leaf(w))
            except RowIndexError:
                continue
            break
    return choice


class OnKernel:
    """A bound, held against its rule as a kernel steps it: one observer more."""

    def __init__(self, bound: Bound, dtype: Any) -> None:
        self.bound, self.dtype = bound, dtype

    def __getattr__(self, name: str) -> Any:
        return getattr(self.bound, name)

    def rule(self, game: Game, T: int) -> Any:
        """The bound's rule by its kernel."""
        rule = self.bound.rule(game, T)
        return KernelPlayer(rule, wake(rule, game.shape, self.dtype))

    def observers(self, game: Game, T: int) -> list[Any]:
        """The bound's, and the residual."""
        choice = select(self.bound.rule(game, T), game.shape, self.dtype)
        bitwise = choice.variant.numerics == "bitwise"
        return [*self.bound.observers(game, T), Residual(bitwise)]

    def checks(self, trace: Trace) -> list[Check]:
        """The bound's, and the residual's where a bound names its own list."""
        found: list[Check] = self.bound.checks(trace)
        mine: list[Check] = trace.observers["Residual"].checks()
        return found if all(check in found for check in mine) else [*found, *mine]


@dataclass(frozen=True, kw_only=True)
class Step(Bound):
    """No theorem: what the play of a rule without one is held against, so that its kernel is seen at all."""

    id: ClassVar[str] = "kernel.step"
    statement: ClassVar[str] = (
        "no claim: R <= sum of the largest <g_t, x - u>, which every player on a box has"
    )
    source: ClassVar[str] = "a residual run"
    kind: ClassVar[str] = "formula"
    D: ClassVar[str] = START
    player: Any = None

    def rule(self, game: Game, T: int) -> Any:
        """As given."""
        return self.player

    def chain(self, trace: Trace, u: Array) -> list[Link]:
        """R_lin <= C, which is no claim."""
        return [*convexity(trace, u), Link("C", trace.trivial, "|<g, x - u>| is at most the breadth")]


def rules() -> Iterator[Rule]:
    """One of every rule of the library, with its defaults."""
    for name in memopt_ref.__all__:
        kind = getattr(memopt_ref, name)
        if isinstance(kind, type) and issubclass(kind, Rule) and kind is not Rule:
            yield kind()


def is_fast(rule: Any, shape: tuple[int, ...], dtype: Any) -> bool:
    """Whether another kernel than the reference is chosen for it."""
    return isinstance(rule, Rule) and select(rule, shape, dtype).variant.name != "numpy_ref"


def small_matrix(T: int) -> Game:
    """Signs in a matrix of odd size."""
    return games.rademacher((5, 7))


def plays(bounds: Mapping[str, tuple[Bound, Game, int]]) -> Iterator[tuple[Any, Game, int, str]]:
    """(bound, game, T, dtype) for every bound whose rule has a fast kernel, then for the rules without one.

    Parameters
    ----------
    bounds : mapping
        A play (bound, game, T) for each bound that is to be tried.
    """
    covered = set()
    for bound, game, T in bounds.values():
        rule = bound.rule(game, T)
        for dtype in DTYPES:
            if is_fast(rule, game.shape, dtype):
                covered.add(type(rule))
                yield OnKernel(bound, dtype), game, T, dtype
    game, T = small_matrix(0), 40
    for rule in rules():
        for dtype in DTYPES:
            if type(rule) not in covered and is_fast(rule, game.shape, dtype):
                yield OnKernel(Step(player=rule), dtype), game, T, dtype
