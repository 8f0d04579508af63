"""Statements and losses that are wrong by one thing: what breaks the checks that no wrong rule can break."""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from ..parts.fixed_hashes import TableHash
from ..parts.sketches import CountSketch
from . import games
from .bounds.point_queries import MedianTail, MinQuery, OneHeavy, OneHeavyMin, Query
from .geometry import Array
from .losses import Quadratic
from .play import Game


@dataclass(frozen=True, kw_only=True)
class Signless(Query):
    """A count-sketch without its signs: every collision errs the same way."""

    def errors(self) -> list[Any]:
        """Those of count-min."""
        return MinQuery(x=self.x, width=self.width, depth=self.depth).errors()


@dataclass(frozen=True, kw_only=True)
class SignedMinimum(MinQuery):
    """Count-min with signs: what is added may be negative."""

    def errors(self) -> list[Any]:
        """Those of a count-sketch."""
        return Query(x=self.x, width=self.width, depth=self.depth).errors()


@dataclass(frozen=True, kw_only=True)
class HeavyMinimum(OneHeavy):
    """The minimum of the rows, with the probability of their median."""

    def hits(self) -> Fraction:
        """All rows collide."""
        return OneHeavyMin(x=self.x, width=self.width, depth=self.depth).hits()


@dataclass(frozen=True, kw_only=True)
class OneBucket(MedianTail):
    """One bucket where three are declared."""

    def one_row(self) -> Fraction:
        """Every other item collides."""
        x, others = np.array(self.x), len(self.x) - 1
        bound, bad = Fraction(3 * sum(a * a for a in self.x), self.width), 0
        for signs in itertools.product((1, -1), repeat=others):
            table = TableHash([(0,) * len(x)], [(1, *signs)])
            sketch = CountSketch.zeros(1, 1, dtype=np.int64, hash=table)
            error = int(sketch.update(np.arange(len(x)), x).query([0])[0]) - self.x[0]
            bad += error * error > bound
        return Fraction(bad, 2**others)


@dataclass(frozen=True, eq=False)
class Slanted(Quadratic):
    """A quadratic that reports half of its gradient: no subgradient."""

    def subgradient(self, x: Array) -> Array:
        """mu (x - z) / 2."""
        return super().subgradient(x) / 2


def slanted(T: int = 0) -> Game:
    """Targets at the far end, each with half of its gradient."""

    def reveal(t: int, x: Array) -> Slanted:
        return Slanted(-games.against_sign(x))

    made = games.opposite_targets()
    return dataclasses.replace(made, name="slanted", begin=lambda T: reveal)


def overstated() -> Game:
    """Losses declared three times as strongly convex as they are."""
    return dataclasses.replace(games.opposite_targets(), name="overstated", mu=3.0)


def understated() -> Game:
    """Losses declared ten times as smooth as they are."""
    return dataclasses.replace(games.opposite_targets(), name="understated", smoothness=0.1)
