"""Theorems as objects: one file a family of rules, one object a theorem.

A *theorem* holds for every step size and is a chain of named values; a *corollary* fixes the step size and so
can see a wrong one. Both say what they need of the game (``gate``), which rule they speak of (``rule``), what
has to be summed during a play (``observers``), and their proof (``chain``, ``checks``).

Two things keep a bound honest. Gates look at the game, the domain and the declared class only, never at the
player's rate or state: a wrong rule must come out as VIOLATED, not as not applicable. And the last link, C,
is made of the gradients alone: an accumulator must not certify itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any, ClassVar

from ...errors import HyperparameterError
from ..chain import Check, Link
from ..geometry import Array
from ..ledger import Ledger
from ..play import Game, Trace

#: Which distance a bound's D is. Published bounds differ here by a factor of two.
DIAMETER = "diameter"
START = "start"
TRAJECTORY = "trajectory"

#: The files, and the order of tables.
FAMILIES = (
    "ogd",
    "momentum",
    "adagrad",
    "ftrl",
    "sm3",
    "shampoo",
    "amsgrad",
    "error_feedback",
    "ef21",
    "tight_rates",
    "microadam",
    "count_sketch",
    "point_queries",
    "online_to_batch",
    "experts",
)


@dataclass(frozen=True, kw_only=True)
class Bound:
    """One statement about regret.

    ``id`` is ``family.name``; ``statement`` is plain text; ``source`` names who stated it ("as recalled"
    where the text was not at hand; the proof in the docstring counts then), ``errata`` what is wrong or
    sharper about it. ``norm`` and ``D`` say which distance D is. ``corollary`` says that the rate is part of
    the claim, ``known_false`` that the statement is kept to be caught.
    """

    id: ClassVar[str]
    statement: ClassVar[str]
    source: ClassVar[str]
    errata: ClassVar[str] = ""
    norm: ClassVar[str] = "l2"
    D: ClassVar[str] = DIAMETER
    corollary: ClassVar[bool] = False
    known_false: ClassVar[bool] = False
    kind: ClassVar[str] = "chain"
    #: The name of the link that is the claim; links after it (``"paper"``) are looser published forms.
    claim: ClassVar[str] = "C"

    @property
    def family(self) -> str:
        """The first part of the id."""
        return self.id.partition(".")[0]

    def gate(self, game: Game, T: int) -> str:
        """Why the statement does not speak of this game; empty if it does."""
        return ""

    def rule(self, game: Game, T: int) -> Any:
        """The rule of the library that the statement is about, tuned as it says."""
        raise NotImplementedError

    def observers(self, game: Game, T: int) -> list[Any]:
        """What has to be summed during the play."""
        return []

    def chain(self, trace: Trace, u: Array) -> list[Link]:
        """R <= ... <= C against u, each link with its lemma."""
        raise NotImplementedError

    def separately(self, game: Game, gamma: Array, T: int) -> Array | None:
        """C of many games, from their sums of squares; None if C needs more than these.

        ``game`` has one coordinate and is played from the middle of its domain; ``gamma`` is one number for
        each sequence of gradients.
        """
        return None

    def checks(self, trace: Trace) -> list[Check]:
        """Conditions that the proof uses at every step."""
        return [check for one in trace.observers.values() for check in one.checks()]

    def slack(self, trace: Trace) -> Any:
        """The measured rounding of the iterates, and that of the sums."""
        seen = trace.observers.values()
        measured = sum((getattr(one, "slack", 0) for one in seen), 0)
        return measured + trace.rounding(sum((getattr(one, "mass", 0) for one in seen), 0))


@dataclass(frozen=True, kw_only=True)
class MirrorBound(Bound):
    """A bound whose proof is the exact decomposition of :mod:`..chain`."""

    def gate(self, game: Game, T: int) -> str:
        """A diameter needs a bounded domain."""
        if self.D == DIAMETER and not game.domain.bounded:
            return "the domain has no diameter"
        return ""

    def observers(self, game: Game, T: int) -> list[Any]:
        """The ledger."""
        return [Ledger(game.domain, game.comparators)]

    def slack(self, trace: Trace) -> Any:
        """The metric itself is rounded: a sum of T squares, its root and a quotient."""
        ledger: Ledger = trace.observers["Ledger"]
        if ledger.last is None:
            return super().slack(trace)
        size = ledger.last.trace() * trace.game.comparators.diameter("l2") ** 2 + 2 * abs(ledger.dual)
        return super().slack(trace) + (trace.T + 8) * trace.unit * size

    def head(self, trace: Trace, u: Array) -> list[Link]:
        """R <= R_lin <= A."""
        ledger: Ledger = trace.observers["Ledger"]
        links = []
        if trace.losses is not None:
            links.append(Link("R", trace.loss - trace.hindsight().value, ""))
        links.append(Link("R_lin", trace.linear_regret(u), "f(u) >= f(x) + <g, u - x>: convexity"))
        links.append(Link("A", ledger.upper(u), "x_{t+1} is the projection in the norm of H_t"))
        return links

    def level_b(self, trace: Trace, D: Any, kind: str) -> Link:
        """The potential bounded by a diameter."""
        ledger: Ledger = trace.observers["Ledger"]
        lemma = "H_t does not decrease, and |x_t - u| <= D"
        return Link("B", ledger.potential(D, kind) + ledger.dual, lemma)


def all_bounds() -> dict[str, Bound]:
    """Every bound by its id, with its default numbers.

    Examples
    --------
    >>> "ogd.tuned" in all_bounds()
    True
    """
    found: dict[str, Bound] = {}
    for family in FAMILIES:
        for bound in import_module(f".{family}", __name__).BOUNDS:
            assert bound.id not in found, bound.id
            found[bound.id] = bound
    return found


def get(name: str) -> Bound:
    """One bound by its id.

    Raises
    ------
    HyperparameterError
        No bound has this id.
    """
    found = all_bounds()
    if name not in found:
        raise HyperparameterError(
            "bound", repr(name), f"one of {', '.join(found)}", "See memopt verify list."
        )
    return found[name]
