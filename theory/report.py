"""The report: one self-contained HTML page for somebody who knows the papers and doubts the constants."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite
from typing import Any

from ..page import document, table
from . import bounds, exhibits, mutants, report_figures, report_sheets, suites
from .exhibits import Curve, Drawn, Duel, Price
from .mutants import Kill
from .report_sheets import OUTCOMES
from .suites import Entry
from .verify import Record

STYLE = """
a { color: inherit; text-decoration-color: var(--faint); text-underline-offset: .15em; }
h3 { font-size: 1rem; margin: 1.8rem 0 .3rem; overflow-wrap: anywhere; }
h3 .tag { color: var(--faint); font-weight: 400; margin-left: .5em; }
.formula { font: .95rem/1.5 ui-monospace, monospace; max-width: none; margin: .3rem 0; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem .8rem; margin: .4rem 0;
  font-size: .9rem; }
dt { color: var(--faint); }
dd { margin: 0; overflow-wrap: anywhere; }
details { margin: .5rem 0; font-size: .9rem; }
summary { cursor: pointer; color: var(--faint); }
pre { white-space: pre-wrap; overflow-wrap: anywhere; font: .85rem/1.45 ui-monospace, monospace; }
.ladder td:first-child { min-width: 5.5rem; }
.ladder td:last-child { min-width: 14rem; }
.rungs { min-width: 8rem; width: 22%; background: linear-gradient(90deg, transparent calc(66.7% - 1px),
  var(--faint) calc(66.7% - 1px), var(--faint) 66.7%, transparent 66.7%); }
.rung { display: block; height: .75rem; margin-top: .3rem; background: #2f81d8; border-radius: 1px; }
"""


#: Rounds to which the longest games of wrong rules are cut, so that a page takes less than a minute.
LONGEST = 3000


@dataclass
class Findings:
    """Everything that the page shows."""

    entries: list[Entry] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)
    kills: list[Kill] = field(default_factory=list)
    curves: list[Curve] = field(default_factory=list)
    drawn: list[Drawn] = field(default_factory=list)
    duels: list[Duel] = field(default_factory=list)
    prices: list[Price] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """That of the suite; 1 if a mutant survives."""
        return suites.exit_code(self.records) or int(any(not kill.killed for kill in self.kills))


def gather(
    entries: Sequence[Entry] | None = None,
    only: str = "",
    tell: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> Findings:
    """Play everything.

    Parameters
    ----------
    entries : sequence of Entry, optional
        The core suite unless given.
    only : str
        Mutants whose id contains this.
    tell : function of (what, done, total), optional
        Progress.
    """
    chosen = suites.core() if entries is None else list(entries)
    wrong = [mutant for mutant in mutants.table() if only in mutant.id]
    found = Findings(chosen)
    total = len(chosen) + len(wrong) + len({e.bound.id for e in chosen}) + 3
    done = 0

    def note(what: str) -> None:
        nonlocal done
        done += 1
        tell(what, done, total)

    for record in suites.run(chosen):
        found.records.append(record)
        note(record.bound)
    for mutant in wrong:
        shorter = replace(mutant, T=min(mutant.T, LONGEST))
        found.kills.append(Kill(shorter, shorter.attack(), shorter.on_dull()))
        note(mutant.id)
    for entry, record in exhibits.hardest(chosen, found.records).values():
        if record.about_regret and exhibits.HORIZONS[0] <= record.T:
            found.curves.append(exhibits.curve(entry, record))
        note(f"{record.bound} against T")
    found.drawn = list(exhibits.worst_sequences())
    note("worst sequences")
    found.duels = list(exhibits.duels())
    note("Reddi's games")
    found.prices = list(exhibits.frontier())
    note("memory and regret")
    return found


def html(found: Findings) -> str:
    """The page."""
    anchors = frozenset(bounds.all_bounds())
    body = [
        "<h1>Regret bounds, held against the rules that claim them</h1>",
        *introduction(found),
        table(report_sheets.overview(found.entries, found.records), OUTCOMES, anchors),
        table(report_sheets.constants(), OUTCOMES, anchors),
        report_figures.growth(found.curves),
        table(report_sheets.broken(found.records), OUTCOMES, anchors),
        table(report_sheets.kill_matrix(found.kills), OUTCOMES, anchors),
        table(report_sheets.negatives()),
        report_figures.sequences(found.drawn),
        report_figures.duels(found.duels),
        report_figures.frontier(found.prices),
        '<h2 id="theorems">The theorems</h2>',
        *report_sheets.theorems(found.entries, found.records),
    ]
    return document("memopt verify", "\n".join(body), style=STYLE, record=json_text(found))


def introduction(found: Findings) -> Iterator[str]:
    """What was done and how to read it."""
    false = [r for r in found.records if bounds.get(r.bound).known_false]
    odd = [r for r in found.records if not r.ok]
    lost = [kill.mutant.id for kill in found.kills if not kill.killed]
    least = "\N{LESS-THAN OR EQUAL TO}"
    chain = f" {least} ".join(("R", "R_lin", "A", "B", "C"))
    named = len({r.bound for r in found.records})
    yield (
        f"<p>{len(found.records)} plays of {named} statements: each is a game of online convex optimization, "
        f"played by the library's own rule. The proof of a bound is a chain of named values, {chain}, each "
        "link with its lemma; C is made of the gradients alone, so an accumulator cannot certify itself. The "
        "tolerance is the rounding that was measured.</p>"
    )
    kept = f"{len({r.bound for r in false})} of the statements are known to be false and kept to be caught"
    surprise = f"{len(odd)} verdicts were not expected" if odd else "every verdict is the expected one"
    caught = f"{len(found.kills) - len(lost)} of {len(found.kills)} wrong rules were caught"
    yield f"<p>Here {surprise}; {caught}; {kept}.</p>"
    yield (
        '<p class="note">Verdicts: VIOLATED (the regret is above the bound), UNPROVEN (it is not, but a link '
        "of the proof does not cover this player), VACUOUS (the bound is no better than the diameter times "
        "the gradients), TIGHT (ratio at least 0.99), HOLDS, N/A (an assumption about the game is not met). "
        "A ratio is the regret over the bound.</p>"
    )


def record(found: Findings) -> dict[str, Any]:
    """Everything as plain values."""
    return {
        "exit_code": found.exit_code,
        "plays": [r.to_dict() for r in found.records],
        "mutants": [
            {
                "id": kill.mutant.id,
                "claims": kill.mutant.bound.id,
                "ratio": kill.sharp.ratio,
                "by_ratio": kill.by_ratio,
                "broken_on_dull_game": kill.dull.broken,
                "killed": kill.killed,
            }
            for kill in found.kills
        ],
        "growth": [{"bound": c.bound.id, "game": c.game, "points": c.points} for c in found.curves],
        "frontier": [dict(vars(price)) for price in found.prices],
    }


def json_text(found: Findings) -> str:
    """The record as strict JSON."""
    return json.dumps(_plain(record(found)), allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(member) for key, member in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(member) for member in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    return None if isinstance(value, float) and not isfinite(value) else value
