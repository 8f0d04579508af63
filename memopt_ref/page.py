"""A self-contained HTML page: style, tables, figures; light and dark, wide and narrow, nothing beside it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

# Mid-tones that stand out on white and on near-black alike.
PALETTE = ("7d8590", "2f81d8", "d9541e", "2c9c5b", "a868d0", "b98300", "d04a8c", "179aa8", "8d6a4f", "6f9a1f")

STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1b1f24; --faint: #59636e; --rule: #d8dee4;
  --good: #1a7f37; --bad: #b3261e; --open: #8a6100; }
@media (prefers-color-scheme: dark) { :root { --paper: #12161b; --ink: #e4e9ee; --faint: #9aa5b1;
  --rule: #313943; --good: #4cc26d; --bad: #ff8a80; --open: #e0b040; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1120px; padding: 1.5rem 1rem 3rem; background: var(--paper);
  color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0 0 .5rem; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .4rem; }
p { margin: .4rem 0; max-width: 75ch; overflow-wrap: anywhere; }
.note { color: var(--faint); font-size: .87rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .87rem; font-variant-numeric: tabular-nums; width: 100%; }
th, td { padding: .3rem .6rem; text-align: left; border-bottom: 1px solid var(--rule); vertical-align: top; }
th { color: var(--faint); font-weight: 600; vertical-align: bottom; }
.turned { writing-mode: vertical-rl; text-align: right; white-space: nowrap; }
.n { text-align: right; }
td.n { white-space: nowrap; }
td:first-child { min-width: 9rem; }
.holds { color: var(--good); font-weight: 600; }
.does-not-hold { color: var(--bad); font-weight: 600; }
.undecided { color: var(--open); font-weight: 600; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: 1.5rem; }
figure { margin: 0; }
figcaption { font-weight: 600; margin-bottom: .3rem; }
svg { width: 100%; height: auto; display: block; }
.label, .fill { font: 12px system-ui, sans-serif; fill: var(--faint); }
.axis { fill: none; stroke: var(--faint); }
.grid { fill: none; stroke: var(--rule); }
.line { fill: none; stroke-width: 2; }
.leader { fill: none; }
.level { fill: none; stroke: var(--ink); stroke-dasharray: 5 4; }
"""


@dataclass(frozen=True)
class Sheet:
    """A table: a heading with ``>`` before it stands over figures, aligned to the right; ``^`` turns one."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


#: Words that are shown as outcomes, and their class in the style sheet.
OUTCOMES = {"holds": "holds", "does not hold": "does-not-hold", "undecided": "undecided"}


def document(name: str, body: str, *, style: str = "", record: str = "{}") -> str:
    """The page.

    Parameters
    ----------
    name : str
        Title of the window.
    body : str
        HTML.
    style : str
        Further rules of the style sheet.
    record : str
        JSON, kept in ``<script type="application/json" id="record">``.

    Returns
    -------
    str
        HTML that needs nothing beside itself.
    """
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(name)}</title>
<style>{STYLE}{_colours()}{style}</style>
</head>
<body>
{body}
<script type="application/json" id="record">{record.replace("<", chr(92) + "u003c")}</script>
</body>
</html>
"""


def figures(drawn: Iterable[tuple[str, str]]) -> str:
    """Drawings with their captions, side by side where there is room."""
    shown = "".join(f"<figure><figcaption>{escape(name)}</figcaption>{svg}</figure>\n" for name, svg in drawn)
    return f'<div class="plots">\n{shown}</div>\n'


def table(
    sheet: Sheet, outcomes: Mapping[str, str] = OUTCOMES, anchors: Collection[str] = frozenset()
) -> str:
    """A table under its heading (if it has one).

    Cells that are words of ``outcomes`` get their class; cells that are ``anchors``, names of places on the
    page, become links to them.

    Examples
    --------
    >>> '<td class="holds">holds</td>' in table(Sheet("Claims", ("claim", "outcome"), (("1 < 2", "holds"),)))
    True
    """
    right = [name.startswith(">") for name in sheet.columns]
    head = "".join(
        f'<th scope="col"{_TURNED if name.startswith("^") else _aligned(r)}>{escape(name.lstrip(">^"))}</th>'
        for name, r in zip(sheet.columns, right, strict=True)
    )
    body = "\n".join(f"<tr>{_cells(row, right, outcomes, anchors)}</tr>" for row in sheet.rows)
    title = f"<h2>{escape(sheet.title)}</h2>\n" if sheet.title else ""
    note = f'<p class="note">{escape(sheet.note)}</p>\n' if sheet.note else ""
    return (
        f'{title}{note}<div class="wide"><table>\n<thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody></table></div>\n"
    )


def _cells(
    row: Sequence[str], right: Sequence[bool], outcomes: Mapping[str, str], anchors: Collection[str]
) -> str:
    return "".join(_cell(cell, r, outcomes, anchors) for cell, r in zip(row, right, strict=True))


def _cell(cell: str, right: bool, outcomes: Mapping[str, str], anchors: Collection[str]) -> str:
    if cell in outcomes:
        return f'<td class="{outcomes[cell]}">{escape(cell)}</td>'
    text = f'<a href="#{escape(cell)}">{escape(cell)}</a>' if cell in anchors else escape(cell)
    return f"<td{_aligned(right)}>{text}</td>"


_TURNED = ' class="turned"'


def _aligned(right: bool) -> str:
    return ' class="n"' if right else ""


def _colours() -> str:
    return "\n".join(
        f".line.s{k}, .leader.s{k} {{ stroke: #{c}; }} .dot.s{k}, .bar.s{k} {{ fill: #{c}; }} "
        f".fill.s{k} {{ fill: #{c}; }}"
        for k, c in enumerate(PALETTE)
    )
