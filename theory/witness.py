"""Witnesses: loss sequences in files, as short as still reproduces, and their exact replay.

A witness is a JSON file with the gradients as decimal strings. It is replayed through the library's own rule
in fractions (no roots) or 50 digits before anything is called violated.
"""

from __future__ import annotations

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
from .bounds import Bound, get
from .geometry import Array, Box
from .play import Game, play
from .search import player, ratios
from .verify import Record, judge

FORMAT = "memopt-witness-1"


@dataclass(frozen=True)
class Witness:
    """A sequence of 1-D gradients on [-1, 1] from 0, and what it shows.

    ``gradients`` are decimal strings, ``factor`` multiplies the rate of the bound's own rule, ``ratio`` is
    what it reached when it was found.
    """

    bound: str
    factor: float
    gradients: tuple[str, ...]
    ratio: float
    found_by: str = ""

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
        return made


def shorten(bound: Bound, gradients: Array, factor: float = 1.0, at_least: float | None = None) -> Witness:
    """The fewest decimals that still reach ``at_least`` (1 if the sequence violates, else 0.999 of it)."""
    T = len(gradients)
    rule = player(bound, T, factor)
    own = float(ratios(bound, rule, np.asarray(gradients, float)[None])[0])
    goal = (1.0 if own > 1 else 0.999 * own) if at_least is None else at_least
    for decimals in range(1, 17):
        rounded = np.round(np.asarray(gradients, float), decimals)
        found = float(ratios(bound, rule, rounded[None])[0])
        if found > goal:
            break
    strings = tuple(str(Decimal(repr(float(g))).normalize()) for g in rounded)
    return Witness(bound.id, factor, strings, found)


@dataclass(frozen=True)
class Replay:
    """A witness played again: ``kind`` is "fractions" or "50 digits", numbers are strings."""

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
    try:
        return _replay(witness, Fraction, "fractions")
    except ArithmeticError:
        with exact.digits():
            return _replay(witness, Decimal, f"{exact.DIGITS} digits")


def _replay(witness: Witness, kind: Any, name: str) -> Replay:
    bound, T = get(witness.bound), len(witness.gradients)
    g = exact.array(list(witness.gradients), kind).reshape(-1, 1)
    zero = exact.array(["0"], kind)
    box = Box(exact.array(["-1"], kind), exact.array(["1"], kind))
    game = Game("witness", box, zero, lambda _: lambda t, x: g[t - 1], G=1.0, G_inf=1.0)
    # The rate is a float, as in the library; the claim is made for exactly this number.
    rule, unit = player(bound, T, witness.factor), 0.0 if kind is Fraction else 10.0 ** (1 - exact.DIGITS)
    trace = play(rule, game, T, observers=bound.observers(game, T), dtype=object, unit=unit)
    record = judge(bound, trace)
    regret = trace.linear_regret(trace.hindsight().u)
    links = {link.name: link.value for link in bound.chain(trace, trace.hindsight().u)}
    value = links[bound.claim]
    ratio = regret / value

    def text(number: Any) -> str:
        return str(number.value if isinstance(number, exact.Exact) else number)

    return Replay(name, text(regret), text(value), text(ratio), bool(regret > value), record)
