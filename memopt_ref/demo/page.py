"""The comparison as one self-contained HTML page: tables, plots and the JSON record, no external address."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from . import report
from .contenders import CONTENDERS
from .outcome import Comparison
from .plots import Series, bars, lines, scatter

COLOURS = {contender.key: k for k, contender in enumerate(CONTENDERS)}

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
"""


def html(comparison: Comparison) -> str:
    """The page.

    Parameters
    ----------
    comparison : Comparison

    Returns
    -------
    str
        HTML that needs nothing beside itself; the record is in its ``<script type="application/json">``.
    """
    record = report.json_text(comparison).replace("<", "\\u003c")
    sections = [_table(report.results(comparison)), _plots(comparison)]
    sections += [_table(sheet(comparison)) for sheet in report.SHEETS[1:]]
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>memopt compare</title>
<style>{STYLE}{_colours()}</style>
</head>
<body>
<h1>Optimizers on real text: perplexity against memory</h1>
<p>{escape(introduction(comparison))}</p>
<p class="note">Text: {escape(comparison.corpus.describe())}.</p>
{"".join(sections)}
<script type="application/json" id="record">{record}</script>
</body>
</html>
"""


def introduction(comparison: Comparison) -> str:
    """What was done, in a paragraph."""
    model, seeds = comparison.model, comparison.seeds
    return (
        f"A word-level language model (embedding table and softmax table of {model.vocabulary:,} rows of "
        f"{model.width}, a tanh layer between, {comparison.parameters:,} parameters) learns to predict a "
        f"word from the {model.context} before it: {comparison.steps:,} steps, sampled softmax in training, "
        "full softmax in evaluation. Every optimizer starts from the same weights and sees the same batches; "
        f"{seeds} {'seed' if seeds == 1 else 'seeds'}; each learning rate is the best of a small grid on the "
        "validation words, constant and then falling to zero over the last quarter of the steps."
    )


def _plots(comparison: Comparison) -> str:
    summaries = comparison.summaries()
    colour = {s.contender.key: COLOURS[s.contender.key] for s in summaries}
    curves = [
        Series(s.contender.key, colour[s.contender.key], tuple(p for p in s.curve if p[0])) for s in summaries
    ]
    points = [
        Series(
            s.contender.key,
            colour[s.contender.key],
            ((s.state_per_parameter, s.test_perplexity),),
            s.spread or 0.0,
        )
        for s in summaries
    ]
    # Seconds of training alone: steps times the time of one.
    seconds = [
        Series(
            line.label,
            line.colour,
            tuple((at * (s.model_seconds + s.optimizer_seconds), p) for at, p in line.points),
        )
        for s, line in zip(summaries, curves, strict=True)
    ]
    times = [(s.contender.key, (1e3 * s.model_seconds, 1e3 * s.optimizer_seconds)) for s in summaries]
    figures = (
        (
            "Learning curves (mean over seeds)",
            lines(curves, "Learning curves", "step", "validation perplexity"),
        ),
        (
            "Perplexity against memory",
            scatter(
                points, "Perplexity against memory", "bytes of optimizer state a parameter", "test perplexity"
            ),
        ),
        (
            "Learning curves against time",
            lines(seconds, "Learning curves against time", "seconds", "validation perplexity", log_x=True),
        ),
        ("Time of one step", bars(times, ("model", "optimizer"), "Time of one step", "milliseconds")),
    )
    drawn = "".join(
        f"<figure><figcaption>{escape(name)}</figcaption>{svg}</figure>\n" for name, svg in figures
    )
    return f'<h2>Plots</h2>\n<div class="plots">\n{drawn}</div>\n'


def _table(sheet: report.Sheet) -> str:
    figures = [name.startswith(">") for name in sheet.columns]
    head = "".join(
        f'<th scope="col"{_aligned(right)}>{escape(name.lstrip(">"))}</th>'
        for name, right in zip(sheet.columns, figures, strict=True)
    )
    body = "\n".join(f"<tr>{_cells(row, figures)}</tr>" for row in sheet.rows)
    note = f'<p class="note">{escape(sheet.note)}</p>\n' if sheet.note else ""
    return (
        f'<h2>{escape(sheet.title)}</h2>\n{note}<div class="wide"><table>\n<thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody></table></div>\n"
    )


def _cells(row: Sequence[str], figures: Sequence[bool]) -> str:
    outcomes = ("holds", "does not hold", "undecided")
    return "".join(
        f'<td class="{cell.replace(" ", "-")}">{cell}</td>'
        if cell in outcomes
        else f"<td{_aligned(right)}>{escape(cell)}</td>"
        for cell, right in zip(row, figures, strict=True)
    )


def _aligned(right: bool) -> str:
    return ' class="n"' if right else ""


def _colours() -> str:
    return "\n".join(
        f".line.s{k}, .leader.s{k} {{ stroke: #{c}; }} .dot.s{k}, .bar.s{k} {{ fill: #{c}; }} "
        f".fill.s{k} {{ fill: #{c}; }}"
        for k, c in enumerate(PALETTE)
    )
