"""Verdicts: play a rule, hold the chain of a theorem against it, and say which link breaks.

In this order: N/A (an assumption about the game is not met), VIOLATED (regret, at its lower end, is above the
bound), UNPROVEN (no violation was seen, but a link does not cover this player), VACUOUS (the bound is no
better than the diameter times the gradients), TIGHT (ratio at least 0.99), HOLDS.

Regret is an interval where the comparator is numeric. Its upper end is compared with the bound alone (the
chain is evaluated at the comparator found, so it covers the lower end): if the bound lies inside the interval
the verdict is UNPROVEN and the link that fails is the comparator's own. That is a matter of the solver and
not of the rule, so a record says it (``undecided``), and suites end with a code of their own.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .bounds import Bound
from .chain import broken_links
from .play import Game, Trace, play

NOT_APPLICABLE, VIOLATED, UNPROVEN = "N/A", "VIOLATED", "UNPROVEN"
VACUOUS, TIGHT, HOLDS = "VACUOUS", "TIGHT", "HOLDS"
VERDICTS = (NOT_APPLICABLE, VIOLATED, UNPROVEN, VACUOUS, TIGHT, HOLDS)

#: From this ratio on a bound counts as attained.
ATTAINED = 0.99

#: The link from the regret at the comparator found to the regret at the best one.
COMPARATOR = "comparator: the best point is known to within its certificate, and the bound lies inside"


@dataclass
class Record:
    """One bound held against one play.

    ``measured`` is the interval of what the bound bounds (the regret, or the left side of a formula),
    ``value`` the bound, ``ratio`` the lower end over the bound, ``links`` the chain and ``lemmas`` what makes
    each link at least the one before it, ``broken`` the links and step conditions that fail with their
    lemmas, ``slack`` the measured rounding.
    """

    bound: str
    game: str
    player: str
    T: int
    shape: tuple[int, ...]
    verdict: str
    reason: str = ""
    measured: tuple[float, float] = (float("nan"), float("nan"))
    value: float = float("nan")
    ratio: float = float("nan")
    links: list[tuple[str, float]] = field(default_factory=list)
    lemmas: list[str] = field(default_factory=list)
    checks: list[tuple[str, float, int | None]] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    slack: float = 0.0
    trivial: float = float("nan")
    seconds: float = 0.0
    expected: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether the verdict is one of those expected; if nothing was said, neither of the bad two."""
        if self.expected:
            return self.verdict in self.expected
        return self.verdict not in (VIOLATED, UNPROVEN)

    @property
    def undecided(self) -> bool:
        """Whether nothing is against the bound but that the best comparator is not known well enough."""
        return self.verdict == UNPROVEN and self.broken == [COMPARATOR]

    @property
    def about_regret(self) -> bool:
        """Whether the chain begins with the regret: other statements bound something else."""
        return bool(self.links) and self.links[0][0] in ("R", "R_lin")

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**self.__dict__, "ok": self.ok}


def is_nan(value: Any) -> bool:
    """Whether a link has no value."""
    return bool(value != value)


def judge(bound: Bound, trace: Trace) -> Record:
    """The verdict on a finished play, made with the bound's own observers."""
    game, T = trace.game, trace.T
    record = Record(bound.id, game.name, trace.player.name, T, game.shape, "")
    record.reason = bound.gate(game, T)
    if record.reason:
        record.verdict = NOT_APPLICABLE
        return record
    shown = bound.chain(trace, trace.hindsight().u)
    links = [link for link in shown if not is_nan(link.value)]
    if len(links) < len(shown):
        record.reason = "a black box: endpoints only"
    by_name = {link.name: link.value for link in links}
    low, high = trace.regret() if bound.kind != "formula" or "R_lin" in by_name else (links[0].value,) * 2
    slack, value = bound.slack(trace), by_name[bound.claim]
    checks = bound.checks(trace)
    broken = broken_links(links, slack)
    broken += [f"{c.name} (round {c.step}): {c.lemma}" for c in checks if not c.holds]
    if low <= value + slack < high:
        broken.append(COMPARATOR)
    record.measured, record.value, record.slack = (float(low), float(high)), float(value), float(slack)
    record.ratio = float(low / value) if value else (0.0 if low <= 0 else float("inf"))
    record.links = [(link.name, float(link.value)) for link in links]
    record.lemmas = [link.lemma for link in links]
    record.checks = [(c.name, c.worst, c.step) for c in checks]
    record.broken, record.trivial = broken, float(trace.trivial)
    if low > value + slack:
        record.verdict = VIOLATED
    elif broken:
        record.verdict = UNPROVEN
    elif bound.kind != "formula" and value >= trace.trivial:
        record.verdict = VACUOUS
    else:
        record.verdict = TIGHT if record.ratio >= ATTAINED else HOLDS
    return record


def verify(
    bound: Bound, game: Game, T: int, player: Any = None, *, norm: str = "metric", dtype: Any = np.float64
) -> Record:
    """Play the bound's own rule (or ``player``, which claims the bound) and judge it.

    Examples
    --------
    >>> from memopt_ref.theory import bounds, games
    >>> record = verify(bounds.get("ogd.tuned"), games.zigzag_run(56, 8), 64)
    >>> record.verdict, record.measured[0], record.value
    ('TIGHT', 8.0, 8.0)
    """
    start = time.perf_counter()
    reason = bound.gate(game, T)
    if reason:
        name = "" if player is None else player.name
        return Record(bound.id, game.name, name, T, game.shape, NOT_APPLICABLE, reason)
    player = bound.rule(game, T) if player is None else player
    trace = play(player, game, T, norm=norm, observers=bound.observers(game, T), dtype=dtype)
    record = judge(bound, trace)
    record.seconds = time.perf_counter() - start
    return record
