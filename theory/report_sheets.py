"""The report's tables and the sheet of each theorem."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from math import isfinite

from .. import page
from ..page import Sheet
from . import catalogue, drawings, exhibits
from .bounds import Bound
from .constants import brackets
from .mutants import FORMULAS, NEGATIVES, Kill
from .suites import Entry
from .verify import Record

#: Verdicts and other words, and their class in the style sheet.
OUTCOMES = {
    "HOLDS": "holds",
    "TIGHT": "holds",
    "VACUOUS": "undecided",
    "VIOLATED": "does-not-hold",
    "UNPROVEN": "does-not-hold",
    "survives": "does-not-hold",
    "\N{BLACK CIRCLE}": "holds",
}


def overview(entries: Sequence[Entry], records: Sequence[Record]) -> Sheet:
    """One line a statement, its play with the largest ratio."""
    rows = []
    hardest = exhibits.hardest(entries, records)
    for name, (entry, record) in hardest.items():
        verdicts = [r.verdict for r in records if r.bound == name]
        counted = ", ".join(f"{verdicts.count(v)} {v}" for v in dict.fromkeys(verdicts))
        first = (name, catalogue.kind(entry.bound), record.game, str(record.T))
        rows.append((*first, f"{record.ratio:.3f}", record.verdict, counted))
    note = (
        "Each statement with the play that came closest to its bound. The names lead to their sheets below."
    )
    columns = ("statement", "kind", "hardest game", ">T", ">ratio", "verdict", "all plays")
    return Sheet("Verdicts", columns, tuple(rows), note)


def broken(records: Sequence[Record]) -> Sheet:
    """Plays with a broken link or an unexpected verdict."""
    rows = []
    for r in records:
        if r.broken or not r.ok:
            said = " or ".join(r.expected)
            seen = "yes" if r.ok else f"no: {said}"
            links = "; ".join(r.broken) or r.reason or "-"
            rows.append((r.bound, r.player, r.game, str(r.T), _number(r.ratio), r.verdict, seen, links))
    note = "What fails, and which lemma it takes with it. False statements are kept, and have to stand here."
    columns = ("statement", "player", "game", ">T", ">ratio", "verdict", "expected", "link that breaks")
    return Sheet("Broken links", columns, tuple(rows), note)


def link_name(text: str) -> str:
    """The link's name without its round and lemma.

    Examples
    --------
    >>> link_name("below (round 3): the sum of g^2 is at most nu"), link_name("B <= C: |g_t| <= G")
    ('below', 'B <= C')
    """
    return text.partition(":")[0].partition(" (")[0]


#: The links that have columns of their own; the others end a chain of two values.
NAMED_LINKS = ("R_lin <= A", "A <= B", "B <= certificate", "B <= C")


def caught_by(kill: Kill) -> set[str]:
    """The columns of the kill matrix in which a wrong rule is marked."""
    names = {link_name(text) for text in kill.dull.broken}
    return {name if " <= " not in name or name in NAMED_LINKS else "left <= C" for name in names}


def kill_matrix(kills: Sequence[Kill]) -> Sheet:
    """Wrong rules by what catches them."""
    seen = [name for kill in kills for name in sorted(caught_by(kill))]
    links = sorted(set(seen), key=lambda name: (" <= " not in name, -seen.count(name), name))
    dot = "\N{BLACK CIRCLE}"
    rows = []
    for kill in kills:
        own = caught_by(kill)
        ratio = f"{kill.sharp.ratio:.3f}"
        first = (f"{kill.mutant.id}: {kill.mutant.title}", kill.mutant.bound.id, kill.sharp.game, ratio)
        marks = [dot if kill.by_ratio else "", *(dot if link in own else "" for link in links)]
        rows.append((*first, *marks, "" if kill.killed else "survives"))
    note = (
        "Wrong rules that claim a bound. The ratio is a black box on a sharp game; links and step conditions "
        "are looked at on a dull game, where no adversary helps. memopt verify mutate plays the longest "
        "games in full length."
    )
    turned = (f"^{name}" for name in ("ratio > 1", *links))
    columns = ("wrong rule", "claims", "sharp game", ">ratio", *turned, "")
    return Sheet("Kill matrix", columns, tuple(rows), note)


def constants() -> Sheet:
    """Between what each true constant lies."""
    rows = tuple(
        (
            b.bound.id,
            f"{b.below:.4f}",
            "tends to 1" if b.tends else "",
            f"{b.above:g}",
            b.witness,
            str(b.T),
            b.why,
        )
        for b in brackets()
    )
    note = (
        "The best constant that a theorem could have, in units of the one it states: at least the ratio of "
        "the worst play known, at most 1. Where longer plays of one kind tend to 1 it cannot be improved."
    )
    columns = ("statement", ">below", "", ">above", "worst play known", ">T", "above by")
    return Sheet("True constants", columns, rows, note)


def negatives() -> Sheet:
    """What no ratio sees."""
    note = (
        "Errors that the suite does not see by a ratio, and what sees them instead; then links between two "
        "values of one statement, which no play can break."
    )
    return Sheet("Honest negatives", ("error", "seen by"), (*NEGATIVES.items(), *FORMULAS.items()), note)


def theorems(entries: Sequence[Entry], records: Sequence[Record]) -> Iterator[str]:
    """The sheets, family by family, each family with its sources and proofs."""
    hardest = exhibits.hardest(entries, records)
    for family, members in catalogue.families().items():
        text = catalogue.proof(family)
        title = text.partition("\n")[0].rstrip(".")
        yield f"<h2>{escape(family)}: {escape(title)}</h2>"
        yield f"<details><summary>Sources and proof</summary><pre>{escape(text)}</pre></details>"
        for bound in members:
            yield theorem(bound, hardest.get(bound.id, (None, None))[1], records)


def theorem(bound: Bound, record: Record | None, records: Sequence[Record]) -> str:
    """The sheet of one statement: what it says, who said it, what is wrong with it, and its hardest play."""
    said = catalogue.sheet(bound)
    terms = {"about": "About", "source": "Source", "errata": "Errata", "D": "D"}
    listed = "".join(
        f"<dt>{name}</dt><dd>{escape(str(said[key]))}</dd>" for key, name in terms.items() if said[key]
    )
    parts = [
        f'<h3 id="{escape(bound.id)}">{escape(bound.id)}',
        f'<span class="tag">{catalogue.kind(bound)}</span></h3>',
        f'<p class="formula">{escape(bound.statement)}</p>',
        f"<dl>{listed}</dl>",
    ]
    if record is not None:
        low, value = record.measured[0], record.value
        text = f"{record.player} on {record.game}, T = {record.T}: {low:.5g} against {value:.5g}, "
        style = OUTCOMES.get(record.verdict, "note")
        parts.append(
            f"<p>{escape(text)}ratio {record.ratio:.3f}, "
            f'<span class="{style}">{escape(record.verdict)}</span></p>'
        )
        parts.append(drawings.ladder(record, bound.claim))
    plays = [r for r in records if r.bound == bound.id]
    if plays:
        parts.append(f"<details><summary>{_count(len(plays), 'play')}</summary>{_plays(plays)}</details>")
    return "\n".join(parts)


def _plays(records: Sequence[Record]) -> str:
    rows = tuple(
        (r.game, str(r.T), _number(r.measured[0]), _number(r.value), _number(r.ratio), r.verdict, r.reason)
        for r in records
    )
    columns = ("game", ">T", ">measured", ">bound", ">ratio", "verdict", "")
    return page.table(Sheet("", columns, rows), OUTCOMES)


def _number(value: float) -> str:
    return f"{value:.4g}" if isfinite(value) else ""


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" + ("" if n == 1 else "s")
