"""Witnesses: loss sequences in files, as short as still reproduces, and their exact replay.

A witness is a JSON file with the numbers of an arena as decimal strings; on an interval they are the
gradients. It is replayed through the library's own rule in fractions (no roots) or 50 digits before anything
is called violated. Rules that take eigenvalues or exponentials have no such arithmetic: they are replayed in
float64, and only what lies beyond the measured rounding counts.
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import FileFormatError
from . import exact
from .arenas import INTERVAL, arena, why_not
from .bounds import Bound, get
from .geometry import Array, Box, Domain, L2Ball
from .play import play
from .search import player, ratios
from .verify import Record, judge

FORMAT = "memopt-witness-1"

#: Of the floats that a bound's constants are.
ULP = 2.0**-52

#: Fractions with larger denominators are printed as decimals.
LARGEST = 10**6


@dataclass(frozen=True)
class Witness:
    """A sequence of losses in the bound's arena, and what it shows.

    ``gradients`` are decimal strings, round after round; ``factor`` multiplies the rate of the bound's own
    rule, ``ratio`` is what it reached when it was found. On an interval they are the gradients, on [-1, 1]
    from 0.
    """

    bound: str
    factor: float
    gradients: tuple[str, ...]
    ratio: float
    found_by: str = ""
    arena: str = INTERVAL.name

    @property
    def rounds(self) -> int:
        """Rounds."""
        return len(self.gradients) // math.prod(arena(get(self.bound)).shape)

    def save(self, path: Path) -> None:
        """As JSON."""
        fields = {"format": FORMAT, **self.__dict__, "gradients": list(self.gradients)}
        path.write_text(json.dumps(fields, indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> Witness:
        """From JSON.

        Raises
        ------
        FileFormatError
            The file is no witness.
        """
        wanted, advice = f"a witness ({FORMAT})", "Make one with memopt verify attack --save."
        try:
            fields = json.loads(path.read_text())
            if not isinstance(fields, dict) or fields.pop("format", None) != FORMAT:
                raise FileFormatError(str(path), "another format", wanted, advice)
            strings = tuple(str(Decimal(g)) for g in fields.pop("gradients"))
            made = cls(
                bound=str(fields.pop("bound")),
                factor=float(fields.pop("factor")),
                gradients=strings,
                ratio=float(fields.pop("ratio")),
                found_by=str(fields.pop("found_by", "")),
                arena=str(fields.pop("arena", INTERVAL.name)),
            )
        except (OSError, UnicodeDecodeError, ValueError, KeyError, TypeError, ArithmeticError) as error:
            if isinstance(error, FileFormatError):
                raise
            raise FileFormatError(str(path), type(error).__name__, wanted, advice) from error
        finite = all(Decimal(g).is_finite() and abs(Decimal(g)) <= 1 for g in strings)
        if not (strings and finite and 0 < made.factor < math.inf):
            raise FileFormatError(
                str(path), "numbers out of range", "gradients in [-1, 1], factor > 0", advice
            )
        place = None if why_not(get(made.bound)) else arena(get(made.bound))
        if place is None or place.name != made.arena or len(strings) % math.prod(place.shape):
            found = f"{len(strings)} numbers of the arena {made.arena!r} for {made.bound}"
            raise FileFormatError(str(path), found, "whole rounds of the bound's own arena", advice)
        return made


def shorten(bound: Bound, gradients: Array, factor: float = 1.0, at_least: float | None = None) -> Witness:
    """The fewest decimals that still reach ``at_least`` (1 if the sequence violates, else 0.999 of it).

    ``gradients`` are the arena's numbers, round after round. They are cut, not rounded: what the arena allows
    stays allowed.
    """
    place = arena(bound)
    numbers = np.asarray(gradients, float).reshape(1, -1, *place.shape)
    rule = player(bound, numbers.shape[1], factor)
    own = float(ratios(bound, rule, numbers)[0])
    goal = (1.0 if own > 1 else 0.999 * own) if at_least is None else at_least
    for decimals in range(1, 17):
        # Half a unit would be lost otherwise: 0.3 * 10 is below 3 in binary for some numbers of one digit.
        cut = np.round(np.trunc(np.round(numbers * 10.0**decimals, 8)) / 10.0**decimals, decimals) + 0.0
        found = float(ratios(bound, rule, cut)[0])
        if found > goal:
            break
    strings = tuple(str(Decimal(repr(float(g))).normalize()) for g in cut.ravel())
    return Witness(bound.id, factor, strings, found, arena=place.name)


@dataclass(frozen=True)
class Replay:
    """A witness played again: ``kind`` is "fractions", "50 digits" or "float64", numbers are strings."""

    kind: str
    regret: str
    value: str
    ratio: str
    violated: bool
    record: Record


def replay(witness: Witness) -> Replay:
    """Play a witness through the library's rule in fractions, or in 50 digits where a root is irrational.

    Examples
    --------
    >>> run = replay(Witness("ogd.tuned", 1.0, ("1", "-1", "1", "1"), 1.0))
    >>> run.kind, run.regret
    ('fractions', '2')
    """
    if not arena(get(witness.bound)).exact:
        return _in_floats(witness)
    try:
        return _exactly(witness, Fraction, "fractions")
    except ArithmeticError:
        with exact.digits():
            return _exactly(witness, Decimal, f"{exact.DIGITS} digits")


def _numbers(witness: Witness, kind: Any) -> Array:
    given = list(witness.gradients)
    made = np.array(given, float) if kind is float else exact.array(given, kind)
    return made.reshape(-1, *arena(get(witness.bound)).shape)


def _in_floats(witness: Witness) -> Replay:
    bound, T = get(witness.bound), witness.rounds
    game = arena(bound).game(_numbers(witness, float))
    trace = play(player(bound, T, witness.factor), game, T, observers=bound.observers(game, T))
    record = judge(bound, trace)
    low, value = record.measured[0], record.value
    sure = low > value + record.slack
    return Replay("float64", repr(low), repr(value), repr(record.ratio), sure, record)


def _exactly(witness: Witness, kind: Any, name: str) -> Replay:
    bound, T = get(witness.bound), witness.rounds
    declared = arena(bound).game(_numbers(witness, float))
    changes = {"domain": _lifted(declared.domain, kind), "x1": exact.array(declared.x1, kind)}
    if declared.against is not None:
        changes["against"] = _lifted(declared.against, kind)
    g = arena(bound).game(_numbers(witness, kind))
    game = dataclasses.replace(declared, begin=g.begin, **changes)
    # Rates and the constants of formulas are floats, as in the library, and claims are made for exactly these
    # numbers: iterates and regret are exact, what a proof computes from the constants is rounded.
    rule = player(bound, T, witness.factor)
    trace = play(rule, game, T, observers=bound.observers(game, T), dtype=object, unit=ULP / 2)
    record = judge(bound, trace)
    regret = trace.regret()[0]
    links = {link.name: link.value for link in bound.chain(trace, trace.hindsight().u)}
    if not record.about_regret:
        regret = next(iter(links.values()))
    value = links[bound.claim]
    sure = bool(regret > value + 8 * ULP * value)
    return Replay(name, _text(regret), _text(value), _text(regret / value), sure, record)


def _text(number: Any) -> str:
    found = number.value if isinstance(number, exact.Exact) else number
    if isinstance(found, Fraction) and found.denominator > LARGEST:
        with exact.digits():
            found = Decimal(found.numerator) / Decimal(found.denominator)
    return str(found)


def _lifted(domain: Domain, kind: Any) -> Domain:
    if isinstance(domain, Box):
        return Box(exact.array(domain.low, kind), exact.array(domain.high, kind))
    if isinstance(domain, L2Ball):
        centre = domain.centre + np.zeros(domain.shape)
        return L2Ball(domain.r, domain.size, exact.array(centre, kind))
    return domain
